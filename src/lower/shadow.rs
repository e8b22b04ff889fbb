//! Set-ID bits and file capabilities that are kept in an attribute of the lower file
//! (`suid=shadow`), and moving them there and back.
//!
//! The attribute is a `trusted.*` one: whoever could write it would give himself any right inside
//! the mount, so only `CAP_SYS_ADMIN` of the initial user namespace may.

use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::shift::set_id::{SET_ID, Shadow};

use super::proc_path;
use super::stat::LowerStat;

/// The attribute's name.
pub const NAME: &str = "trusted.idshift.suid";

/// Where the kernel keeps file capabilities.
pub const CAPABILITY: &str = "security.capability";

/// More than an attribute of ours, or a file capability, ever holds.
const ROOM: usize = 256;

/// What is kept of the file behind `fd` (also an `O_PATH` one), whatever time it carries; `None`
/// where that is nothing.
pub fn read(fd: BorrowedFd<'_>) -> Result<Option<Shadow>, FsError> {
    Ok(get(&proc_path(fd), NAME)?.and_then(|value| Shadow::parse(&value)))
}

/// What is kept and counts: nothing has been written to the file behind the mount's back.
pub fn valid(fd: BorrowedFd<'_>, stat: &LowerStat) -> Result<Option<Shadow>, FsError> {
    Ok(read(fd)?.filter(|shadow| shadow.written == written(stat)))
}

/// Whether the file with this path, itself if it is a symbolic link, has the attribute at all.
pub fn exists(path: &str) -> bool {
    let asked = rustix::fs::lgetxattr_query(path, NAME);
    !matches!(asked, Err(Errno::NODATA | Errno::NOTSUP))
}

/// Keeps this for the file, or nothing.
pub fn store(fd: BorrowedFd<'_>, shadow: &Shadow) -> Result<(), FsError> {
    let path = proc_path(fd);
    if shadow.is_empty() {
        return remove(&path, NAME).map(drop);
    }
    let value = shadow.to_string();
    rustix::fs::setxattr(path, NAME, value.as_bytes(), XattrFlags::empty()).call("setxattr")
}

/// The time that marks the file's present contents.
pub fn written(stat: &LowerStat) -> (i64, u32) {
    (stat.mtime.sec, stat.mtime.nsec)
}

/// The real file capabilities.
pub fn capability(fd: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, FsError> {
    get(&proc_path(fd), CAPABILITY)
}

/// Takes the real file capabilities away; `true` if there were any.
pub fn remove_capability(fd: BorrowedFd<'_>) -> Result<bool, FsError> {
    remove(&proc_path(fd), CAPABILITY)
}

/// Gives the file real capabilities.
pub fn set_capability(fd: BorrowedFd<'_>, value: &[u8]) -> Result<(), FsError> {
    rustix::fs::setxattr(proc_path(fd), CAPABILITY, value, XattrFlags::empty()).call("setxattr")
}

/// What would be kept of a file whose real privileges were taken away: what is kept already, and
/// the real ones. `None` where there are no real ones.
pub fn with_real(fd: BorrowedFd<'_>, stat: &LowerStat) -> Result<Option<Shadow>, FsError> {
    let real = stat.mode & SET_ID;
    let capability = capability(fd)?;
    if real == 0 && capability.is_none() {
        return Ok(None);
    }
    let before = valid(fd, stat)?.unwrap_or_default();
    Ok(Some(Shadow {
        bits: before.bits | real,
        capability: capability.unwrap_or(before.capability),
        written: written(stat),
    }))
}

/// Whether the lower file system and this process's rights allow the attribute. Changes nothing:
/// it asks to replace what is not there.
pub fn supported(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    match rustix::fs::setxattr(proc_path(dir), NAME, b"", XattrFlags::REPLACE) {
        Ok(()) | Err(Errno::NODATA | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn get(path: &str, name: &str) -> Result<Option<Vec<u8>>, FsError> {
    let mut value = Vec::with_capacity(ROOM);
    match rustix::fs::getxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        // Longer than any of ours is none of ours.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno).call("getxattr"),
    }
}

/// Asks first: of an append-only file nothing can be removed, also not what is not there.
fn remove(path: &str, name: &str) -> Result<bool, FsError> {
    if let Err(Errno::NODATA | Errno::NOTSUP) = rustix::fs::getxattr_query(path, name) {
        return Ok(false);
    }
    match rustix::fs::removexattr(path, name) {
        Ok(()) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno).call("removexattr"),
    }
}
