//! File handles: a file's name that survives renames (open_by_handle_at(2)).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::check;

/// The most bytes that a handle can have (`MAX_HANDLE_SZ`, include/linux/exportfs.h).
pub const MAX_HANDLE: usize = 128;

/// The kernel's `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    data: [u8; MAX_HANDLE],
}

/// A file handle as bytes: its type, and what the file system put in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHandle {
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`.
    pub data: Box<[u8]>,
}

/// The handle of the file that `fd` refers to (name_to_handle_at(2) with `AT_EMPTY_PATH`).
pub fn name_to_handle(fd: impl AsFd) -> Result<FileHandle, Errno> {
    to_handle(fd, 0)
}

/// What the handles of an overlay say of the layer that a file is in: its file system's UUID, and
/// whether it is the upper one. The same for every file there (`struct ovl_fb`, fs/overlayfs). `None`
/// on other file systems, and before Linux 6.6.
pub fn layer_of(fd: impl AsFd) -> Option<[u8; 21]> {
    const OVERLAY: i32 = 0xf8; // OVL_FILEID_V1
    // Padding, version, magic, length, flags, type, UUID; then comes the file's own handle.
    const PADDING: usize = 3;
    const LENGTH: usize = PADDING + 2;
    const TYPE: usize = PADDING + 4;
    let handle = to_handle(fd, AT_HANDLE_FID).ok().filter(|handle| handle.kind == OVERLAY)?;
    let mut layer: [u8; 21] = handle.data.get(PADDING..PADDING + 21)?.try_into().ok()?;
    (layer[LENGTH - PADDING], layer[TYPE - PADDING]) = (0, 0);
    Some(layer)
}

/// `AT_HANDLE_FID`: a handle that tells files apart and need not lead to them (Linux 6.5).
const AT_HANDLE_FID: libc::c_int = 0x200;

fn to_handle(fd: impl AsFd, flags: libc::c_int) -> Result<FileHandle, Errno> {
    let mut raw =
        RawHandle { bytes: u32::try_from(MAX_HANDLE).unwrap_or(0), kind: 0, data: [0; MAX_HANDLE] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path is a valid empty C string, `raw` has the layout of struct file_handle with
    // room for the `bytes` that it announces, and both out-pointers live across the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    check(ret)?;
    let len = usize::try_from(raw.bytes).unwrap_or(MAX_HANDLE).min(MAX_HANDLE);
    Ok(FileHandle { kind: raw.kind, data: raw.data[..len].into() })
}

/// Opens what a handle names (open_by_handle_at(2)); needs `CAP_DAC_READ_SEARCH`. `mount` is any
/// descriptor, but not an `O_PATH` one, on the file system that the handle came from.
pub fn open_by_handle(
    mount: impl AsFd,
    kind: i32,
    data: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    if data.len() > MAX_HANDLE {
        return Err(Errno::INVAL);
    }
    let mut raw =
        RawHandle { bytes: u32::try_from(data.len()).unwrap_or(0), kind, data: [0; MAX_HANDLE] };
    raw.data[..data.len()].copy_from_slice(data);
    let flags = (flags | OFlags::CLOEXEC).bits();
    // SAFETY: `raw` has the layout of struct file_handle and outlives the call, which only reads it.
    let ret = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), &raw const raw, flags)
    };
    let fd = i32::try_from(check(ret)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
