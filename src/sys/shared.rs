//! Memory that outlives the process that uses it: a file without a name (memfd_create(2)), mapped
//! by a process and by those that it forks.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::last_errno;

/// What offsets and lengths must be multiples of.
pub const PAGE_BYTES: usize = 4096;

/// A new, empty file in memory of this length, which it keeps whatever anybody does: whoever has
/// mapped it would be killed where it has become shorter. What is never written takes no room.
pub fn create(name: &str, length: usize) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&file, length as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn map(file: BorrowedFd<'_>, offset: usize, length: usize) -> Result<*mut u8, Errno> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
    let address = unsafe {
        libc::mmap64(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if address == libc::MAP_FAILED { Err(last_errno()) } else { Ok(address.cast()) }
}

/// Words of such a file, mapped until the last clone is dropped. Whoever maps the same part sees the
/// same words, in this process or another: they are atomic.
#[derive(Debug, Clone)]
pub struct Words(Arc<Bytes>);

impl Words {
    /// Maps `count` words from the byte `offset` on (a multiple of [`PAGE_BYTES`]) of a file that
    /// is at least that long.
    pub fn map(file: impl AsFd, offset: usize, count: usize) -> Result<Self, Errno> {
        let length = count.checked_mul(size_of::<AtomicU64>()).ok_or(Errno::OVERFLOW)?;
        Ok(Self(Arc::new(Bytes::map(file.as_fd(), offset, length, None)?)))
    }

    /// Gives the memory of whole pages back to the system; they read as zero afterwards. `first` and
    /// `count` are words, multiples of a page.
    pub fn give_back(&self, first: usize, count: usize) {
        let Some(part) = self.get(first..first.saturating_add(count)) else { return };
        // SAFETY: within the mapping. To whoever reads it at the same time the words turn to zero, as by
        // a store.
        unsafe {
            let start = part.as_ptr().cast_mut().cast();
            libc::madvise(start, size_of_val(part), libc::MADV_REMOVE);
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        let (address, length) = (self.0.address, self.0.length);
        #[allow(clippy::cast_ptr_alignment)] // a page is aligned for words
        let first = address.cast::<AtomicU64>();
        // SAFETY: the mapping is this long, aligned to a page, zeroed by the kernel, and stays as long as
        // `self`; all who reach it do so through atomics. The file is sealed against being made
        // shorter.
        unsafe { std::slice::from_raw_parts(first, length / 8) }
    }
}

/// Buffers of one size in such a file, each for one user at a time.
#[derive(Debug)]
pub struct Buffers {
    offset: usize,
    size: usize,
    used: Arc<[AtomicBool]>,
}

impl Buffers {
    /// `count` buffers of `size` bytes each, from the byte `offset` on (both multiples of
    /// [`PAGE_BYTES`]).
    ///
    /// # Safety
    ///
    /// In this process nothing else may use that part of the file, and no other process may use a
    /// buffer while it is mapped here.
    pub unsafe fn new(offset: usize, size: usize, count: usize) -> Self {
        Self { offset, size, used: (0..count).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Maps one of them, in the file that [`Buffers::new`] was told of. `BUSY` while it is mapped.
    pub fn map(&self, file: impl AsFd, number: usize) -> Result<Bytes, Errno> {
        let used = self.used.get(number).ok_or(Errno::INVAL)?;
        if used.swap(true, Ordering::SeqCst) {
            return Err(Errno::BUSY);
        }
        let lease = Lease { used: Arc::clone(&self.used), number };
        let offset = self.offset + number * self.size;
        Bytes::map(file.as_fd(), offset, self.size, Some(lease))
    }
}

/// What makes a buffer free again when it is dropped.
#[derive(Debug)]
struct Lease {
    used: Arc<[AtomicBool]>,
    number: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.used[self.number].store(false, Ordering::SeqCst);
    }
}

/// A part of such a file, mapped for one user.
#[derive(Debug)]
pub struct Bytes {
    address: *mut u8,
    length: usize,
    /// Dropped after the mapping has gone.
    _lease: Option<Lease>,
}

// SAFETY: the mapping belongs to this value alone, like the memory of a `Box`.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn map(
        file: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        lease: Option<Lease>,
    ) -> Result<Self, Errno> {
        let known = rustix::fs::fstat(file)?.st_size;
        let end = offset.checked_add(length).ok_or(Errno::OVERFLOW)?;
        if u64::try_from(known).unwrap_or(0) < end as u64 {
            return Err(Errno::INVAL);
        }
        Ok(Self { address: map(file, offset, length)?, length, _lease: lease })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, and ours alone: `Buffers` gives each to one user, and the
        // words in `Words` are reached through atomics only.
        unsafe { std::slice::from_raw_parts(self.address, self.length) }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.length) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, used by nobody after this.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn two_mappings_are_one_memory_and_pages_can_be_given_back() {
        let file = create("test", 4 * PAGE_BYTES).unwrap();
        let (a, b) = (Words::map(&file, 0, 1024).unwrap(), Words::map(&file, 0, 1024).unwrap());
        a[700].store(7, SeqCst);
        a[3].store(5, SeqCst);
        assert_eq!((b[700].load(SeqCst), b[3].load(SeqCst)), (7, 5));
        a.give_back(512, 512);
        assert_eq!((b[700].load(SeqCst), b[3].load(SeqCst)), (0, 5));
        // SAFETY: one thread, which does not use both at a time.
        let buffers = unsafe { Buffers::new(0, PAGE_BYTES, 2) };
        let mut bytes = buffers.map(&file, 0).unwrap();
        assert_eq!(buffers.map(&file, 0).err(), Some(Errno::BUSY), "one user at a time");
        assert_eq!(bytes[24], 5);
        bytes[24] = 6;
        drop(bytes);
        assert_eq!(a[3].load(SeqCst), 6);
        assert!(buffers.map(&file, 0).is_ok() && buffers.map(&file, 2).is_err());
        assert!(Words::map(&file, 3 * PAGE_BYTES, 1024).is_err(), "past the end");
    }

    #[test]
    fn nobody_changes_the_length() {
        let file = create("test", 2 * PAGE_BYTES).unwrap();
        for length in [0, 4 * PAGE_BYTES] {
            assert_eq!(rustix::fs::ftruncate(&file, length as u64), Err(Errno::PERM), "{length}");
        }
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::PERM));
    }
}
