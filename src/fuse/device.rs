//! The connection's descriptor: requests are read from it, replies and notices written to it.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::reply::Sink;
use super::root;
use super::wire::{
    EXPIRE_ONLY, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NOTIFY_RESEND, NOTIFY_RETRIEVE,
    NotifyInvalEntry, NotifyInvalInode, NotifyRetrieve, OutHeader,
};

/// An open /dev/fuse that belongs to a mount.
#[derive(Clone)]
pub(super) struct Device(Arc<OwnedFd>);

/// What became of an attempt to read a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// A request of this many bytes.
    Request(usize),
    /// The file system has been unmounted, or the connection aborted.
    Ended,
}

impl Device {
    /// Takes over the descriptor; reading from it blocks, whoever opened it.
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        if flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
        }
        Ok(Self(Arc::new(fd)))
    }

    /// Reads a request, and sleeps until there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Read, Errno> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                // Nothing at all: the end of a socket that stands in /dev/fuse's place.
                Ok(0) | Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Read::Ended),
                Ok(length) => return Ok(Read::Request(length)),
                // The request was taken back while it was being read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Whether a request is waiting just now, or the connection has ended: reading would not sleep.
    pub(super) fn has_request(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Answers the request `unique`. `Err(NOENT)` means that nobody waits for it any more.
    pub(super) fn reply(&self, unique: u64, parts: &[&[u8]]) -> Result<(), Errno> {
        self.send(unique, 0, parts)
    }

    /// Answers the request `unique` with an errno.
    pub(super) fn reply_error(&self, unique: u64, errno: Errno) -> Result<(), Errno> {
        self.send(unique, -errno.raw_os_error(), &[])
    }

    /// Has the kernel ask for an inode's attributes before it uses them again
    /// (`FUSE_NOTIFY_INVAL_INODE`). `NOENT` if it does not know the inode.
    pub(super) fn forget_attributes(&self, nodeid: u64) -> Result<(), Errno> {
        self.forget(nodeid, -1)
    }

    /// Whether the kernel knows an inode by exactly this number.
    pub(super) fn knows(&self, ino: u64) -> bool {
        let notice = NotifyInvalInode { ino, off: -1, len: 0 };
        self.send(0, NOTIFY_INVAL_INODE, &[notice.as_bytes()]).is_ok()
    }

    /// Has the kernel forget what it holds of an inode's contents or, of a directory, its listing,
    /// and of its attributes. Waits for reads that are under way, so not for those who answer them.
    pub(super) fn forget_contents(&self, nodeid: u64) -> Result<(), Errno> {
        self.forget(nodeid, 0)
    }

    fn forget(&self, nodeid: u64, off: i64) -> Result<(), Errno> {
        root::tell(nodeid, |ino| {
            let notice = NotifyInvalInode { ino, off, len: 0 };
            self.send(0, NOTIFY_INVAL_INODE, &[notice.as_bytes()])
        })
    }

    /// Has the kernel ask about a name before it uses it again (`FUSE_NOTIFY_INVAL_ENTRY`). Waits
    /// for the directory's lock, so not for those who answer requests. `NOENT` if the kernel does
    /// not know the directory or the name.
    pub(super) fn expire_name(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let namelen = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        root::tell(parent, |parent| {
            let entry = NotifyInvalEntry { parent, namelen, flags: EXPIRE_ONLY };
            self.send(0, NOTIFY_INVAL_ENTRY, &[entry.as_bytes(), name.as_bytes(), b"\0"])
        })
    }

    /// Has the kernel send all requests once more that have been read and not answered, before all
    /// others and with `UNIQUE_RESEND` in their numbers (`FUSE_NOTIFY_RESEND`). `EINVAL` before
    /// Linux 6.9.
    pub(super) fn resend(&self) -> Result<(), Errno> {
        self.send(0, NOTIFY_RESEND, &[])
    }

    /// Has the kernel make a request for which nobody waits, with this number: for nothing of what is
    /// cached of a file that it knows (`FUSE_NOTIFY_RETRIEVE`). `INVAL` if that is no regular file.
    pub(super) fn ask_for_nothing(&self, nodeid: u64, unique: u64) -> Result<(), Errno> {
        let (offset, size, padding) = (0, 0, 0);
        let notice = NotifyRetrieve { notify_unique: unique, nodeid, offset, size, padding };
        self.send(0, NOTIFY_RETRIEVE, &[notice.as_bytes()])
    }

    fn send(&self, unique: u64, error: i32, parts: &[&[u8]]) -> Result<(), Errno> {
        let length = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: u32::try_from(length).unwrap_or(0), error, unique };
        // The kernel pins the memory of each piece by itself: for a short answer, which most are,
        // that costs more than putting it together here.
        let mut short = [0; SHORT];
        if let Some(whole) = short.get_mut(..length) {
            let (head, mut rest) = whole.split_at_mut(size_of::<OutHeader>());
            head.copy_from_slice(header.as_bytes());
            for part in parts {
                let (place, after) = rest.split_at_mut(part.len());
                place.copy_from_slice(part);
                rest = after;
            }
            return rustix::io::write(&self.0, whole).map(drop);
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS + 1];
        slices[0] = IoSlice::new(header.as_bytes());
        let mut used = 1;
        for part in parts.iter().filter(|part| !part.is_empty()).take(MAX_PARTS) {
            slices[used] = IoSlice::new(part);
            used += 1;
        }
        rustix::io::writev(&self.0, &slices[..used]).map(drop)
    }
}

/// No longer than this is a short message: all answers but listings and contents.
const SHORT: usize = 256;
/// More parts than any message has.
const MAX_PARTS: usize = 3;

impl Sink for &Device {
    fn answer(&mut self, unique: u64, errno: Option<Errno>, payload: &[u8]) -> Result<(), Errno> {
        match errno {
            None => self.reply(unique, &[payload]),
            Some(errno) => self.reply_error(unique, errno),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bytes of a protocol struct.
pub(super) fn bytes<T: IntoBytes + Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}
