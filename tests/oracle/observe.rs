//! What can be seen of a tree: through the mount, and below it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::calls::attributes::{describe, statx};
use crate::calls::data::hash;
use crate::calls::xattrs::{names, value_text};
use crate::calls::{check, errno_name};
use crate::step::encode;

/// One line for what is at `path`, seen through the mount, with what the lower file at `lower`
/// must agree in: inode number, times, size, links.
pub fn upper(path: &Path, lower: &Path) -> String {
    let seen = describe_entry(path);
    let (path, below) = (c_path(path), c_path(lower));
    let agree = match (basic(&path), basic(&below)) {
        (Ok(upper), Ok(lower)) => {
            format!("{}{}", difference(&upper, &lower), births(&path, &below))
        }
        (Err(upper), Err(lower)) if upper == lower => String::new(),
        (upper, lower) => format!(
            " AND-BELOW upper:{} lower:{}",
            upper.err().map_or("there".into(), errno_name),
            lower.err().map_or("there".into(), errno_name)
        ),
    };
    format!("{seen}{agree}")
}

/// All of a tree through the mount: path → line.
pub fn upper_tree(root: &Path, lower: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(root, "", &mut |relative| {
        found.insert(show(relative), upper(&root.join(relative), &lower.join(relative)));
    });
    found
}

/// All of a tree on the lower side, everything that is not a time: path → line.
pub fn lower_tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    walk(root, "", &mut |relative| {
        let path = root.join(relative);
        // Hard links show as the same number; the number itself is the file system's own.
        let inode = stat(&path).map_or(0, |stat| {
            let next = numbers.len();
            *numbers.entry(stat.stx_ino).or_insert(next)
        });
        found.insert(show(relative), format!("{} inode#{inode}", describe_entry(&path)));
    });
    found
}

/// A lower tree's set-ID bits and file capabilities, each with its path. Looking leaves no trace:
/// access times are compared with what the mount remembers of them.
pub fn privileges(root: &Path) -> BTreeSet<(PathBuf, u32)> {
    /// Not a bit of any mode.
    const CAPABILITY: u32 = 1 << 31;
    let mut found = BTreeSet::new();
    let mut places = vec![root.to_path_buf()];
    while let Some(path) = places.pop() {
        let Ok(stat) = stat(&path) else { continue };
        let mode = u32::from(stat.stx_mode);
        let bits = [libc::S_ISUID, libc::S_ISGID].into_iter().filter(|bit| mode & bit != 0);
        found.extend(bits.map(|bit| (path.clone(), bit)));
        match mode & libc::S_IFMT {
            libc::S_IFDIR => places.extend(quiet_list(&path)),
            libc::S_IFREG
                if attributes(&path).iter().any(|(name, _)| name == "security.capability") =>
            {
                found.insert((path, CAPABILITY));
            }
            _ => {}
        }
    }
    let inside = |(path, bit): (PathBuf, u32)| {
        (path.strip_prefix(root).map(Path::to_path_buf).unwrap_or_default(), bit)
    };
    found.into_iter().map(inside).collect()
}

/// What is in a directory, without moving its access time.
fn quiet_list(path: &Path) -> Vec<PathBuf> {
    let opened = open_quietly(path, libc::O_RDONLY | libc::O_DIRECTORY);
    let listed = opened.ok().and_then(|dir| rustix::fs::Dir::new(dir).ok());
    let names = listed.into_iter().flatten().flatten().filter_map(|entry| {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        (name != "." && name != "..").then(|| path.join(name))
    });
    names.collect()
}

/// The lines in which two trees differ: what, left, right.
pub fn differences(
    left: &BTreeMap<String, String>,
    right: &BTreeMap<String, String>,
) -> Vec<(String, String, String)> {
    let paths: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let line = |side: &BTreeMap<String, String>, path| {
        side.get(path).cloned().unwrap_or_else(|| "not there".to_owned())
    };
    let pairs = paths.into_iter().map(|path| (path.clone(), line(left, path), line(right, path)));
    pairs.filter(|(_, left, right)| left != right).collect()
}

fn show(relative: &Path) -> String {
    if relative.as_os_str().is_empty() {
        ".".into()
    } else {
        encode(relative.as_os_str().as_bytes())
    }
}

fn walk(root: &Path, relative: impl AsRef<Path>, visit: &mut impl FnMut(&Path)) {
    let relative = relative.as_ref();
    visit(relative);
    let path = root.join(relative);
    if !std::fs::symlink_metadata(&path).is_ok_and(|seen| seen.is_dir()) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(&path) else { return };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        walk(root, relative.join(name), visit);
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn stat(path: &Path) -> Result<libc::statx, i32> {
    basic(&c_path(path))
}

/// Without the birth time, for which a FUSE mount asks its server again: what the kernel remembers
/// would never be looked at.
fn basic(path: &std::ffi::CStr) -> Result<libc::statx, i32> {
    statx(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, libc::STATX_BASIC_STATS)
}

fn births(path: &std::ffi::CStr, below: &std::ffi::CStr) -> &'static str {
    let birth = |path| {
        let seen =
            statx(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, libc::STATX_BTIME).ok()?;
        let given = seen.stx_mask & libc::STATX_BTIME != 0;
        given.then_some((seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec))
    };
    if birth(path) == birth(below) { "" } else { " NOT-AS-BELOW:btime" }
}

