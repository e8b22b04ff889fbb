//! `/proc/self/mountinfo`: what is mounted where (proc(5)).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// The type under which the kernel lists an idshift mount.
pub const FUSE_TYPE: &str = "fuse.idshift";

/// One mount, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number in this boot.
    pub id: u64,
    /// The number of the mount that it lies on.
    pub parent: u64,
    /// The number of the file system's device, `MAJOR:MINOR` in one.
    pub device: u64,
    /// The directory of the file system that is its root.
    pub root: OsString,
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Options of this mount: `rw,nosuid,relatime,idmapped`, …
    pub options: String,
    /// The type of the file system, with a FUSE subtype.
    pub fs_type: String,
    /// What is mounted, as the one who mounted it named it.
    pub source: OsString,
    /// Options of the file system: `rw,user_id=0,…`.
    pub fs_options: String,
}

impl Mount {
    /// Whether this program made the mount through FUSE.
    pub fn is_idshift(&self) -> bool {
        self.fs_type == FUSE_TYPE
    }

    /// Whether it is a kernel idmapped mount (listed since Linux 5.12), by whomever.
    pub fn is_idmapped(&self) -> bool {
        self.options.split(',').any(|option| option == "idmapped")
    }
}

/// All mounts that this process can see, in the kernel's order: of two on one mount point the
/// later one is on top.
pub fn read() -> io::Result<Vec<Mount>> {
    const TRIES: usize = 8;
    // The kernel hands the table out in parts, and a mount that is there can be missing where others
    // come and go between two of them. What came in one part is whole, and so is what reads the same
    // twice.
    let (mut text, parts) = table()?;
    for _ in 0..if parts > 1 { TRIES } else { 0 } {
        let (again, _) = table()?;
        if again == text {
            break;
        }
        text = again;
    }
    Ok(parse(&text))
}

/// The text, and in how many parts it came.
fn table() -> io::Result<(Vec<u8>, usize)> {
    /// More than the kernel gives at once.
    const PART: usize = 64 * 1024;
    let mut file = File::open("/proc/self/mountinfo")?;
    let (mut text, mut parts) = (Vec::new(), 0);
    loop {
        let before = text.len();
        text.resize(before + PART, 0);
        match file.read(&mut text[before..]) {
            Ok(0) => {
                text.truncate(before);
                return Ok((text, parts));
            }
            Ok(length) => {
                text.truncate(before + length);
                parts += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => text.truncate(before),
            Err(error) => return Err(error),
        }
    }
}

/// The topmost mount whose mount point is exactly `path` (absolute, without symbolic links).
pub fn at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(read()?.into_iter().rev().find(|mount| mount.mountpoint == path))
}

/// The same for a directory that was found by that path: where it is the root of no mount, nothing is
/// read.
pub fn topped(dir: impl AsFd, path: &Path) -> io::Result<Option<Mount>> {
    let stat = rustix::fs::statx(dir, "", UNASKED, StatxFlags::empty());
    let is_root = stat.ok().filter(tells_roots).map(|it| it.stx_attributes.contains(ROOT));
    if is_root == Some(false) { Ok(None) } else { at(path) }
}

/// By a descriptor, and without a word to the server of a network or FUSE file system.
const UNASKED: AtFlags = AtFlags::EMPTY_PATH.union(AtFlags::STATX_DONT_SYNC);
/// Linux 5.8.
const ROOT: StatxAttributes = StatxAttributes::MOUNT_ROOT;

fn tells_roots(stat: &Statx) -> bool {
    stat.stx_attributes_mask.contains(ROOT)
}

/// The mount that holds `path` (absolute, without symbolic links).
pub fn holding(path: &Path) -> io::Result<Option<Mount>> {
    let mounts = read()?;
    let longest = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mountpoint))
        .map(|mount| mount.mountpoint.as_os_str().len())
        .max();
    Ok(mounts.into_iter().rev().find(|mount| {
        path.starts_with(&mount.mountpoint) && Some(mount.mountpoint.as_os_str().len()) == longest
    }))
}

/// The number of the mount that a descriptor is on: from statx(2), before Linux 5.8 from `/proc`.
/// `ENOSYS` where neither says it.
pub fn id_of(fd: impl AsFd) -> Result<u64, Errno> {
    let fd = fd.as_fd();
    // Before Linux 5.8 the server of a FUSE mount would be asked all the same, which may be the one that
    // waits for this.
    match rustix::fs::statx(fd, "", UNASKED, StatxFlags::MNT_ID) {
        Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) => {
            Ok(stat.stx_mnt_id)
        }
        Ok(_) | Err(Errno::NOSYS) => told_by_proc(fd).ok_or(Errno::NOSYS),
        Err(errno) => Err(errno),
    }
}

/// The device of the file system that a descriptor is on, as [`Mount::device`] has it.
pub fn device_of(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = rustix::fs::statx(fd, "", UNASKED, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

fn told_by_proc(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Reads the text of a mountinfo file. Lines that are not in its form are skipped.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw`: after the sixth field come
/// any number of tags, then a dash.
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let mountpoint = unescape(fields.next()?).into();
    let options = text(fields.next()?);
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = unescape(fields.next()?);
    let fs_options = text(fields.next().unwrap_or_default());
    Some(Mount { id, parent, device, root, mountpoint, options, fs_type, source, fs_options })
}

fn text(field: &[u8]) -> String {
    unescape(field).to_string_lossy().into_owned()
}

/// The kernel writes blank, tab, newline, backslash and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

/// `path` without symbolic links, even if its last part is a mount whose server has died: only the
/// directory above is looked at.
pub fn resolve_mountpoint(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if is_dead(&error) => {
            let absolute = std::path::absolute(path)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) if name != OsStr::from_bytes(b"..") => {
                    Ok(parent.canonicalize()?.join(name))
                }
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// Whether this is how the kernel answers for a FUSE mount whose server has died (`ENOTCONN`) or
/// whose connection was aborted (`ECONNABORTED`).
pub fn is_dead(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read_with_and_without_tags() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,x=y\n\
            40 35 0:52 / /m\\040n\\011t\\134\\012 rw,idmapped - fuse.idshift /low\\040er rw\n\
            nonsense\n\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].id, 36);
        assert_eq!(mounts[0].device, rustix::fs::makedev(98, 0));
        assert_eq!(mounts[0].root, "/mnt1");
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt2"));
        assert_eq!(mounts[0].options, "rw,noatime");
        assert_eq!(mounts[0].fs_type, "ext3");
        assert_eq!(mounts[0].fs_options, "rw,x=y");
        assert!(!mounts[0].is_idshift() && !mounts[0].is_idmapped());
        assert_eq!(mounts[1].mountpoint, Path::new("/m n\tt\\\n"));
        assert_eq!(mounts[1].source, "/low er");
        assert!(mounts[1].is_idshift() && mounts[1].is_idmapped());
    }

    #[test]
    fn names_that_are_not_utf8_stay_as_they_are() {
        let mounts = parse(b"1 0 0:1 / /\xff\\0x rw - tmpfs none rw\n");
        assert_eq!(mounts[0].mountpoint.as_os_str().as_bytes(), b"/\xff\\0x");
    }

    #[test]
    fn the_running_systems_table_has_a_mount_for_proc() {
        let proc = holding(Path::new("/proc/self/status")).unwrap().unwrap();
        assert_eq!(proc.fs_type, "proc");
    }

    proptest::proptest! {
        #[test]
        fn no_table_makes_the_parser_panic(text: Vec<u8>) {
            parse(&text);
            unescape(&text);
        }
    }
}
