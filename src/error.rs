//! Errors: of a request (small, `Copy`, ends as an errno) and of start-up (rich, ends as a message
//! and an exit code).

use std::path::PathBuf;

use rustix::io::Errno;

use crate::plain;
use crate::shift::xattr_error::XattrError;

/// Why a request was refused or failed. Small and `Copy`: it lives on the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// A system call on the lower tree failed; the caller gets its errno.
    #[error("{call}: {errno}")]
    Os {
        /// The system call, as its man page names it.
        call: &'static str,
        /// What it failed with.
        errno: Errno,
    },
    /// The caller's fsuid or fsgid has no lower counterpart, so it cannot create: `EOVERFLOW`
    /// (`fsuidgid_has_mapping` in the kernel's `fs/namei.c`).
    #[error("the caller's ids are not in the map")]
    UnmappedCaller,
    /// A new owner has no lower counterpart: `EOVERFLOW` (`notify_change` in fs/attr.c).
    #[error("the new owner is not in the map")]
    UnmappedOwner,
    /// Clearing set-user-ID or set-group-ID bits by chown(2) is a change of mode, for the owner
    /// alone: `EPERM` (`notify_change` and `setattr_prepare` in fs/attr.c).
    #[error("only the owner may do this")]
    NotOwner,
    /// An id within an ACL or a capability has no lower counterpart: `EINVAL`.
    #[error("the id is not in the map")]
    UnmappedId,
    /// The inode behind a nodeid is gone or has been replaced: `ESTALE`.
    #[error("the lower file has gone")]
    Stale,
    /// The kernel named a nodeid that the server does not know: `ESTALE`.
    #[error("unknown nodeid")]
    UnknownNode,
    /// The kernel named a file handle that the server does not know: `EBADF`.
    #[error("unknown file handle")]
    UnknownHandle,
    /// The request is malformed or not offered: carries the errno to answer.
    #[error("refused: {0}")]
    Refused(Errno),
}

impl FsError {
    /// The errno that the caller sees.
    pub fn errno(self) -> Errno {
        match self {
            FsError::Os { errno, .. } | FsError::Refused(errno) => errno,
            FsError::UnmappedCaller | FsError::UnmappedOwner => Errno::OVERFLOW,
            FsError::NotOwner => Errno::PERM,
            FsError::UnmappedId => Errno::INVAL,
            FsError::Stale | FsError::UnknownNode => Errno::STALE,
            FsError::UnknownHandle => Errno::BADF,
        }
    }
}

impl From<XattrError> for FsError {
    fn from(error: XattrError) -> Self {
        match error {
            XattrError::UnmappedId => FsError::UnmappedId,
            XattrError::Malformed | XattrError::Version => FsError::Refused(error.errno()),
        }
    }
}

/// Names the call that failed: `rustix::fs::mkdirat(…).call("mkdirat")?`.
pub trait CallExt<T> {
    /// Turns a bare errno into an [`FsError`] that says which call it came from.
    fn call(self, call: &'static str) -> Result<T, FsError>;
}

impl<T> CallExt<T> for Result<T, Errno> {
    fn call(self, call: &'static str) -> Result<T, FsError> {
        self.map_err(|errno| FsError::Os { call, errno })
    }
}

/// Why a command ended without doing its work. Each variant says which input, what is wrong with
/// it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command line or an option string is wrong.
    #[error("{0}")]
    Usage(String),
    /// A path that was given cannot be used.
    #[error("{role} '{}': {why}", plain::path(path))]
    Path {
        /// What the path was given as: "lower directory", "mount point", …
        role: &'static str,
        /// The path.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The mount itself could not be made.
    #[error("cannot mount: {0}")]
    Mount(String),
    /// The system refused something that start-up needs.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StartError {
    /// The exit code, as mount(8) defines it: 1 usage, 2 system, 32 mount failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Usage(_) => 1,
            StartError::System { .. } => 2,
            StartError::Path { .. } | StartError::Mount(_) => 32,
        }
    }
}
