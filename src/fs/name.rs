//! Names of directory entries, checked once.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use crate::error::FsError;

/// A name that can only mean an entry of the directory it is used in: not empty, not `.` or `..`,
/// without a slash. The kernel sends no others; a forged request might.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a OsStr);

impl<'a> Name<'a> {
    /// Checks a name as it came; `EINVAL` if it could lead out of its directory.
    pub fn new(name: &'a OsStr) -> Result<Self, FsError> {
        let bytes = name.as_bytes();
        let leads_away = matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/');
        if leads_away { Err(FsError::Refused(Errno::INVAL)) } else { Ok(Self(name)) }
    }

    /// The name.
    pub fn as_os_str(self) -> &'a OsStr {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_entries_pass() {
        for bad in ["", ".", "..", "a/b", "/", "/etc", "../x"] {
            assert!(Name::new(OsStr::new(bad)).is_err(), "{bad:?}");
        }
        for good in [&b"..."[..], b"a\nb", b"\xff\xfe", b" "] {
            assert!(Name::new(OsStr::from_bytes(good)).is_ok(), "{good:?}");
        }
    }
}
