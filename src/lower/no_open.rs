//! Files that are read and written without having been opened (`io=cached`): the kernel does not
//! say who opens what, so a file is opened here when its contents are first asked for.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};

use super::inode::Inode;
use super::open_files::OpenFile;
use super::{LowerTree, proc_path};

/// Kept open for the next request; a reopen by handle costs a few microseconds.
const MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What a descriptor is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading, seeking, syncing.
    Read,
    /// Anything that changes the contents.
    Write,
}

/// Descriptors by nodeid and use. One that is in use lives on after it has left the cache.
pub(super) struct NoOpen(Mutex<LruCache<(u64, Access), Arc<OwnedFd>>>);

impl Default for NoOpen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX)))
    }
}

impl NoOpen {
    /// The kernel has forgotten the inode.
    pub(super) fn remove(&self, nodeid: u64) {
        let mut files = self.lock();
        let gone = [Access::Read, Access::Write].map(|access| files.pop(&(nodeid, access)));
        drop(files);
        drop(gone); // closes outside the lock
    }

    /// Closes those that can be written to.
    fn shed_writers(&self) {
        let mut files = self.lock();
        let writers =
            files.iter().map(|(key, _)| *key).filter(|(_, access)| *access == Access::Write);
        let writers: Vec<_> = writers.collect();
        let gone: Vec<_> = writers.iter().map(|key| files.pop(key)).collect();
        drop(files);
        drop(gone); // closes outside the lock
    }

    /// Closes all: the process has run out of descriptors.
    pub(super) fn shed(&self) {
        let gone = std::mem::replace(&mut *self.lock(), LruCache::new(MAX));
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<(u64, Access), Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LowerTree {
    /// A descriptor on the contents of a regular file that the kernel has not opened. The kernel
    /// above has judged the caller's rights when it opened the file there; what the lower file
    /// system itself refuses (an immutable file) is refused here, at the first use.
    pub fn no_open_fd(&self, inode: &Inode, access: Access) -> Result<Arc<OwnedFd>, FsError> {
        let key = (inode.nodeid, access);
        if let Some(fd) = self.no_open.lock().get(&key) {
            return Ok(Arc::clone(fd));
        }
        let opened = match access {
            Access::Read => self.open_quietly(inode, OFlags::RDONLY),
            // The kernel reads what surrounds a small write, in the same request's name.
            Access::Write => match self.open_quietly(inode, OFlags::RDWR) {
                Err(FsError::Os { errno: Errno::ACCESS, .. }) => {
                    self.open_file(inode, OFlags::WRONLY)
                }
                opened => opened,
            },
        };
        let fd = Arc::new(opened?);
        self.keep_for_next(key, Arc::clone(&fd));
        Ok(fd)
    }

    fn keep_for_next(&self, key: (u64, Access), fd: Arc<OwnedFd>) {
        let evicted = self.no_open.lock().push(key, fd);
        drop(evicted); // closes outside the lock
    }

    /// The kernel will not say when this new file is closed: it is used from now on like one that was
    /// never opened. It has to be taken out of the table of open files. `named`: not if it is made by
    /// `O_TMPFILE`.
    pub fn use_without_open(&self, file: &OpenFile, named: bool) -> Result<(), FsError> {
        let fd = self.file_fd(file)?;
        if !named {
            // Neither a name nor a handle leads to it.
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let path = rustix::fs::open(proc_path(&fd), flags, Mode::empty()).call("open")?;
            self.pin(&file.inode, path);
        }
        // What was made may be open to nobody who opens it anew, so this is of use at once.
        match file.access() {
            Some(OFlags::RDONLY) => self.keep_for_next((file.inode.nodeid, Access::Read), fd),
            Some(_) => self.keep_for_next((file.inode.nodeid, Access::Write), fd),
            None => {}
        }
        Ok(())
    }

    /// For quiet moments: a program that was written through the mount must not stay busy below
    /// (ETXTBSY). Only where the server may open everything anew.
    pub(super) fn close_written(&self) {
        if self.handles {
            self.no_open.shed_writers();
        }
    }

    /// Most reading is done from the cache above, so what comes down says nothing about when the
    /// file was last read: then its time of access is better left alone.
    fn open_quietly(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, FsError> {
        match self.open_file(inode, flags | OFlags::NOATIME) {
            Err(FsError::Os { errno: Errno::PERM, .. }) => self.open_file(inode, flags),
            opened => opened,
        }
    }
}
