//! Attributes as the mount reports them: the lower ones with the ids translated up.

use rustix::fs::FileType;

use crate::lower::stat::{LowerStat, Timestamp};
use crate::shift::id::{INVALID, Id};
use crate::shift::idmap::Maps;

/// What the kernel is told of a file.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// The lower inode number, shown as `st_ino`.
    pub ino: u64,
    /// The file type.
    pub kind: FileType,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// The upper owner, or [`INVALID`]: then the kernel shows the overflow id and refuses what it
    /// refuses on an idmapped mount. Never the number 65534, which would be somebody.
    pub uid: u32,
    /// The upper group, or [`INVALID`].
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    /// Device number of a node, in the kernel's encoding.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last modification of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the lower file system keeps it.
    pub btime: Option<Timestamp>,
}

impl Attr {
    /// Translates lower attributes up.
    pub(super) fn up(stat: &LowerStat, maps: &Maps) -> Self {
        Self {
            ino: stat.identity().ino,
            kind: stat.kind(),
            mode: stat.mode,
            nlink: stat.nlink,
            uid: stat.uid.and_then(|uid| maps.up_uid(uid)).map_or(INVALID, Id::raw),
            gid: stat.gid.and_then(|gid| maps.up_gid(gid)).map_or(INVALID, Id::raw),
            size: stat.size,
            blocks: stat.blocks,
            blksize: stat.blksize,
            rdev: stat.rdev,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: stat.btime,
        }
    }
}
