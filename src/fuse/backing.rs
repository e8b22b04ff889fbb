//! Backing files: lower files that the kernel reads and writes by itself (passthrough, Linux 6.9).
//!
//! The kernel wants all opens of one inode to use one backing id. So there is one id per inode: it
//! is *busy* while the file is open, and then, if it may last, stays *idle* for the next open until
//! the kernel forgets the inode or too many are idle.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::io::Errno;

use super::device::Device;
use crate::error::FsError;
use crate::fs::BackingFile;
use crate::state::in_flight::GET;
use crate::state::rows::Free;
use crate::state::{Number, State};
use crate::sys::fuse_device::{backing_close, backing_open};

/// Each idle id holds a lower file open in the kernel.
const MAX_IDLE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The backing ids of one mount.
pub(super) struct Backings {
    ids: Arc<Ids>,
    on: AtomicBool,
    table: Mutex<Table>,
}

struct Table {
    busy: HashMap<u64, Busy>,
    idle: LruCache<u64, Arc<BackingId>>,
}

struct Busy {
    id: Arc<BackingId>,
    opens: usize,
}

/// A lower file that is registered with the connection until this is dropped.
struct BackingId {
    ids: Arc<Ids>,
    id: i32,
    lasting: bool,
    /// Its row in [`crate::state`].
    row: Option<u32>,
}

/// What all ids need.
struct Ids {
    device: Device,
    state: Arc<State>,
    free: Mutex<Free>,
}

// The second word of a row: the id (low half), and what is known of it.
const LASTING: u64 = 1 << 32;
const CLOSING: u64 = 1 << 33;

/// How many ids the threads of a killed server can have got from the kernel without having been able
/// to write them down: one for each thread.
const UNKNOWN: i32 = 256;

impl Ids {
    /// Registers a lower file.
    fn open(self: &Arc<Self>, nodeid: u64, file: BackingFile) -> Result<BackingId, Errno> {
        let lasting = file.lasting;
        let id = file.register(|fd| backing_open(&self.device, fd))?;
        let number = u64::from(id.unsigned_abs());
        self.state.number(Number::Backing).fetch_max(number, Ordering::SeqCst);
        let values = [nodeid, number | if lasting { LASTING } else { 0 }];
        let row = self.state.backings.enter(&mut self.free(), values);
        Ok(BackingId { ids: Arc::clone(self), id, lasting, row })
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        // Said first: what is being closed is closed once more by the next server, if it must.
        if let Some(row) = self.row {
            self.ids.state.backings.row(row)[1].fetch_or(CLOSING, Ordering::SeqCst);
        }
        if let Err(errno) = backing_close(&self.ids.device, self.id) {
            tracing::debug!(%errno, "FUSE_DEV_IOC_BACKING_CLOSE");
        }
        if let Some(row) = self.row {
            self.ids.state.backings.remove(&mut self.ids.free(), row);
        }
    }
}

/// One open file's share in the id of its inode; given back when dropped.
pub(super) struct Backing<'b> {
    backings: &'b Backings,
    nodeid: u64,
    id: Arc<BackingId>,
    kept: bool,
}

impl Backing<'_> {
    /// The id for the reply.
    pub(super) fn id(&self) -> i32 {
        self.id.id
    }

    /// The reply went out: from here on the share ends with the file's release.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Backing<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.backings.release(self.nodeid);
        }
    }
}

impl Backings {
    /// None yet; `on` says whether the kernel has passthrough at all.
    pub(super) fn new(device: Device, state: Arc<State>, on: bool) -> Self {
        let table = Table { busy: HashMap::new(), idle: LruCache::new(MAX_IDLE) };
        let ids = Arc::new(Ids { device, state, free: Mutex::default() });
        Self { ids, on: AtomicBool::new(on), table: Mutex::new(table) }
    }

