//! Files and directories that callers have open.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::FsError;

use super::LowerTree;
use super::dirents::DirStream;
use super::inode::Inode;
use super::table::InodeTable;
use crate::state::in_flight::{GET, InFlight, PUT};
use crate::state::rows::Free;
use crate::state::{Number, State};
use crate::sys::process::LeftOpen;

/// One open file or directory.
pub struct OpenFile {
    /// The lower descriptor; unset while the kernel reads a file without the server's help.
    fd: OnceLock<Arc<OwnedFd>>,
    /// The caller's flags, as far as they count for the lower file.
    flags: OFlags,
    /// The inode that it belongs to.
    pub inode: Inode,
    /// Where a directory is being read.
    pub dir: Mutex<DirStream>,
    /// Its row in [`crate::state`], if the kernel knows it.
    row: Option<u32>,
}

// The words of a row.
const HANDLE: usize = 0;
const NODEID: usize = 1;
/// The flags (low half), and whether a backing id is used (bit 32).
const FLAGS: usize = 2;
const BACKED: u64 = 1 << 32;
/// The descriptor, plus one.
const FD: usize = 3;

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

    /// The kernel uses a backing id for the file: closing it gives a share in that back.
    pub fn set_backed(&self) {
        self.files.set_backed(self.handle);
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
pub const NO_OPEN: u64 = 0;

impl OpenFile {
    /// A file that is opened when a request needs it ([`LowerTree::file_fd`]), in no table.
    pub fn no_open(inode: Inode, flags: OFlags) -> Self {
        Self { fd: OnceLock::new(), flags, inode, dir: Mutex::default(), row: None }
    }

    /// The access mode, if nothing else is special about how it was opened.
    pub(super) fn access(&self) -> Option<OFlags> {
        let special = OFlags::APPEND | OFlags::SYNC;
        (!self.flags.intersects(special)).then_some(self.flags & OFlags::ACCMODE)
    }

    /// Whether it was opened with `O_APPEND`. The caller may have cleared that flag since.
    pub fn was_opened_for_appending(&self) -> bool {
        self.flags.contains(OFlags::APPEND)
    }
}

/// Open files by handle number, and by inode.
pub struct OpenFiles {
    state: Arc<State>,
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    by_handle: HashMap<u64, Arc<OpenFile>>,
    by_node: HashMap<u64, Vec<u64>>,
    free: Free,
}

impl Tables {
    fn enter(&mut self, handle: u64, file: OpenFile) {
        self.by_node.entry(file.inode.nodeid).or_default().push(handle);
        self.by_handle.insert(handle, Arc::new(file));
    }
}

/// The descriptor that a row names.
fn descriptor(values: &[u64; 4]) -> Option<RawFd> {
    values[FD].checked_sub(1).and_then(|fd| RawFd::try_from(fd).ok())
}

impl OpenFiles {
    /// None yet.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, tables: RwLock::default() }
    }

    /// Those that another server has left, with the inodes that the table knows. Returns also how
    /// many of them use the backing id of each inode.
    pub(super) fn adopt(
        state: Arc<State>,
        inodes: &InodeTable,
        left: &mut LeftOpen,
    ) -> (Self, HashMap<u64, usize>) {
        let mut backed = HashMap::new();
        let (free, rows) = state.opens.adopt();
        let mut tables = Tables { free, ..Tables::default() };
        for (row, values) in rows {
            let Some(inode) = inodes.get(values[NODEID]) else {
                // Entered for an answer that was not delivered.
                state.opens.remove(&mut tables.free, row);
                continue;
            };
            let flags =
                OFlags::from_bits_retain(u32::try_from(values[FLAGS] & !BACKED).unwrap_or(0));
            let fd = descriptor(&values).and_then(|fd| left.take(fd).ok());
            if values[FLAGS] & BACKED != 0 {
                *backed.entry(inode.nodeid).or_default() += 1;
            }
            let fd = fd.map_or_else(OnceLock::new, |fd| OnceLock::from(Arc::new(fd)));
            let file = OpenFile { fd, flags, inode, dir: Mutex::default(), row: Some(row) };
            tables.enter(values[HANDLE], file);
        }
        (Self { state, tables: RwLock::new(tables) }, backed)
    }

    /// The descriptors that another server's rows name.
    pub(super) fn named(state: &State) -> impl Iterator<Item = RawFd> {
        state.opens.adopt().1.into_iter().filter_map(|(_, values)| descriptor(&values))
    }

    /// Enters a file and returns its handle number, which is never used again. Without a
    /// descriptor it is opened when a request needs one ([`LowerTree::file_fd`]). `ENFILE` if too
    /// many are open.
    pub fn insert(
        &self,
        in_flight: InFlight<'_>,
        inode: Inode,
        flags: OFlags,
        fd: Option<OwnedFd>,
    ) -> Result<Opened<'_>, FsError> {
        let handle = self.state.number(Number::Handle).fetch_add(1, Ordering::SeqCst) + 1;
        let number = fd.as_ref().map_or(0, number);
        let values = [handle, inode.nodeid, u64::from(flags.bits()), number];
        in_flight.opening(handle);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let row = self.state.opens.enter(&mut tables.free, values);
        let row = Some(row.ok_or(FsError::Refused(Errno::NFILE))?);
        let fd = fd.map_or_else(OnceLock::new, |fd| OnceLock::from(Arc::new(fd)));
        tables.enter(handle, OpenFile { fd, flags, inode, dir: Mutex::default(), row });
        Ok(Opened { files: self, handle, kept: false })
    }

    fn set_backed(&self, handle: u64) {
        if let Some(row) = self.get(handle).ok().and_then(|file| file.row) {
            self.state.opens.row(row)[FLAGS].fetch_or(BACKED, Ordering::SeqCst);
        }
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

    /// Whether somebody has this inode open so that it can be changed through a mapping.
    pub fn any_mappable(&self, nodeid: u64) -> bool {
        self.any(nodeid, |file| file.flags & OFlags::ACCMODE == OFlags::RDWR)
    }

    fn any(&self, nodeid: u64, is: impl Fn(&OpenFile) -> bool) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(handles) = tables.by_node.get(&nodeid) else { return false };
        handles.iter().any(|handle| tables.by_handle.get(handle).is_some_and(|file| is(file)))
    }

    /// The caller has closed it. Returns whether it used a backing id.
    pub fn remove(&self, handle: u64) -> bool {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = tables.by_handle.remove(&handle) else { return false };
        let mut backed = false;
        if let Some(row) = file.row {
            backed = self.state.opens.row(row)[FLAGS].load(GET) & BACKED != 0;
            // While the descriptor is open: no row ever names one that has been closed.
            self.state.opens.remove(&mut tables.free, row);
        }
        if let Some(handles) = tables.by_node.get_mut(&file.inode.nodeid) {
            handles.retain(|&h| h != handle);
            if handles.is_empty() {
                tables.by_node.remove(&file.inode.nodeid);
            }
        }
        drop(tables);
        drop(file); // closes outside the lock
        backed
    }

    /// Writes down by which descriptor the file is used.
    fn note_descriptor(&self, file: &OpenFile, fd: &OwnedFd) {
        let Some(row) = file.row else { return };
        // With the lock, so that the row is still the file's.
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let words = self.state.opens.row(row);
        let handle = words[HANDLE].load(GET);
        if tables.by_handle.get(&handle).is_some_and(|known| std::ptr::eq(&raw const **known, file))
        {
            words[FD].store(number(fd), PUT);
        }
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

/// A descriptor as a row has it.
fn number(fd: &OwnedFd) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs()) + 1
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
        let fd = Arc::clone(file.fd.get_or_init(|| opened));
        self.open_files.note_descriptor(file, &fd);
        Ok(fd)
    }
}
