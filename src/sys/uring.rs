//! A ring of io_uring through which /dev/fuse sends requests and takes answers (Linux 6.14,
//! Documentation/filesystems/fuse/fuse-io-uring.rst).
//!
//! A ring can do nothing else: before it is enabled it is restricted to commands for the one file that
//! is registered with it. The ring itself is the `io-uring` crate's.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use io_uring::squeue::{Entry128, Flags};
use io_uring::{IoUring, cqueue, opcode, register, types};
use rustix::io::Errno;

use super::shared::PAGE_BYTES;

/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;
/// `IORING_REGISTER_ENABLE_RINGS`: what a ring is still to be told after it was made.
pub const ENABLE: u32 = 12;

/// `struct fuse_uring_req_header`: where a header, the arguments of fixed length and the words
/// about both are, in bytes from the beginning of a [`Room`].
pub const HEADER: usize = 0;
/// See [`HEADER`].
pub const ARGUMENTS: usize = 128;
/// See [`HEADER`].
pub const WORDS: usize = 256;
/// How long all this is.
const HEADERS: usize = 288;
/// Where the two parts are described for the kernel.
const PARTS: usize = 320;
/// Where what has no fixed length begins: names, contents.
pub const PAYLOAD: usize = PAGE_BYTES;

/// `sqe->len`, for which the crate has no word.
const SQE_LEN: usize = 24;
const _: () =
    assert!(size_of::<Entry128>() == 128 && PARTS + 2 * size_of::<libc::iovec>() < PAYLOAD);