    /// Takes over those that another server has left: `opens` says how many open files of each inode
    /// use one, `knows` which inodes the kernel knows.
    pub(super) fn adopt(&self, mut opens: HashMap<u64, usize>, knows: impl Fn(u64) -> bool) {
        let (free, rows) = self.ids.state.backings.adopt();
        *self.ids.free() = free;
        let mut unneeded = Vec::new();
        let mut table = self.table();
        let (closing, mut rows): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, [_, word])| word & CLOSING != 0);
        // Of two for one inode the first is in use: the second thread to open it was killed before it
        // could take that one instead. The kernel refuses two at a time.
        rows.sort_unstable_by_key(|(_, [_, word])| word & u64::from(u32::MAX));
        for (row, [nodeid, word]) in closing.into_iter().chain(rows) {
            let id = i32::try_from(word & u64::from(u32::MAX)).unwrap_or(0);
            let lasting = word & LASTING != 0;
            let id = BackingId { ids: Arc::clone(&self.ids), id, lasting, row: Some(row) };
            let closing = word & CLOSING != 0;
            let is_second = table.busy.contains_key(&nodeid) || table.idle.contains(&nodeid);
            if closing || is_second {
                unneeded.push(Arc::new(id));
            } else if let Some(opens) = opens.remove(&nodeid) {
                table.busy.insert(nodeid, Busy { id: Arc::new(id), opens });
            } else if lasting && knows(nodeid) {
                unneeded.extend(table.idle.push(nodeid, Arc::new(id)).map(|(_, id)| id));
            } else {
                unneeded.push(Arc::new(id));
            }
        }
        drop(table);
        drop(unneeded);
        // The kernel gives ids in order.
        let last = i32::try_from(self.ids.state.number(Number::Backing).load(GET)).unwrap_or(0);
        if last > 0 {
            for id in last.saturating_add(1)..last.saturating_add(UNKNOWN) {
                backing_close(&self.ids.device, id).ok();
            }
        }
    }

    /// A share in the inode's id for one more open file, registering `file` if there is none yet or,
    /// with `anew`, none that somebody uses; `None` where passthrough cannot be used.
    pub(super) fn acquire(
        &self,
        nodeid: u64,
        anew: bool,
        file: impl FnOnce() -> Result<BackingFile, FsError>,
    ) -> Result<Option<Backing<'_>>, FsError> {
        if !self.on.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if anew {
            self.forget(nodeid);
        }
        let known = self.table().take(nodeid, None);
        if let Some(id) = known {
            return Ok(Some(Backing { backings: self, nodeid, id, kept: false }));
        }
        match self.ids.open(nodeid, file()?) {
            Ok(id) => {
                let shared = self.table().take(nodeid, Some(Arc::new(id)));
                Ok(shared.map(|id| Backing { backings: self, nodeid, id, kept: false }))
            }
            Err(errno) => self.refused(errno).map(|()| None),
        }
    }

    /// The first refusal turns passthrough off: the user, or the lower file system, is not allowed
    /// it. Later ones are errors, since opens of both kinds must not meet on one inode.
    fn refused(&self, errno: Errno) -> Result<(), FsError> {
        let table = self.table();
        if !table.busy.is_empty() || !table.idle.is_empty() {
            return Err(FsError::Os { call: "FUSE_DEV_IOC_BACKING_OPEN", errno });
        }
        if self.on.swap(false, Ordering::Relaxed) {
            tracing::info!(%errno, "no passthrough: contents are copied through the server");
        }
        Ok(())
    }

    /// One open file of the inode is closed.
    pub(super) fn release(&self, nodeid: u64) {
        let mut table = self.table();
        let Some(busy) = table.busy.get_mut(&nodeid) else { return };
        busy.opens -= 1;
        if busy.opens > 0 {
            return;
        }
        let Some(Busy { id, .. }) = table.busy.remove(&nodeid) else { return };
        let gone =
            if id.lasting { table.idle.push(nodeid, id).map(|(_, id)| id) } else { Some(id) };
        drop(table);
        drop(gone); // tells the kernel, outside the lock
    }

    /// Whether passthrough is on.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Whether passthrough is on; how many lower files the kernel holds for it, and how many of
    /// these nobody has open.
    pub(super) fn usage(&self) -> (bool, usize, usize) {
        let table = self.table();
        (self.is_on(), table.busy.len() + table.idle.len(), table.idle.len())
    }

    /// The kernel has forgotten the inode.
    pub(super) fn forget(&self, nodeid: u64) {
        let idle = self.table().idle.pop(&nodeid);
        drop(idle);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Counts one more open file of the inode: on the id that it has, else on `fresh`.
    fn take(&mut self, nodeid: u64, fresh: Option<Arc<BackingId>>) -> Option<Arc<BackingId>> {
        if let Some(busy) = self.busy.get_mut(&nodeid) {
            busy.opens += 1;
            return Some(Arc::clone(&busy.id));
        }
        let id = self.idle.pop(&nodeid).or(fresh)?;
        self.busy.insert(nodeid, Busy { id: Arc::clone(&id), opens: 1 });
        Some(id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    /// Files that are open in passthrough go on with the id that they have: the kernel refuses
    /// another one beside it.
    #[test]
    fn the_id_in_use_is_taken_over() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let state = Arc::new(State::create().unwrap());
        let mut free = Free::default();
        for row in
            [[7, 5 | LASTING], [7, 4 | LASTING], [8, 3 | LASTING], [7, 2 | LASTING | CLOSING]]
        {
            state.backings.enter(&mut free, row).unwrap();
        }
        let backings = Backings::new(Device::new(null.into()).unwrap(), state, true);
        backings.adopt(HashMap::from([(7, 2)]), |_| true);
        let table = backings.table();
        assert_eq!(table.busy.get(&7).map(|busy| (busy.id.id, busy.opens)), Some((4, 2)));
        assert!(table.idle.contains(&8) && !table.idle.contains(&7));
    }
}
