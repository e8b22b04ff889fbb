//! Files and directories that callers have open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::FsError;

use super::dirents::DirStream;
use super::inode::Inode;

/// One open file or directory.
pub struct OpenFile {
    /// The lower descriptor, opened with the caller's flags.
    pub fd: Arc<OwnedFd>,
    /// The inode that it belongs to.
    pub inode: Arc<Inode>,
    /// Where a directory is being read.
    pub dir: Mutex<DirStream>,
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
    /// Enters an open file and returns its handle number, which is never used again.
    pub fn insert(&self, inode: Arc<Inode>, fd: OwnedFd) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let nodeid = inode.nodeid;
        let file = OpenFile { fd: Arc::new(fd), inode, dir: Mutex::default() };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_handle.insert(handle, Arc::new(file));
        tables.by_node.entry(nodeid).or_default().push(handle);
        handle
    }

    /// The open file with this handle number.
    pub fn get(&self, handle: u64) -> Result<Arc<OpenFile>, FsError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.by_handle.get(&handle).map(Arc::clone).ok_or(FsError::UnknownHandle)
    }

    /// Any descriptor on this inode: it serves where only the inode matters.
    pub fn any_of(&self, nodeid: u64) -> Option<Arc<OwnedFd>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let handle = tables.by_node.get(&nodeid)?.first()?;
        tables.by_handle.get(handle).map(|file| Arc::clone(&file.fd))
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
