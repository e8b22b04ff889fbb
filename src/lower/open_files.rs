//! Files and directories that callers have open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::OFlags;

use crate::error::FsError;

use super::LowerTree;
use super::dirents::DirStream;
use super::inode::Inode;

/// One open file or directory.
pub struct OpenFile {
    /// The lower descriptor; unset while the kernel reads a file without the server's help.
    fd: OnceLock<Arc<OwnedFd>>,
    /// The caller's flags, as far as they count for the lower file.
    flags: OFlags,
    /// The inode that it belongs to.
    pub inode: Arc<Inode>,
    /// Where a directory is being read.
    pub dir: Mutex<DirStream>,
}

/// A file that has been opened and that the kernel has not been told of yet: dropping it closes it.
pub struct Opened<'f> {
    files: &'f OpenFiles,
    handle: u64,
    kept: bool,
}

impl Opened<'_> {
    /// The number by which the kernel will call it.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The reply goes out: from now on it is open until the kernel releases it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.files.remove(self.handle);
        }
    }
}

/// The handle number of what the kernel has not opened.
pub const UNOPENED: u64 = 0;

impl OpenFile {
    /// A file that is opened when a request needs it ([`LowerTree::file_fd`]), in no table.
    pub fn unopened(inode: Arc<Inode>, flags: OFlags) -> Self {
        Self { fd: OnceLock::new(), flags, inode, dir: Mutex::default() }
    }

    /// Whether it was opened with `O_APPEND`. The caller may have cleared that flag since.
    pub fn was_opened_for_appending(&self) -> bool {
        self.flags.contains(OFlags::APPEND)
    }
}

/// Open files by handle number, and by inode.
#[derive(Default)]
pub struct OpenFiles {
    tables: RwLock<Tables>,
    next: AtomicU64,
}

#[derive(Default)]
struct Tables {
    by_handle: HashMap<u64, Arc<OpenFile>>,
    by_node: HashMap<u64, Vec<u64>>,
}

impl OpenFiles {
    /// Enters a file and returns its handle number, which is never used again. Without a
    /// descriptor it is opened when a request needs one ([`LowerTree::file_fd`]).
    pub fn insert(&self, inode: Arc<Inode>, flags: OFlags, fd: Option<OwnedFd>) -> Opened<'_> {
        let handle = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let nodeid = inode.nodeid;
        let fd = fd.map_or_else(OnceLock::new, |fd| OnceLock::from(Arc::new(fd)));
        let file = OpenFile { fd, flags, inode, dir: Mutex::default() };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_handle.insert(handle, Arc::new(file));
        tables.by_node.entry(nodeid).or_default().push(handle);
        Opened { files: self, handle, kept: false }
    }

    /// The open file with this handle number.
    pub fn get(&self, handle: u64) -> Result<Arc<OpenFile>, FsError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_handle.get(&handle).map(Arc::clone).ok_or(FsError::UnknownHandle)
    }

    /// Any descriptor on this inode: it serves where only the inode matters.
    pub fn any_of(&self, nodeid: u64) -> Option<Arc<OwnedFd>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let handles = tables.by_node.get(&nodeid)?;
        handles.iter().find_map(|handle| tables.by_handle.get(handle)?.fd.get().cloned())
    }

    /// Whether somebody has this inode open for writing.
    pub fn any_writer(&self, nodeid: u64) -> bool {
        self.any(nodeid, |file| file.flags & OFlags::ACCMODE != OFlags::RDONLY)
    }

    fn any(&self, nodeid: u64, is: impl Fn(&OpenFile) -> bool) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(handles) = tables.by_node.get(&nodeid) else { return false };
        handles.iter().any(|handle| tables.by_handle.get(handle).is_some_and(|file| is(file)))
    }

    /// The caller has closed it.
    pub fn remove(&self, handle: u64) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = tables.by_handle.remove(&handle) else { return };
        if let Some(handles) = tables.by_node.get_mut(&file.inode.nodeid) {
            handles.retain(|&h| h != handle);
            if handles.is_empty() {
                tables.by_node.remove(&file.inode.nodeid);
            }
        }
        drop(tables);
        drop(file); // closes outside the lock
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_handle.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl LowerTree {
    /// The lower descriptor of an open file.
    pub fn file_fd(&self, file: &OpenFile) -> Result<Arc<OwnedFd>, FsError> {
        if let Some(fd) = file.fd.get() {
            return Ok(Arc::clone(fd));
        }
        self.room_to_open()?;
        let opened = Arc::new(self.open_file(&file.inode, file.flags)?);
        self.opened_for_caller(&opened);
        Ok(Arc::clone(file.fd.get_or_init(|| opened)))
    }
}
