//! Owners kept in an extended attribute of the lower file (`ownership=xattr`).
//!
//! All lower files are the server's own. Who owns them in the mount, with which mode, and whether
//! they are links or nodes, stands in the attribute ([`crate::shift::ownership`]). The lower stat
//! is corrected by it before anything else looks at it ([`FileSystem::recorded`]); changes of
//! owner and mode go into it and leave the lower file's alone.
//!
//! Whoever may write to a lower file may write its attribute too. So one is believed only on a
//! file that is the server's and that nobody else may write to; on any other it gives nobody
//! anything.

mod change;
mod make;

pub(super) use make::{Special, private_file};

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::cred::Creator;
use crate::lower::proc_path;
use crate::lower::stat::{LowerStat, encode_rdev};
use crate::shift::id::{Id, LowerGid, LowerUid};
use crate::shift::ownership::{self, Device, Kind, Malformed, Stored};

use super::FileSystem;
use super::attr::Of;
use super::store::set_owner;

/// The most that the kernel's 32-bit device number holds (`MINORBITS`, include/linux/kdev_t.h).
const MAX_DEVICE: Device = Device { major: 0xfff, minor: 0xf_ffff };

/// Bits with which others could write to a lower file, and so to its attribute.
pub const FOR_OTHERS: u32 = 0o022;

/// Where owners are kept, and whose the lower files are.
#[derive(Debug, Clone)]
pub struct Owners {
    attribute: String,
    uid: LowerUid,
    gid: LowerGid,
}

impl Owners {
    /// Owners kept in this attribute of files of this user, who is the server's.
    pub fn new(attribute: String, uid: LowerUid, gid: LowerGid) -> Self {
        Self { attribute, uid, gid }
    }

    /// New lower files are the server's; their attribute says the rest.
    pub(super) fn creator(&self) -> Creator {
        Creator { uid: self.uid, gid: self.gid, umask: 0 }
    }

    /// Whether nobody but the server can have written this file's attribute.
    fn believes(&self, stat: &LowerStat) -> bool {
        let carries = matches!(stat.kind(), FileType::RegularFile | FileType::Directory);
        carries && stat.uid == Some(self.uid) && stat.mode & FOR_OTHERS == 0
    }

    /// What the attribute of the file behind this descriptor (also an `O_PATH` one) says; `None`
    /// without one.
    pub fn read(&self, fd: BorrowedFd<'_>) -> Result<Option<Result<Stored, Malformed>>, FsError> {
        let mut value = [0; ownership::MAX];
        match rustix::fs::getxattr(proc_path(fd), &*self.attribute, &mut value) {
            Ok(length) => Ok(Some(Stored::parse(&value[..length]))),
            Err(Errno::RANGE) => Ok(Some(Err(Malformed))),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(errno).call("getxattr"),
        }
    }

    /// Writes the attribute.
    pub fn write(&self, fd: BorrowedFd<'_>, stored: &Stored) -> Result<(), FsError> {
        let value = stored.to_string();
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(proc_path(fd), &*self.attribute, value.as_bytes(), flags)
            .call("setxattr")
    }

    /// Makes a file the server's own, with this lower mode, and writes its attribute.
    ///
    /// Others may have written an attribute before. It must not be believed for a moment, nor
    /// after a crash: so the file is nobody's until the right one is there.
    fn take_over(
        &self,
        fd: BorrowedFd<'_>,
        lower: &LowerStat,
        mode: u32,
        stored: &Stored,
    ) -> Result<(), FsError> {
        let away = self.give_away(fd, lower)?;
        let written = FileSystem::set_mode(fd, false, mode).and_then(|()| self.write(fd, stored));
        if !away {
            return written;
        }
        if written.is_err() {
            // As it was, its set-ID bits apart.
            let back = set_owner(fd, lower.uid, lower.gid)
                .and_then(|()| FileSystem::set_mode(fd, false, lower.mode & 0o1777));
            return back.and(written);
        }
        set_owner(fd, Some(self.uid), Some(self.gid))
    }

    /// Takes a file from its owner. `false` where that cannot be done because the server has only
    /// its own user's rights: then the file is that user's already.
    fn give_away(&self, fd: BorrowedFd<'_>, lower: &LowerStat) -> Result<bool, FsError> {
        let present = [lower.uid, Some(self.uid)];
        let nobodies = NOBODIES.into_iter().map(LowerUid::new).filter(|uid| !present.contains(uid));
        let mut last = FsError::Refused(Errno::PERM);
        for uid in nobodies {
            match set_owner(fd, uid, None) {
                Ok(()) => return Ok(true),
                Err(error) => last = error,
            }
        }
        if lower.uid == Some(self.uid) { Ok(false) } else { Err(last) }
    }

    /// A file without a word on it: what the server's user owns is root's in the mount, as in a
    /// user namespace of that user. What others own is theirs where the server is root, and an
    /// unmapped owner's where it is not.
    fn correct_by_owner(&self, stat: &mut LowerStat) {
        let root = self.uid == LowerUid::ROOT;
        stat.uid = match stat.uid {
            Some(uid) if uid == self.uid => Some(Id::ROOT),
            other => other.filter(|_| root),
        };
        stat.gid = match stat.gid {
            Some(gid) if gid == self.gid => Some(Id::ROOT),
            other => other.filter(|_| root),
        };
    }
}

