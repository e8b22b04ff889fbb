//! The few ioctls on files that are safe to pass on: each has a fixed size and carries no pointer.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::check;

/// The longest value that one of these ioctls carries, in bytes.
pub const MAX_VALUE: u32 = 32;

/// An ioctl on a file whose argument is a plain value of known size (ioctl_fs(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileIoctl {
    /// `FS_IOC_GETFLAGS`: the inode flags that lsattr(1) shows.
    GetFlags,
    /// `FS_IOC_SETFLAGS`: sets them (chattr(1)).
    SetFlags,
    /// `FS_IOC_FSGETXATTR`: `struct fsxattr` (project id, extent hints, flags).
    GetXattr,
    /// `FS_IOC_FSSETXATTR`.
    SetXattr,
    /// `FS_IOC_GETVERSION`: the inode's generation.
    GetVersion,
}

// The numbers of include/uapi/linux/fs.h for 64-bit callers, and for 32-bit ones where the encoded
// size differs. The kernel reads and writes an `int` behind the ones that say `long`.
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const GETVERSION: u32 = 0x8008_7601;
const GETFLAGS_32: u32 = 0x8004_6601;
const GETVERSION_32: u32 = 0x8004_7601;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

impl FileIoctl {
    /// All of them.
    pub const ALL: [Self; 5] = [
        FileIoctl::GetFlags,
        FileIoctl::SetFlags,
        FileIoctl::GetXattr,
        FileIoctl::SetXattr,
        FileIoctl::GetVersion,
    ];

    /// The allow-list: `None` for every request that is not on it.
    pub fn from_request(request: u32) -> Option<Self> {
        Some(match request {
            GETFLAGS | GETFLAGS_32 => FileIoctl::GetFlags,
            // Not the number for 32-bit callers: the kernel turns that into this one for them, and has
            // asked nothing where a 64-bit caller uses it.
            SETFLAGS => FileIoctl::SetFlags,
            FSGETXATTR => FileIoctl::GetXattr,
            FSSETXATTR => FileIoctl::SetXattr,
            GETVERSION | GETVERSION_32 => FileIoctl::GetVersion,
            _ => return None,
        })
    }

    /// The number that the kernel knows it by.
    pub fn request(self) -> u32 {
        match self {
            FileIoctl::GetFlags => GETFLAGS,
            FileIoctl::SetFlags => SETFLAGS,
            FileIoctl::GetXattr => FSGETXATTR,
            FileIoctl::SetXattr => FSSETXATTR,
            FileIoctl::GetVersion => GETVERSION,
        }
    }

    /// How many bytes the kernel reads or writes behind the pointer.
    pub fn size(self) -> usize {
        match self {
            FileIoctl::GetFlags | FileIoctl::SetFlags | FileIoctl::GetVersion => 4,
            FileIoctl::GetXattr | FileIoctl::SetXattr => 28,
        }
    }

    /// The bits of a value that make a file immutable or append-only.
    pub fn for_the_privileged(self, value: &[u8; 32]) -> u32 {
        let word = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
        match self {
            // FS_IMMUTABLE_FL and FS_APPEND_FL.
            FileIoctl::GetFlags | FileIoctl::SetFlags => word & 0x30,
            // FS_XFLAG_IMMUTABLE and FS_XFLAG_APPEND.
            FileIoctl::GetXattr | FileIoctl::SetXattr => word & 0x18,
            FileIoctl::GetVersion => 0,
        }
    }

    /// What gives the value that it would change; itself if it changes nothing.
    #[must_use]
    pub fn reading(self) -> Self {
        match self {
            FileIoctl::SetFlags => FileIoctl::GetFlags,
            FileIoctl::SetXattr => FileIoctl::GetXattr,
            other => other,
        }
    }

    /// Whether it changes the file (and so takes a value) rather than giving one back.
    pub fn sets(self) -> bool {
        matches!(self, FileIoctl::SetFlags | FileIoctl::SetXattr)
    }
}

/// Puts a question to the file system of `file`: an ioctl whose number says that it reads and writes
/// exactly `buffer`. Returns what the ioctl returns. `EINVAL` for any other number.
pub fn exchange<const N: usize>(
    file: impl AsFd,
    request: u32,
    buffer: &mut [u8; N],
) -> Result<usize, Errno> {
    // _IOWR: both directions, and the size in 14 bits (include/uapi/asm-generic/ioctl.h).
    if request >> 30 != 3 || usize::try_from(request >> 16 & 0x3fff) != Ok(N) {
        return Err(Errno::INVAL);
    }
    // SAFETY: FUSE reads and writes as many bytes as the number says; other file systems do not know
    // the number. `buffer` has that many, aligned for bytes only.
    let ret = unsafe {
        libc::ioctl(file.as_fd().as_raw_fd(), libc::Ioctl::from(request), buffer.as_mut_ptr())
    };
    check(ret).map(|length| usize::try_from(length).unwrap_or(0))
}

/// Runs `ioctl` on `file`. `value` holds its argument and must be at least [`FileIoctl::size`] long.
pub fn file_ioctl(file: impl AsFd, ioctl: FileIoctl, value: &mut [u8; 32]) -> Result<(), Errno> {
    // SAFETY: every request in the enum reads or writes at most 28 bytes behind the pointer, and
    // `value` has 32, aligned for bytes only, which is all that copy_from_user/copy_to_user need.
    let ret = unsafe {
        libc::ioctl(
            file.as_fd().as_raw_fd(),
            libc::Ioctl::from(ioctl.request()),
            value.as_mut_ptr(),
        )
    };
    check(ret).map(drop)
}
