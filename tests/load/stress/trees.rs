//! Several processes build one tree through the mount, each from a seed of its own, in each
//! other's way. Then the mount shows what is on the lower side, translated.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, RenameFlags, XattrFlags, lsetxattr, renameat_with, symlink, unlink};
use rustix::io::write;

use crate::common::dice::Dice;
use crate::common::{
    self, Caller, Errno, Mount, OFlags, chown, get_xattr, lo, mkdir, open, put_dir, set_mode, stat,
};

/// The variable that makes this program a builder: `UID SEED COUNT ROOT`.
pub(crate) const TASK: &str = "IDSHIFT_STRESS_BUILD";

/// Who builds: root can give things away.
const BUILDERS: &[u32] = &[0, 0, 1000, 1001];
const STEPS: u64 = 4000;

pub(crate) fn parallel_trees() {
    let mount = Mount::with(common::MAP, |lower| {
        for name in ["all", "all/a", "all/b"] {
            put_dir(&lower.join(name), 0o777, lo(0), lo(0));
        }
    });
    let seed = std::env::var("IDSHIFT_STRESS_SEED").map_or(2026, |text| text.parse().unwrap());
    let start = |(number, uid): (u64, &u32)| {
        let root = mount.up("all").display().to_string();
        let task = format!("{uid} {} {STEPS} {root}", seed + number);
        Command::new("/proc/self/exe").env(TASK, task).spawn().unwrap()
    };
    let builders: Vec<_> = (0..).zip(BUILDERS).map(start).collect();
    let ended: Vec<_> = builders.into_iter().map(|mut child| child.wait().unwrap()).collect();
    assert!(ended.iter().all(std::process::ExitStatus::success), "seed {seed}: {ended:?}");
    let shown = tree(&mount.up("all"), |id| id);
    let stored = tree(&mount.low("all"), |id| id - lo(0));
    println!("parallel trees: seed {seed}, {} names in the end", shown.len());
    assert!(shown.len() > 100, "{} names", shown.len());
    for (path, line) in &shown {
        assert_eq!(Some(line), stored.get(path), "seed {seed}: {}", path.display());
    }
    assert_eq!(shown.len(), stored.len(), "seed {seed}: names are missing in the mount");
}

/// Everything below `root`: what, whose (by `whose`), which inode, and what is in it.
fn tree(root: &Path, whose: impl Fn(u32) -> u32 + Copy) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut places = vec![root.to_path_buf()];
    while let Some(path) = places.pop() {
        let seen = stat(&path);
        let kind = seen.st_mode & libc::S_IFMT;
        let content = match kind {
            libc::S_IFDIR => {
                places.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            libc::S_IFLNK => fs::read_link(&path).unwrap().display().to_string(),
            libc::S_IFREG => format!("{:x}", hash(&fs::read(&path).unwrap())),
            _ => String::new(),
        };
        let line = format!(
            "mode={:o} owner={}:{} links={} size={} inode={} xattr={:?} {content}",
            seen.st_mode,
            whose(seen.st_uid),
            whose(seen.st_gid),
            seen.st_nlink,
            seen.st_size,
            seen.st_ino,
            get_xattr(&path, "user.note").ok(),
        );
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    found
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The builder's end.
pub(crate) fn build(task: &str) -> ExitCode {
    let mut words = task.splitn(4, ' ');
    let mut next = || words.next().expect("four words");
    let uid = next().parse().unwrap();
    let mut dice = Dice(next().parse().unwrap());
    let count: u64 = next().parse().unwrap();
    let root = PathBuf::from(next());
    let strange = Caller::user(uid).umask(0o022).run(|| {
        let mut strange = BTreeMap::new();
        for number in 0..count {
            let result = step(&mut dice, &root, uid, number);
            if let Err(errno) = result
                && !common::is_in_the_way(errno)
            {
                *strange.entry(format!("{errno}")).or_insert(0) += 1;
            }
        }
        strange
    });
    if strange.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("builder {task}: {strange:?}");
    ExitCode::FAILURE
}

/// One of a few hundred places, up to four deep, that all builders share.
fn place(dice: &mut Dice, root: &Path) -> PathBuf {
    let mut path = root.join(dice.of(&["a", "b"]));
    for _ in 0..dice.below(3) {
        path.push(format!("d{}", dice.below(4)));
    }
    path.push(format!("n{}", dice.below(12)));
    path
}

/// A directory where [`place`] may lead through.
fn directory(dice: &mut Dice, root: &Path) -> PathBuf {
    let mut path = place(dice, root);
    path.set_file_name(format!("d{}", dice.below(4)));
    path
}

fn step(dice: &mut Dice, root: &Path, uid: u32, number: u64) -> Result<(), Errno> {
    let path = place(dice, root);
    match dice.below(20) {
        0..=3 => {
            let fd = open(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o666)?;
            let size = usize::try_from(dice.below(20_000)).unwrap();
            write(&fd, &format!("{uid} {number} ").into_bytes().repeat(size / 8)).map(drop)
        }
        4 => write(&open(&path, OFlags::WRONLY | OFlags::APPEND, 0)?, b"more").map(drop),
        5 | 6 => mkdir(&directory(dice, root), 0o777),
        7 => symlink(format!("../n{}", dice.below(12)), &path),
        8 => rustix::fs::link(&path, place(dice, root)),
        9 | 10 => rustix::fs::rename(&path, place(dice, root)),
        11 => rustix::fs::rename(directory(dice, root), directory(dice, root)),
        12 => {
            let flags = [RenameFlags::EXCHANGE, RenameFlags::NOREPLACE];
            let flags = flags[usize::try_from(dice.below(2)).unwrap()];
            renameat_with(CWD, &path, CWD, place(dice, root), flags)
        }
        13 | 14 => unlink(&path),
        15 => rustix::fs::rmdir(directory(dice, root)),
        16 => set_mode(&path, 0o600 | u32::try_from(dice.below(0o100)).unwrap()),
        17 => {
            let [uid, gid] = [0, 0].map(|_: u32| u32::try_from(1000 + dice.below(5)).unwrap());
            chown(&path, Some(uid), Some(gid))
        }
        18 => common::raw::truncate(&path, i64::try_from(dice.below(30_000)).unwrap()),
        _ => lsetxattr(&path, "user.note", path.as_os_str().as_bytes(), XattrFlags::empty()),
    }
}
