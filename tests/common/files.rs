//! Short names for what the tests do with files. All act on the name itself, not on what a
//! symbolic link points to.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chmod, chownat, lgetxattr, llistxattr,
    lsetxattr, lstat, mkdirat, openat,
};
use rustix::io::Errno;

/// `open(2)`.
pub(crate) fn open(path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
}

/// `open(2)` of a file that must not be there yet, for reading and writing.
pub(crate) fn create(path: &Path, mode: u32) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)
}

/// `mkdir(2)`.
pub(crate) fn mkdir(path: &Path, mode: u32) -> Result<(), Errno> {
    mkdirat(CWD, path, Mode::from_raw_mode(mode))
}

/// `lchown(2)`; `None` leaves that id.
pub(crate) fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    chownat(CWD, path, uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags)
}

/// `chmod(2)`.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Errno> {
    chmod(path, Mode::from_raw_mode(mode))
}

/// A file with this content, owner and mode; set up as the test's own user, for the lower tree.
pub(crate) fn put_file(path: &Path, content: &[u8], mode: u32, uid: u32, gid: u32) {
    std::fs::write(path, content).unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    set_mode(path, mode).unwrap();
}

/// A directory with this owner and mode; see [`put_file`].
pub(crate) fn put_dir(path: &Path, mode: u32, uid: u32, gid: u32) {
    mkdir(path, 0o700).unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    set_mode(path, mode).unwrap();
}

/// `lstat(2)`.
pub(crate) fn stat(path: &Path) -> Stat {
    lstat(path).unwrap_or_else(|error| panic!("lstat {}: {error}", path.display()))
}

/// User and group of the file.
pub(crate) fn owner(path: &Path) -> (u32, u32) {
    let stat = stat(path);
    (stat.st_uid, stat.st_gid)
}

/// The permission bits, with set-user-ID, set-group-ID and sticky.
pub(crate) fn mode(path: &Path) -> u32 {
    stat(path).st_mode & 0o7777
}

/// Whether the name is there, dangling links included.
pub(crate) fn exists(path: &Path) -> bool {
    match lstat(path) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(error) => panic!("lstat {}: {error}", path.display()),
    }
}

/// `lgetxattr(2)`.
pub(crate) fn get_xattr(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65_536];
    let length = lgetxattr(path, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

/// `lsetxattr(2)`, creating or replacing.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    lsetxattr(path, name, value, XattrFlags::empty())
}

/// The names that `llistxattr(2)` gives, sorted.
pub(crate) fn list_xattr(path: &Path) -> Result<Vec<String>, Errno> {
    let mut names = vec![0; 65_536];
    let length = llistxattr(path, names.as_mut_slice())?;
    let mut names: Vec<String> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// One entry of a POSIX ACL in its xattr form (`linux/posix_acl_xattr.h`): tag, rights, id.
pub(crate) type AclEntry = (u16, u16, u32);

pub(crate) const ACL_ACCESS: &str = "system.posix_acl_access";
pub(crate) const ACL_DEFAULT: &str = "system.posix_acl_default";
pub(crate) const USER_OBJ: u16 = 0x01;
pub(crate) const USER: u16 = 0x02;
pub(crate) const GROUP_OBJ: u16 = 0x04;
pub(crate) const GROUP: u16 = 0x08;
pub(crate) const MASK: u16 = 0x10;
pub(crate) const OTHER: u16 = 0x20;
/// The id of entries that have none.
pub(crate) const NO_ID: u32 = u32::MAX;

/// The xattr value of an ACL.
pub(crate) fn acl(entries: &[AclEntry]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// The entries of an ACL's xattr value.
pub(crate) fn parse_acl(value: &[u8]) -> Vec<AclEntry> {
    assert_eq!(value[..4], 2_u32.to_le_bytes(), "the version of the ACL");
    let (entries, rest) = value[4..].as_chunks::<8>();
    assert!(rest.is_empty());
    entries
        .iter()
        .map(|[tag0, tag1, rights0, rights1, id @ ..]| {
            (
                u16::from_le_bytes([*tag0, *tag1]),
                u16::from_le_bytes([*rights0, *rights1]),
                u32::from_le_bytes(*id),
            )
        })
        .collect()
}

/// Waits until it is so; for what the kernel does after a call has returned.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("waited in vain: {what}");
}
