//! A tree of files as real ones are: many small, some large, a few levels deep, several owners.
//! The same numbers give the same tree.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::failure::{Result, Say};

/// A small generator of numbers (xorshift64*), good enough to scatter sizes.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from `low` to below `high`.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.next() >> 11) % (high - low)
    }
}

const WORDS: [&str; 16] = [
    "share", "locale", "python", "doc", "zone", "icons", "module", "include", "perl", "vim",
    "terminfo", "x11", "common", "data", "plugin", "message",
];
const ENDINGS: [&str; 8] = [".py", ".txt", ".h", ".so", ".mo", "", ".conf", ".png"];

/// Makes `files` files (some of them symbolic links) in about a tenth as many directories.
/// All owners are ids that every map of the subjects has.
pub(crate) fn make(root: &Path, files: usize) -> Result<()> {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let mut filling = vec![0; 1 << 18];
    filling.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&numbers.next().to_le_bytes()));
    fs::create_dir(root).say("the tree's root")?;
    let mut dirs: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    for number in 0..files.div_ceil(10) {
        let above = numbers.between(0, dirs.len() as u64);
        let (above, depth) = &dirs[usize::try_from(above).unwrap_or(0)];
        let (above, depth) = if *depth < 6 { (above, depth + 1) } else { (&dirs[0].0, 1) };
        let path = above.join(format!("{}-{number}", word(&mut numbers)));
        fs::create_dir(&path).say(path.display())?;
        own(&path, &mut numbers)?;
        dirs.push((path, depth));
    }
    for number in 0..files {
        let dir = numbers.between(1, dirs.len() as u64);
        let dir = &dirs[usize::try_from(dir).unwrap_or(0)].0;
        let ending = ENDINGS[usize::try_from(numbers.between(0, 8)).unwrap_or(0)];
        let path = dir.join(format!("{}{number}{ending}", word(&mut numbers)));
        if numbers.between(0, 25) == 0 {
            symlink(format!("../{}", word(&mut numbers)), &path).say(path.display())?;
        } else {
            let size = usize::try_from(size(&mut numbers)).unwrap_or(0);
            let start = usize::try_from(numbers.between(0, 4096)).unwrap_or(0);
            let mut file = File::create(&path).say(path.display())?;
            file.write_all(&filling[start..start + size]).say(path.display())?;
            let mode = if numbers.between(0, 10) == 0 { 0o755 } else { 0o644 };
            file.set_permissions(fs::Permissions::from_mode(mode)).say(path.display())?;
        }
        own(&path, &mut numbers)?;
    }
    Ok(())
}

/// Makes `files` empty files, a hundred in each directory.
pub(crate) fn make_flat(root: &Path, files: usize) -> Result<()> {
    fs::create_dir(root).say(root.display())?;
    for dir in 0..files.div_ceil(100) {
        let dir = root.join(format!("d{dir}"));
        fs::create_dir(&dir).say(dir.display())?;
        for file in 0..100 {
            File::create(dir.join(format!("file{file}"))).say(dir.display())?;
        }
    }
    Ok(())
}

fn word(numbers: &mut Numbers) -> &'static str {
    WORDS[usize::try_from(numbers.between(0, 16)).unwrap_or(0)]
}

/// Sizes about as in /usr: half below 3 KiB, a mean near 10 KiB.
fn size(numbers: &mut Numbers) -> u64 {
    match numbers.between(0, 1000) {
        0..600 => numbers.between(50, 4 << 10),
        600..900 => numbers.between(4 << 10, 16 << 10),
        900..985 => numbers.between(16 << 10, 64 << 10),
        _ => numbers.between(64 << 10, 200 << 10),
    }
}

fn own(path: &Path, numbers: &mut Numbers) -> Result<()> {
    let (uid, gid) = match numbers.between(0, 20) {
        0 => (1000, 1000),
        1 => (0, 4),
        2 => (33, 33),
        _ => (0, 0),
    };
    lchown(path, Some(uid), Some(gid)).say(path.display())
}
