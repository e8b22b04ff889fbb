//! Telling the kernel what to forget because it has changed below ([`crate::fs`] knows what that is): what
//! a kernel can be told, and the thread that does it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::server::Server;
use crate::fs::{Abilities, Notices, Unheard};
use crate::sys::kernel;

/// Linux 6.2 can be told to make sure of a name (`FUSE_EXPIRE_ONLY`); older ones only to drop it,
/// with what is mounted there.
const SINCE: (u32, u32) = (6, 2);
/// From Linux 6.13 on, a change gives another time of modification even within a tick of the
/// clock, by which the kernel sees that a listing is out of date that was on its way just then.
const FINE_TIMES_SINCE: (u32, u32) = (6, 13);
/// From Linux 6.19 on, a notification about a name seems to be of no effect where the kernel
/// remembers that there is none (`start_removing_dentry` in `fuse_reverse_inval_entry`).
const MISSING_NAMES_UNTIL: (u32, u32) = (6, 18);

/// Whether this kernel can be told of all changes; if not, why.
pub fn supported() -> Result<(), Unheard> {
    let (major, minor) = kernel::version();
    if (major, minor) >= SINCE {
        return Ok(());
    }
    Err(Unheard::Impossible(format!(
        "needs Linux {}.{} (FUSE_EXPIRE_ONLY), this is {major}.{minor}",
        SINCE.0, SINCE.1
    )))
}

/// What this kernel makes of it.
pub fn abilities() -> Abilities {
    let version = kernel::version();
    Abilities {
        missing_names: version <= MISSING_NAMES_UNTIL,
        listings: version >= FINE_TIMES_SINCE,
    }
}

/// The thread; dropping this ends it.
pub(super) struct Notifier {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Notifier {
    /// Starts the thread where the server needs it.
    pub(super) fn start(server: &Arc<Server>, takes_over: bool) -> Result<Option<Self>, Errno> {
        if !server.fs.tells_changes() {
            return Ok(None);
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (server, stopped) = (Arc::clone(server), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("watch".into())
            .spawn(move || server.fs.tell_changes(&*server, stopped.as_fd(), takes_over))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(Some(Self { stop, thread: Some(thread) }))
    }
}

/// Each notification is counted.
impl Notices for Server {
    fn forget_attributes(&self, nodeid: u64) -> Result<(), Errno> {
        self.about.notices.fetch_add(1, Ordering::Relaxed);
        self.device.forget_attributes(nodeid)
    }

    fn forget_contents(&self, nodeid: u64) -> Result<(), Errno> {
        self.about.notices.fetch_add(1, Ordering::Relaxed);
        self.device.forget_contents(nodeid)
    }

    fn expire_name(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.about.notices.fetch_add(1, Ordering::Relaxed);
        self.device.expire_name(parent, name)
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Err(errno) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!(%errno, "the thread that listens cannot be ended");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that listens has panicked");
        }
    }
}
