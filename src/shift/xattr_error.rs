//! Why the value of an ACL or a file capability cannot be translated.

use rustix::io::Errno;

/// A value that cannot be translated. Small and `Copy`: it lives on the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// It names an id that has no lower counterpart: `EINVAL` (`posix_acl_valid` in
    /// `fs/posix_acl.c`, `cap_convert_nscap` in `security/commoncap.c`).
    #[error("the value names an id that is not in the map")]
    UnmappedId,
    /// It is not of the format that its name promises: `EINVAL`.
    #[error("the value is malformed")]
    Malformed,
    /// It is of a format version that the kernel does not know either: `EOPNOTSUPP`
    /// (`posix_acl_from_xattr`).
    #[error("the value has an unknown format version")]
    Version,
}

impl XattrError {
    /// The errno that the caller sees.
    pub fn errno(self) -> Errno {
        match self {
            XattrError::UnmappedId | XattrError::Malformed => Errno::INVAL,
            XattrError::Version => Errno::OPNOTSUPP,
        }
    }
}
