//! Files that are written below without end: for a while their writes are not heard of, and nothing that
//! is said of them is trusted.
//!
//! An event for each write(2) would cost whoever writes nearly twice as much as the write itself, and this
//! program the same again, only to say each time that nothing can be remembered.
//!
//! Nothing is missed. Distrust comes first, then the silence, and then the kernel above is told once more, as
//! for an event: what it remembers from before is gone, and nothing new stays. At the end the file is
//! listened to first, then the kernel is told, and answers that were begun before that are not trusted.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::io::Errno;

use super::Watch;
use crate::lower::inode::Inode;
use crate::lower::{LowerTree, proc_path};
use crate::sys::fanotify::{self, Mask};

/// For how long writes are not heard of.
const SILENCE: Duration = Duration::from_secs(1);
/// How many files there may be at once: each has a descriptor.
const MOST: usize = 64;

/// By inode number on the root's file system.
#[derive(Default)]
pub(super) struct Loud {
    files: Mutex<HashMap<u64, File>>,
    /// Whether there are any.
    some: AtomicBool,
    /// Whether there may be.
    allowed: AtomicBool,
}

struct File {
    fd: OwnedFd,
    /// When it is listened to again; `None` where that cannot be done.
    until: Option<Instant>,
}

impl Loud {
    pub(super) fn contains(&self, ino: u64) -> bool {
        self.some.load(Ordering::SeqCst) && self.lock().contains_key(&ino)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, ino: u64) {
        let mut files = self.lock();
        files.remove(&ino);
        self.some.store(!files.is_empty(), Ordering::SeqCst);
    }
}

impl Watch {
    /// From now on writes may be left unheard. Not where another server can come to read the group: it
    /// would not know of which files.
    pub fn may_be_silent(&self) {
        self.loud.allowed.store(true, Ordering::SeqCst);
    }

    /// When a file is to be listened to again.
    pub fn silent_until(&self) -> Option<Instant> {
        if !self.loud.some.load(Ordering::SeqCst) {
            return None;
        }
        self.loud.lock().values().filter_map(|file| file.until).min()
    }

    /// Listens again to the files whose time has come; returns their inode numbers, of which the kernel is
    /// then to be told.
    pub fn end_silence(&self) -> Vec<u64> {
        if !self.loud.some.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let now = Instant::now();
        let mut files = self.loud.lock();
        let due = |(_, file): &(&u64, &mut File)| file.until.is_some_and(|until| until <= now);
        let mut heard = Vec::new();
        for (&ino, file) in files.iter_mut().filter(due) {
            let ended = path(&file.fd)
                .and_then(|path| fanotify::end_ignoring(&self.group, CWD, &path, Mask::MODIFY));
            match ended {
                // All marks have been taken away meanwhile.
                Ok(()) | Err(Errno::NOENT) => heard.push(ino),
                Err(errno) => {
                    tracing::warn!(%errno, "writes to a file stay unheard: nothing is remembered of it");
                    file.until = None;
                }
            }
        }
        drop(files);
        for &ino in &heard {
            self.epochs.happened(ino);
            self.loud.remove(ino);
        }
        heard
    }
}

impl LowerTree {
    /// Leaves the writes to a file unheard that have come without end. If it returns the file's number, the
    /// kernel is to be told of it once more.
    pub fn silence(&self, watch: &Watch, nodeid: u64) -> Option<u64> {
        let inode = self.inodes.get(nodeid).filter(|inode| self.can_be_silenced(watch, inode))?;
        let ino = inode.identity.ino;
        let fd = self.path_fd(&inode).ok()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0).ok()?;
        let path = path(&fd).ok()?;
        let mut files = watch.loud.lock();
        if files.len() >= MOST || files.contains_key(&ino) {
            return None;
        }
        files.insert(ino, File { fd, until: Some(Instant::now() + SILENCE) });
        watch.loud.some.store(true, Ordering::SeqCst);
        drop(files);
        if let Err(errno) = fanotify::ignore_inode(&watch.group, CWD, &path, Mask::MODIFY) {
            tracing::debug!(%errno, "all writes are heard of");
            watch.loud.remove(ino);
            return None;
        }
        watch.epochs.happened(ino);
        Some(ino)
    }

    fn can_be_silenced(&self, watch: &Watch, inode: &Inode) -> bool {
        watch.loud.allowed.load(Ordering::SeqCst)
            && !inode.is_dir()
            && inode.identity.dev == self.inodes.root_device()
    }
}

fn path(fd: &OwnedFd) -> Result<CString, Errno> {
    CString::new(proc_path(fd)).map_err(|_| Errno::INVAL)
}
