//! Owner, mode and type of a file, kept in an extended attribute: the pure codec.
//!
//! The format is that of `user.containers.override_stat`, which container storage tools write and
//! read (`pkg/idtools` of containers/storage, fuse-overlayfs): text, without an end mark,
//!
//! ```text
//! UID:GID:MODE[:TYPE]
//! ```
//!
//! with decimal ids, the octal permission bits, set-ID and sticky bits included, and a type:
//! `file`, `dir`, `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR` or `char-MAJOR-MINOR`. Without a
//! type (as fuse-overlayfs writes it) the file is what it is below. Further fields, and further
//! parts of a type, are left to later versions and ignored, as those tools do.
//!
//! The ids in it are lower ids: where owners are kept in attributes, these are what is on disk.

use std::fmt;

use crate::shift::id::{LowerGid, LowerUid};

/// The attribute that container storage tools use.
pub const CONTAINERS: &str = "user.containers.override_stat";
/// The attributes of labels begin so.
pub const LABELS: &str = "user.idshift.";

/// The permission bits, with set-user-ID, set-group-ID and sticky.
const BITS: u32 = 0o7777;

/// The longest value that is read; those that are written have at most half of that.
pub const MAX: usize = 256;

/// What a file is, as its attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The owner.
    pub uid: LowerUid,
    /// The group.
    pub gid: LowerGid,
    /// Permission bits, with set-user-ID, set-group-ID and sticky; no type.
    pub mode: u32,
    /// The type; `None` where it is that of the lower file.
    pub kind: Option<Kind>,
}

/// A type of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, its target kept as the content of the lower file.
    Symlink,
    /// A fifo.
    Pipe,
    /// A socket.
    Socket,
    /// A block device.
    Block(Device),
    /// A character device.
    Char(Device),
}

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device.
    pub minor: u32,
}

/// Why a value is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form UID:GID:MODE[:TYPE]")]
pub struct Malformed;

impl Stored {
    /// Reads the value of an attribute.
    ///
    /// ```
    /// use idshift::shift::ownership::{Kind, Stored};
    /// let stored = Stored::parse(b"0:42:4755:file").unwrap();
    /// assert_eq!((stored.uid.raw(), stored.gid.raw(), stored.mode), (0, 42, 0o4755));
    /// assert_eq!(stored.kind, Some(Kind::File));
    /// assert!(Stored::parse(b"root:root:755").is_err());
    /// ```
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(value).map_err(|_| Malformed)?;
        let mut fields = text.split(':');
        let mut field = || fields.next().ok_or(Malformed);
        let uid = LowerUid::new(number(field()?, 10)?).ok_or(Malformed)?;
        let gid = LowerGid::new(number(field()?, 10)?).ok_or(Malformed)?;
        let mode = number(field()?, 8)? & BITS;
        let kind = fields.next().map(Kind::parse).transpose()?;
        Ok(Self { uid, gid, mode, kind })
    }
}

/// The value of the attribute, as containers/storage writes it.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:04o}", self.uid, self.gid, self.mode & BITS)?;
        self.kind.map_or(Ok(()), |kind| write!(f, ":{kind}"))
    }
}

impl Kind {
    fn parse(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.split('-');
        let name = parts.next().ok_or(Malformed)?;
        let mut device = || {
            let mut half = || number(parts.next().ok_or(Malformed)?, 10);
            Ok(Device { major: half()?, minor: half()? })
        };
        match name {
            "file" => Ok(Self::File),
            "dir" => Ok(Self::Dir),
            "symlink" => Ok(Self::Symlink),
            "pipe" => Ok(Self::Pipe),
            "socket" => Ok(Self::Socket),
            "block" => device().map(Self::Block),
            "char" => device().map(Self::Char),
            _ => Err(Malformed),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Dir => f.write_str("dir"),
            Self::Symlink => f.write_str("symlink"),
            Self::Pipe => f.write_str("pipe"),
            Self::Socket => f.write_str("socket"),
            Self::Block(Device { major, minor }) => write!(f, "block-{major}-{minor}"),
            Self::Char(Device { major, minor }) => write!(f, "char-{major}-{minor}"),
        }
    }
}

/// Digits only: the parsers of the standard library also take a plus sign.
fn number(text: &str, radix: u32) -> Result<u32, Malformed> {
    if text.starts_with('+') {
        return Err(Malformed);
    }
    u32::from_str_radix(text, radix).map_err(|_| Malformed)
}

/// The attribute that a label stands for; `None` for the one of the container tools.
///
/// Whether a label can be one: letters, digits, `-`, `_` and `.`, so that it needs no quoting
/// anywhere, and short enough that no file system refuses the name.
pub fn attribute(label: Option<&str>) -> Option<String> {
    let Some(label) = label else { return Some(CONTAINERS.to_owned()) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let usable = (1..=64).contains(&label.len()) && label.bytes().all(plain);
    usable.then(|| format!("{LABELS}{label}"))
}

/// Whether an attribute is one in which an owner may be kept. Through a mount none of them can be
/// seen or changed: each is another one's word on who owns what. There are file systems to which
/// names in capitals are the same (those of SMB servers), so they are for this.
pub fn is_reserved(name: &[u8]) -> bool {
    let begins = |with: &str| {
        name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    name.len() == CONTAINERS.len() && begins(CONTAINERS) || begins(LABELS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests;
