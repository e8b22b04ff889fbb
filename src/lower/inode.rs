//! One inode that the kernel knows.

use std::ffi::OsStr;

use rustix::fs::FileType;

use super::stat::Identity;
use crate::state::slab::Piece;

/// An inode: who it is. How to find it again once its descriptor has been closed is in its row, which
/// [`super::table`] looks after.
#[derive(Debug, Clone, Copy)]
pub struct Inode {
    /// The number by which the kernel calls it.
    pub nodeid: u64,
    /// The lower file that it stands for.
    pub identity: Identity,
    /// Its type, which an identity never changes.
    pub kind: FileType,
    /// Where the rest is, as long as the kernel knows the inode.
    pub(super) row: Piece,
}

/// A name that stands for an inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory's nodeid.
    pub parent: u64,
    /// The name in it.
    pub name: Box<OsStr>,
}

/// What the kernel was told of an inode by which it judges without asking again, as it is shown: an
/// owner and a group, which may be invalid, and some bits of the mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Of the permission bits those that matter to whoever asks.
    pub mode: u32,
}

/// How a descriptor is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator {
    /// The root: its descriptor is always open.
    Root,
    /// From the parent, by the name that it was last seen under; checked against the identity.
    Walk(Place),
    /// By file handle, whatever its name is now.
    Handle {
        /// The handle's type.
        kind: i32,
        /// The handle's bytes.
        data: Box<[u8]>,
    },
}

impl Inode {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
}