/// Memory for one request and its answer. What is never used of it takes no room.
#[derive(Debug)]
pub struct Room {
    address: *mut u8,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, like the memory of a `Box`.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl Room {
    /// For requests and answers whose part without fixed length is at most `payload` bytes long.
    pub fn new(payload: usize) -> Result<Self, Errno> {
        let length = PAYLOAD + payload.next_multiple_of(PAGE_BYTES);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
        let address = unsafe {
            libc::mmap64(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(super::last_errno());
        }
        Ok(Self { address: address.cast(), length })
    }

    /// Gives the memory of the payload back to the system.
    pub fn give_back(&mut self) {
        // SAFETY: within the mapping, which is anonymous and ours: what is there reads as zero then.
        unsafe {
            let payload = self.address.add(PAYLOAD).cast();
            libc::madvise(payload, self.length - PAYLOAD, libc::MADV_DONTNEED);
        }
    }

    /// Writes down where the parts are, and says where that stands.
    fn parts(&mut self) -> u64 {
        // SAFETY: all within the mapping, and aligned: a page begins at its start.
        unsafe {
            let payload = libc::iovec {
                iov_base: self.address.add(PAYLOAD).cast(),
                iov_len: self.length - PAYLOAD,
            };
            let headers = libc::iovec { iov_base: self.address.cast(), iov_len: HEADERS };
            #[allow(clippy::cast_ptr_alignment)]
            let parts = self.address.add(PARTS).cast::<libc::iovec>();
            parts.write(headers);
            parts.add(1).write(payload);
            parts as u64
        }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, and ours alone: while the kernel has it, a ring owns it and
        // shows it to nobody.
        unsafe { std::slice::from_raw_parts(self.address, self.length) }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.length) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, used by nobody after this.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// A room, and the queue that its requests come from.
#[derive(Debug)]
pub struct Entry {
    /// The queue's number, which is a CPU's.
    pub queue: u16,
    /// The room.
    pub room: Room,
}

/// How the thread that a ring is for waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For the ring alone ([`Ring::wait`]), and is not disturbed in anything else.
    ForIt,
    /// For other descriptors too (poll(2)).
    ForOthersToo,
}

/// One ring, for one thread.
pub struct Ring {
    inner: IoUring<Entry128, cqueue::Entry>,
    /// What the kernel has, by the number that it gives back with it.
    given: Vec<Option<Entry>>,
    free: Vec<usize>,
}

impl Ring {
    /// Makes a ring for commands to `device`, and for nothing else. It does not work yet: see
    /// [`Ring::enable`].
    pub fn new(device: impl AsFd, entries: u32, waits: Waits) -> Result<Self, Errno> {
        let made = || {
            let mut builder = IoUring::<Entry128, cqueue::Entry>::builder();
            builder.setup_r_disabled().setup_single_issuer().setup_submit_all().dontfork();
            if waits == Waits::ForIt {
                // Nobody who polls it would be woken.
                builder.setup_defer_taskrun();
            }
            let ring = builder.build(entries)?;
            let submitter = ring.submitter();
            submitter.register_files(&[device.as_fd().as_raw_fd()])?;
            submitter.register_restrictions(&mut [
                register::Restriction::sqe_op(opcode::UringCmd80::CODE),
                register::Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
            ])?;
            Ok(ring)
        };
        Ok(Self { inner: made().map_err(errno)?, given: Vec::new(), free: Vec::new() })
    }

    /// From now on the calling thread can use it, and no other.
    pub fn enable(&self) -> Result<(), Errno> {
        self.inner.submitter().register_enable_rings().map_err(errno)
    }

    /// Gives the kernel a room for requests of a queue.
    pub fn register(&mut self, mut entry: Entry) -> Result<(), Errno> {
        let (parts, queue) = (entry.room.parts(), entry.queue);
        let number = self.give(entry);
        self.command(REGISTER, (queue, 0), parts, 2, number)
    }

    /// Gives the kernel an answer, to the request `id`, and the room for the next one.
    pub fn commit(&mut self, entry: Entry, id: u64) -> Result<(), Errno> {
        let queue = entry.queue;
        let number = self.give(entry);
        self.command(COMMIT_AND_FETCH, (queue, id), 0, 0, number)
    }

    fn give(&mut self, entry: Entry) -> usize {
        let number = self.free.pop().unwrap_or(self.given.len());
        if number == self.given.len() {
            self.given.push(None);
        }
        self.given[number] = Some(entry);
        number
    }

    fn command(
        &mut self,
        command: u32,
        (queue, id): (u16, u64),
        address: u64,
        length: u32,
        number: usize,
    ) -> Result<(), Errno> {
        // `struct fuse_uring_cmd_req`: flags, the request's number, the queue's.
        let mut body = [0; 80];
        body[8..16].copy_from_slice(&id.to_ne_bytes());
        body[16..18].copy_from_slice(&queue.to_ne_bytes());
        let mut entry = opcode::UringCmd80::new(types::Fixed(0), command)
            .cmd(body)
            .addr((address != 0).then_some(address))
            .build()
            .user_data(number as u64);
        // SAFETY: a submission is 128 bytes, laid out as the kernel has it, of which these four say how
        // many parts there are.
        unsafe {
            let length_at = (&raw mut entry).cast::<u8>().add(SQE_LEN);
            length_at.cast::<u32>().write_unaligned(length);
        }
        loop {
            // SAFETY: what the entry points to is in `given`, untouched, until the kernel gives it back.
            if unsafe { self.inner.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.inner.submit().map_err(errno)?;
        }
    }

    /// Hands over what has been given, and waits until there is something to take.
    pub fn wait(&mut self) -> Result<(), Errno> {
        loop {
            match self.inner.submit_and_wait(1).map_err(errno) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }

    /// Hands over what has been given, and does not wait.
    pub fn submit(&mut self) -> Result<(), Errno> {
        const GET_EVENTS: u32 = 1;
        let length = u32::try_from(self.inner.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed.
        let entered =
            unsafe { self.inner.submitter().enter::<libc::sigset_t>(length, 0, GET_EVENTS, None) };
        match entered.map_err(errno) {
            Ok(_) | Err(Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// What the kernel gives back next: a room with a request in it, or with an errno what could not be
    /// done.
    pub fn take(&mut self) -> Option<(Entry, Result<(), Errno>)> {
        loop {
            let done = self.inner.completion().next()?;
            let number = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
            let Some(entry) = self.given.get_mut(number).and_then(Option::take) else { continue };
            self.free.push(number);
            let result = if done.result() < 0 {
                Err(Errno::from_raw_os_error(-done.result()))
            } else {
                Ok(())
            };
            return Some((entry, result));
        }
    }

    /// How many rooms the kernel has.
    pub fn given(&self) -> usize {
        self.given.len() - self.free.len()
    }

    /// By which number system calls know it.
    pub fn number(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring is.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("number", &self.number()).finish_non_exhaustive()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write there: until the descriptor is closed, and after it for a moment.
        self.given.drain(..).flatten().for_each(std::mem::forget);
    }
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn result_of(ring: &mut Ring, entry: &Entry128) -> i32 {
        // SAFETY: what it points to, if anything, lives for as long as the test.
        unsafe { ring.inner.submission().push(entry).unwrap() };
        ring.inner.submit_and_wait(1).unwrap();
        let done = ring.inner.completion().next().unwrap();
        done.result()
    }

    #[test]
    fn a_ring_does_nothing_but_commands_to_its_file() {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut ring = match Ring::new(&file, 2, Waits::ForIt) {
            Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => return, // forbidden, or too old
            made => made.unwrap(),
        };
        ring.enable().unwrap();
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        assert_eq!(result_of(&mut ring, &open.into()), -libc::EACCES);
        let mut byte = [0_u8];
        let read = opcode::Read::new(types::Fixed(0), byte.as_mut_ptr(), 1).build();
        assert_eq!(result_of(&mut ring, &read.into()), -libc::EACCES);
        let other = opcode::UringCmd80::new(types::Fd(file.as_raw_fd()), REGISTER).build();
        assert_eq!(result_of(&mut ring, &other), -libc::EACCES, "by another number");
        let command = opcode::UringCmd80::new(types::Fixed(0), REGISTER).build();
        assert_eq!(result_of(&mut ring, &command), -libc::EOPNOTSUPP, "allowed, and unknown there");
        let submitter = ring.inner.submitter();
        assert!(submitter.register_files_update(0, &[file.as_raw_fd()]).is_err());
    }

    #[test]
    fn a_room_reads_as_zero_when_it_was_given_back() {
        let mut room = Room::new(3 * PAGE_BYTES - 1).unwrap();
        assert_eq!(room.len(), PAYLOAD + 3 * PAGE_BYTES);
        room.fill(7);
        room.give_back();
        assert!(room[..PAYLOAD].iter().all(|&byte| byte == 7));
        assert!(room[PAYLOAD..].iter().all(|&byte| byte == 0));
    }
}
