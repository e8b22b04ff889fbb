//! What statx(2) says of a lower file.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};

use crate::error::{CallExt, FsError};
use crate::shift::id::{LowerGid, LowerUid};
use crate::sys::handle::{self, FileHandle};

use super::{THIS_FILE, open_path_at};

/// Seconds and nanoseconds since 1970, as the kernel keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// Which file it is, so that a name, a number or a descriptor can be checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The mount through which it was reached, which says what may be done with it there; 0 before
    /// Linux 5.8.
    pub mount: u32,
    /// The device that the file is on (`st_dev`).
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
    /// Tells a reused inode number from the file that had it before: its time of birth in
    /// nanoseconds; where the file system keeps none, a hash of its file handle; else its type.
    pub born: i64,
}

/// The attributes of a lower file, ids still as stored.
#[derive(Debug, Clone, Copy)]
pub struct LowerStat {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner as stored; `None` when the file system itself has no valid one.
    pub uid: Option<LowerUid>,
    /// Group as stored.
    pub gid: Option<LowerGid>,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    /// Device number of a node, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last modification of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the file system keeps it.
    pub btime: Option<Timestamp>,
    /// Whether this is the root of a mount.
    pub mount_root: bool,
    /// The subvolume that the file is in, where there are such, from Linux 6.10 on.
    pub subvolume: Option<u64>,
    /// Whether looking into this directory mounts something on it (an export below another one).
    pub automount: bool,
    /// Whether owner, mode and type are already as an attribute of the file says, where owners
    /// are kept in attributes.
    pub recorded: bool,
    identity: Identity,
}

impl LowerStat {
    /// Of the file behind a descriptor.
    pub fn of(fd: impl AsFd) -> Result<Self, FsError> {
        let mut stat = Self::read(fd.as_fd(), OsStr::new(""), THIS_FILE)?;
        if stat.btime.is_none() {
            stat.identity.born = handle::name_to_handle(fd).map_or_else(
                |_| stat.without_birth(),
                |handle| digest(&handle, stat.without_birth()),
            );
        }
        Ok(stat)
    }

    /// Of `name` in the directory `dir`, itself if it is a symbolic link.
    pub fn at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self, FsError> {
        let stat = Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)?;
        if stat.btime.is_some() {
            return Ok(stat);
        }
        // The handle and the rest must be of the same file, whatever becomes of the name.
        Self::of(open_path_at(dir, name)?)
    }

    fn read(fd: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Result<Self, FsError> {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID | SUBVOLUME;
        rustix::fs::statx(fd, name, flags, mask).call("statx").map(|raw| Self::from(&raw))
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What stands for the time of birth where there is neither that nor a handle, or where it
    /// does not stay: two types are two files at any rate.
    fn without_birth(&self) -> i64 {
        i64::from(self.mode & 0o170_000)
    }

    /// The same where the file system gives a file another time of birth while it lives.
    pub fn identity_without_birth(&self) -> Identity {
        Identity { born: self.without_birth(), ..self.identity }
    }

    /// The file type.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

/// `STATX_SUBVOL`.
const SUBVOLUME: StatxFlags = StatxFlags::from_bits_retain(0x8000);

/// A handle as a number: file systems make no two alike, not even for a reused inode number. FUSE
/// may, when a file is replaced unseen, so the type is part of it.
fn digest(handle: &FileHandle, kind: i64) -> i64 {
    let mut hasher = DefaultHasher::new();
    (handle.kind, &handle.data, kind).hash(&mut hasher);
    hasher.finish().cast_signed()
}

impl From<&Statx> for LowerStat {
    fn from(raw: &Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
        let told = StatxFlags::from_bits_retain(raw.stx_mask);
        let has_birth = told.contains(StatxFlags::BTIME);
        let birth = raw.stx_btime;
        let has_mount = told.contains(StatxFlags::MNT_ID);
        let mount = if has_mount { raw.stx_mnt_id } else { 0 };
        let born = birth.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(birth.tv_nsec));
        Self {
            mode: u32::from(raw.stx_mode),
            nlink: raw.stx_nlink,
            uid: LowerUid::new(raw.stx_uid),
            gid: LowerGid::new(raw.stx_gid),
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            blksize: raw.stx_blksize,
            rdev: encode_rdev(raw.stx_rdev_major, raw.stx_rdev_minor),
            atime: time(raw.stx_atime),
            mtime: time(raw.stx_mtime),
            ctime: time(raw.stx_ctime),
            btime: has_birth.then(|| time(raw.stx_btime)),
            recorded: false,
            subvolume: told.contains(SUBVOLUME).then_some(raw.stx_subvol),
            automount: raw.stx_attributes.contains(StatxAttributes::AUTOMOUNT),
            mount_root: raw.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            identity: Identity {
                mount: u32::try_from(mount).unwrap_or(0),
                dev: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
                ino: raw.stx_ino,
                born: if has_birth { born } else { 0 },
            },
        }
    }
}

/// The kernel's 32-bit device number (`new_encode_dev`, include/linux/kdev_t.h), which is what
/// FUSE carries.
pub fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The two halves of a device number as FUSE carries it (`new_decode_dev`).
pub fn decode_rdev(rdev: u32) -> (u32, u32) {
    ((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_encoding() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (0xfff, 0xf_ffff)] {
            assert_eq!(decode_rdev(encode_rdev(major, minor)), (major, minor));
        }
    }
}