/// Corrects a lower stat by what its attribute says.
fn correct(stat: &mut LowerStat, stored: Stored) -> Result<(), Malformed> {
    let lower = stat.kind();
    let kind = match (lower, stored.kind) {
        (FileType::RegularFile, Some(Kind::Symlink)) => FileType::Symlink,
        (FileType::RegularFile, Some(Kind::Pipe)) => FileType::Fifo,
        (FileType::RegularFile, Some(Kind::Socket)) => FileType::Socket,
        (FileType::RegularFile, Some(Kind::Block(_))) => FileType::BlockDevice,
        (FileType::RegularFile, Some(Kind::Char(_))) => FileType::CharacterDevice,
        _ => lower,
    };
    if kind != lower
        && let Some(Kind::Block(Device { major, minor }) | Kind::Char(Device { major, minor })) =
            stored.kind
    {
        if major > MAX_DEVICE.major || minor > MAX_DEVICE.minor {
            return Err(Malformed);
        }
        stat.rdev = encode_rdev(major, minor);
    }
    if kind != lower && kind != FileType::Symlink {
        stat.size = 0;
    }
    stat.uid = Some(stored.uid);
    stat.gid = Some(stored.gid);
    stat.mode = kind.as_raw_mode() | stored.mode;
    Ok(())
}

impl FileSystem {
    /// The lower stat as its attribute corrects it; as it is, without a call, where owners are not
    /// kept in attributes. A stat that was corrected stays as it is.
    ///
    /// An attribute that cannot be read as one makes the file nobody's, without any right.
    pub(super) fn recorded(&self, of: Of<'_>, stat: &LowerStat) -> Result<LowerStat, FsError> {
        let mut stat = *stat;
        let Some(owners) = self.owners.as_ref().filter(|_| !stat.recorded) else {
            return Ok(stat);
        };
        let said =
            if owners.believes(&stat) { self.reach(of, |fd| owners.read(fd))? } else { None };
        stat.recorded = true;
        match said {
            None => owners.correct_by_owner(&mut stat),
            Some(said) => {
                if said.and_then(|stored| correct(&mut stat, stored)).is_err() {
                    (stat.uid, stat.gid) = (None, None);
                    stat.mode = stat.kind().as_raw_mode();
                }
            }
        }
        Ok(stat)
    }

    /// Writes owner and mode of `stat` (a corrected one) to the attribute of the lower file, of
    /// which `lower` is the uncorrected stat. A file that has none yet, or that the attribute of
    /// would not be believed, becomes the server's own first: `EPERM` where that cannot be.
    fn record(
        owners: &Owners,
        fd: BorrowedFd<'_>,
        lower: &LowerStat,
        stat: &LowerStat,
    ) -> Result<(), FsError> {
        let (Some(uid), Some(gid)) = (stat.uid, stat.gid) else {
            return Err(FsError::UnmappedOwner);
        };
        let least = match lower.kind() {
            FileType::RegularFile => PRIVATE_FILE,
            FileType::Directory => PRIVATE_DIR,
            // Real links and nodes carry no user attributes (xattr(7)).
            _ => return Err(FsError::Refused(Errno::PERM)),
        };
        let mode = lower.mode & 0o755 | least;
        let kind = kind_of(stat);
        let stored = Stored { uid, gid, mode: stat.mode & 0o7777, kind: Some(kind) };
        if !owners.believes(lower) {
            return owners.take_over(fd, lower, mode, &stored);
        }
        if mode != lower.mode & 0o7777 {
            Self::set_mode(fd, false, mode)?;
        }
        owners.write(fd, &stored)
    }

    /// The type to list, where it is known without asking the file: a regular one may be anything.
    pub(super) fn listed_kind(&self, kind: FileType) -> FileType {
        let unsure = self.owners.is_some() && kind == FileType::RegularFile;
        if unsure { FileType::Unknown } else { kind }
    }

    /// Whether the attribute may be seen at all: what says who owns a file is for the server
    /// alone, and ACLs would be about the lower file's owner. `None` if it may.
    pub(super) fn refuses_attribute(&self, name: &[u8]) -> Option<Errno> {
        self.owners.as_ref()?;
        if ownership::is_reserved(name) {
            return Some(Errno::PERM);
        }
        name.starts_with(b"system.posix_acl_").then_some(Errno::NOTSUP)
    }
}

/// The type of a file, as it is written down.
fn kind_of(stat: &LowerStat) -> Kind {
    let device = || {
        let (major, minor) = crate::lower::stat::decode_rdev(stat.rdev);
        Device { major, minor }
    };
    match stat.kind() {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::Block(device()),
        FileType::CharacterDevice => Kind::Char(device()),
        _ => Kind::File,
    }
}

/// Users that nobody is. A user namespace need not have the first.
const NOBODIES: [u32; 2] = [u32::MAX - 1, 65_534];

/// The lower mode of what is made: the server's alone.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIR: u32 = 0o700;

/// Clears what file capabilities there are, as a change of contents or owner does.
fn clear_capability(fd: BorrowedFd<'_>) -> Result<(), FsError> {
    set_owner(fd, None, None)
}