/// What the mount must take from below as it is.
fn difference(upper: &libc::statx, lower: &libc::statx) -> String {
    let when = |time: &libc::statx_timestamp| (time.tv_sec, time.tv_nsec);
    let checks = [
        ("inode", upper.stx_ino == lower.stx_ino),
        ("links", upper.stx_nlink == lower.stx_nlink),
        ("size", upper.stx_size == lower.stx_size),
        ("blocks", upper.stx_blocks == lower.stx_blocks),
        ("mtime", when(&upper.stx_mtime) == when(&lower.stx_mtime)),
        ("ctime", when(&upper.stx_ctime) == when(&lower.stx_ctime)),
        (
            "atime",
            u32::from(lower.stx_mode) & libc::S_IFMT == libc::S_IFLNK
                || when(&upper.stx_atime) == when(&lower.stx_atime),
        ),
    ];
    let wrong = checks.iter().filter(|(_, equal)| !equal);
    wrong.map(|(name, _)| format!(" NOT-AS-BELOW:{name}")).collect()
}

fn describe_entry(path: &Path) -> String {
    let stat = match stat(path) {
        Ok(stat) => stat,
        Err(errno) => return errno_name(errno),
    };
    let mut line = describe(&stat);
    let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
    let contents = match kind {
        libc::S_IFREG => content(path),
        libc::S_IFDIR => listing(path),
        libc::S_IFLNK => std::fs::read_link(path)
            .map_or_else(|e| format!("{e}"), |target| encode(target.as_os_str().as_bytes())),
        _ => String::new(),
    };
    line.push_str(&format!(" contents={contents}"));
    for (name, value) in attributes(path) {
        line.push_str(&format!(" {name}={value}"));
    }
    line
}

/// Opens without moving the access time where that is allowed.
fn open_quietly(path: &Path, flags: i32) -> Result<std::fs::File, String> {
    use std::os::fd::FromRawFd;
    let path = c_path(path);
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOATIME;
    // SAFETY: a live C string; the new descriptor is owned by nothing else.
    unsafe {
        let fd = check(libc::openat(libc::AT_FDCWD, path.as_ptr(), flags)).map_err(errno_name)?;
        Ok(std::fs::File::from_raw_fd(fd))
    }
}

/// A hash of the first and last part; tests that write elsewhere look for themselves.
fn content(path: &Path) -> String {
    use std::os::unix::fs::FileExt;
    let file = match open_quietly(path, libc::O_RDONLY) {
        Ok(file) => file,
        Err(errno) => return errno,
    };
    let size = file.metadata().map_or(0, |seen| seen.len());
    let mut bytes = vec![0; 1 << 20];
    let mut read = |offset| match file.read_at(&mut bytes, offset) {
        Ok(got) => format!("{got}:{:x}", hash(&bytes[..got])),
        Err(error) => errno_name(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let start = read(0);
    if size > 1 << 20 { format!("{start}+{}", read(size - (1 << 20))) } else { start }
}

fn listing(path: &Path) -> String {
    // Looked at once more in `walk`; here it is the answer to opening and listing that counts.
    match open_quietly(path, libc::O_RDONLY | libc::O_DIRECTORY) {
        Ok(_) => {}
        Err(errno) => return errno,
    }
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let mut names: Vec<_> = entries
                .map(|entry| match entry {
                    Ok(entry) => encode(entry.file_name().as_bytes()),
                    Err(error) => format!("{error}"),
                })
                .collect();
            names.sort();
            names.join(",")
        }
        Err(error) => errno_name(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

fn attributes(path: &Path) -> Vec<(String, String)> {
    let path = c_path(path);
    let mut room = vec![0_u8; 65_536];
    // SAFETY: live C strings; the buffer is as long as it says.
    unsafe {
        let listed = libc::llistxattr(path.as_ptr(), room.as_mut_ptr().cast(), room.len());
        let Ok(listed) = check(listed) else {
            return vec![("xattrs".into(), errno_name(crate::calls::errno()))];
        };
        let list = names(&room[..listed.cast_unsigned()]);
        let read = |name: String| {
            let c_name = crate::calls::text(&name);
            let mut value = vec![0_u8; 65_536];
            let got = libc::lgetxattr(
                path.as_ptr(),
                c_name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            );
            let value = match check(got) {
                Ok(got) => value_text(&name, &value[..got.cast_unsigned()]),
                Err(errno) => errno_name(errno),
            };
            (name, value)
        };
        list.into_iter().map(read).collect()
    }
}
