//! Attributes as the mount reports them: the lower ones with the ids translated up.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::FileType;

use crate::error::{CallExt, FsError};
use crate::lower::inode::Inode;
use crate::lower::stat::{LowerStat, Timestamp};
use crate::shift::id::{INVALID, Id};
use crate::shift::idmap::Maps;

use super::FileSystem;

/// The lower file that a stat is of: the way to what the stat does not say.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// The file behind this descriptor, which may be an `O_PATH` one.
    Fd(BorrowedFd<'a>),
    /// A file that the kernel knows, or is about to know.
    Inode(&'a Inode),
    /// The same, just found under a name. What is read by the name may be another file's by now,
    /// so it must not give anybody a right; through the inode it is surely this one's.
    Listed { dir: BorrowedFd<'a>, name: &'a OsStr, inode: &'a Inode },
}

/// What the kernel is told of a file.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// The number shown as `st_ino`: the lower one, but for what lies on another device.
    pub ino: u64,
    /// What tells the file from others that have had its number.
    pub generation: u32,
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

/// Attributes, and for how long the kernel may remember them.
#[derive(Debug, Clone, Copy)]
pub struct KnownAttr {
    /// The attributes.
    pub attr: Attr,
    /// How long.
    pub valid: Duration,
}

impl FileSystem {
    /// What the mount reports of a lower file. Every lower stat goes up here, so that a policy
    /// that changes or hides what is reported is asked everywhere; without one it costs nothing.
    pub(super) fn shown(&self, of: Of<'_>, stat: &LowerStat) -> Result<Attr, FsError> {
        let mut attr = match self.owners {
            None => Attr::up(stat, &self.maps),
            Some(_) => Attr::up(&self.recorded(of, stat)?, &self.maps),
        };
        attr.generation = self.lower.generation(stat);
        attr.ino = self.lower.shown_number(stat, || self.copy_of(of).ok());
        if self.policies.change_reports() {
            attr.mode |= self.kept_bits(of, stat)?;
            self.apply_policies(&mut attr)?;
        }
        Ok(attr)
    }

    /// A descriptor of the file, which may be an `O_PATH` one.
    fn copy_of(&self, of: Of<'_>) -> Result<OwnedFd, FsError> {
        self.reach(of, |fd| rustix::io::dup(fd).call("dup"))
    }

    /// Runs `use_it` on a descriptor of the file, which may be an `O_PATH` one.
    pub(super) fn reach<T>(
        &self,
        of: Of<'_>,
        use_it: impl FnOnce(BorrowedFd<'_>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        match of {
            Of::Fd(fd) => use_it(fd),
            Of::Inode(inode) | Of::Listed { inode, .. } => {
                use_it(self.lower.path_fd(inode)?.as_fd())
            }
        }
    }
}

impl Attr {
    /// Translates lower attributes up.
    pub(super) fn up(stat: &LowerStat, maps: &Maps) -> Self {
        Self {
            ino: stat.identity().ino,
            generation: 0,
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
