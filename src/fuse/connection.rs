//! A FUSE connection, from the handshake to its end.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::backing::Backings;
use super::counters::AllCounters;
use super::device::{Device, Read, bytes};
use super::negotiate::{
    self, Agreed, FUSE_ALLOW_IDMAP, FUSE_EXPORT_SUPPORT, FUSE_FLOCK_LOCKS, FUSE_INIT_EXT,
    FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT, FUSE_OVER_IO_URING, FUSE_PASSTHROUGH,
    FUSE_POSIX_ACL, FUSE_POSIX_LOCKS, FUSE_WRITEBACK_CACHE,
};
use super::notify::Notifier;
use super::report::About;
use super::request::Request;
use super::server::{LockWaiters, Resumed, Server};
use super::unattached;
use super::uring::{self, Porter, Rings};
use super::wire::{InitIn, InitOut, MAJOR, MINOR, OLDEST_MINOR, Opcode};
use super::workers::{self, Most};
pub use super::workers::{Machine, WORKER};
use crate::config::IoMode;
use crate::fs::FileSystem;
use crate::lower::Keys;
use crate::lower::caller::Fact;
pub use crate::report::Facts;
use crate::report::{Cache, Report};
use crate::state::{BUFFER, State};

/// How a connection is served.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a yes or no of its own
pub struct Settings {
    /// Whether the lower file system does something on close(2) that callers rely on: others see
    /// what was written, and errors are reported. The kernel closes what it passes through in its
    /// own time and tells nobody, so what may be written to is then not passed through.
    pub flush: bool,
    /// Whether nothing is written through the mount.
    pub read_only: bool,
    /// How deep the lower file system is stacked already, plus one: how much the kernel must allow
    /// for passthrough.
    pub stack_depth: u32,
    /// Whether callers' locks are held on the lower files.
    pub lower_locks: bool,
    /// Who uses the contents of files.
    pub io: IoMode,
    /// Whether files are found by their numbers.
    pub exports: bool,
    /// Whether the server has to know who opens a file for writing: policies judge then.
    pub judges_opening: bool,
    /// Whether files can have POSIX ACLs: without, the kernel is not to look for them.
    pub acls: bool,
    /// Whether the lower file system is to judge each opening by the caller's ids: then no caller may
    /// use what another has opened or listed.
    pub judged_below: bool,
    /// Whether the kernel may keep what is written for a while: only where nobody else changes the
    /// lower files, since it then takes its own sizes and times for the true ones.
    pub gather_writes: bool,
    /// Whether the kernel may idmap the mount, for which it says less of callers.
    pub idmap: bool,
    /// Whether requests are to come through io_uring, if the kernel offers that.
    pub uring: bool,
    /// The most worker threads for a load.
    pub threads: usize,
    /// The most when all are stuck.
    pub threads_if_stuck: usize,
    /// What the mount tells of itself (`idshift status`).
    pub facts: Facts,
    /// What is known of the machine that they run on.
    pub machine: Machine,
}

impl Settings {
    /// The features that are not asked for.
    fn left_out(&self) -> u64 {
        let locks = if self.lower_locks { 0 } else { FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS };
        let gathering = if self.gather_writes { 0 } else { FUSE_WRITEBACK_CACHE };
        let io = match self.io {
            IoMode::Passthrough if self.flush && !self.read_only => {
                FUSE_NO_OPEN_SUPPORT | FUSE_WRITEBACK_CACHE | FUSE_PASSTHROUGH
            }
            IoMode::Passthrough => FUSE_NO_OPEN_SUPPORT | FUSE_WRITEBACK_CACHE,
            IoMode::Cached => FUSE_PASSTHROUGH | gathering,
        };
        let export = if self.exports { 0 } else { FUSE_EXPORT_SUPPORT };
        let opening = if self.judges_opening { FUSE_NO_OPEN_SUPPORT } else { 0 };
        let idmap = if self.idmap { 0 } else { FUSE_ALLOW_IDMAP };
        let judged = if self.judged_below { FUSE_PASSTHROUGH | FUSE_NO_OPENDIR_SUPPORT } else { 0 };
        let acls = if self.acls { 0 } else { FUSE_POSIX_ACL };
        locks | io | opening | idmap | judged | acls | export
    }
}

/// A connection that has shaken hands and can be served.
pub struct Connection {
    server: Arc<Server>,
    threads: Most,
    machine: Machine,
    resumes: bool,
    /// What the requests come through, or why through `/dev/fuse`.
    porter: Result<Porter, String>,
}

/// What makes up a connection, for the program that goes on after this one.
#[derive(Debug, Clone, Copy)]
pub struct Handles<'c> {
    /// `/dev/fuse`.
    pub device: BorrowedFd<'c>,
    /// The lower directory.
    pub root: BorrowedFd<'c>,
    /// What servers write down ([`State`]).
    pub memory: BorrowedFd<'c>,
    /// What tells of changes below, if that is listened to.
    pub group: Option<BorrowedFd<'c>>,
    /// The features that were agreed on.
    pub agreed: u64,
    /// How what the kernel caches is kept true.
    pub cache: &'c Cache,
}

impl Connection {
    /// Shakes hands with the kernel on a `/dev/fuse` that has been mounted. Starts no thread, and
    /// answers no caller.
    ///
    /// `EPROTO` if the kernel is too old, `ENODEV` if it was unmounted meanwhile.
    pub fn establish(fs: FileSystem, device: OwnedFd, settings: Settings) -> Result<Self, Errno> {
        let device = Device::new(device)?;
        let rings = if settings.uring {
            Rings::make(device.as_fd())
        } else {
            Err("it is not asked for".to_owned())
        };
        let without = if rings.is_ok() { 0 } else { FUSE_OVER_IO_URING };
        let left_out = settings.left_out() | without;
        let agreed = shake_hands(&device, settings.stack_depth, left_out)?;
        let mut connection = Self::with(fs, device, agreed, settings);
        // From here on the kernel lets nobody ask before each queue has an entry.
        connection.porter = match rings {
            Ok(_) if !agreed.has(FUSE_OVER_IO_URING) => Err(negotiate::WITHOUT_URING.to_owned()),
            Ok(rings) => Ok(rings.begin()?),
            Err(why) => Err(why),
        };
        Ok(connection)
    }

    /// A connection for which another program has shaken hands and agreed on `agreed`. `PROTO` if
    /// this one would have agreed on less.
    pub fn adopt(
        fs: FileSystem,
        device: OwnedFd,
        settings: Settings,
        agreed: u64,
    ) -> Result<Self, Errno> {
        let left_out = settings.left_out() | FUSE_OVER_IO_URING;
        let agreed = Agreed::adopt(agreed, left_out).ok_or(Errno::PROTO)?;
        Ok(Self::with(fs, Device::new(device)?, agreed, settings))
    }

    fn with(fs: FileSystem, device: Device, agreed: Agreed, settings: Settings) -> Self {
        // With contents of its own the kernel above would not ask for them at each reading.
        if agreed.has(FUSE_PASSTHROUGH) && !settings.facts.restart {
            fs.leaves_loud_files_unheard();
        }
        let server = Server {
            agreed,
            flush: settings.flush,
            lock_waiters: settings.lower_locks.then(LockWaiters::new),
            backings: Backings::new(
                device.clone(),
                Arc::clone(fs.state()),
                agreed.has(FUSE_PASSTHROUGH),
            ),
            counters: AllCounters::default(),
            about: About::new(settings.facts),
            fs,
            device,
        };
        let Settings { threads: usual, threads_if_stuck: stuck, machine, .. } = settings;
        let threads = Most { usual, stuck };
        let (server, porter) = (Arc::new(server), Err(String::new()));
        Self { server, threads, machine, resumes: false, porter }
    }

    /// What a program must be given that goes on after this one.
    pub fn handles(&self) -> Handles<'_> {
        let Server { fs, device, agreed, about, .. } = &*self.server;
        Handles {
            device: device.as_fd(),
            root: fs.root(),
            memory: fs.state().file(),
            group: fs.listening(),
            agreed: agreed.bits(),
            cache: &about.facts.cache,
        }
    }

    /// The lower directory.
    pub fn lower(&self) -> BorrowedFd<'_> {
        self.server.fs.root()
    }

    /// From now on callers are looked up by `look_up`, for a server that has no `/proc`.
    pub fn look_callers_up_by(
        &self,
        look_up: impl Fn(u32, Fact) -> Option<String> + Send + Sync + 'static,
    ) {
        self.server.fs.look_callers_up_by(look_up);
    }

    /// From now on `change` is asked to have access times kept otherwise: the server may not change the
    /// mount that it reads through.
    pub fn change_times_by(
        &self,
        change: impl Fn(u64) -> Result<(), Errno> + Send + Sync + 'static,
    ) {
        self.server.about.change_times_by(change);
    }

    /// See [`Keys`].
    pub fn keys(&self) -> Keys<'_> {
        self.server.fs.keys()
    }

    /// Closes what can be opened again: before a fork, after which both processes would.
    pub fn shed(&self) {
        self.server.fs.shed();
    }

    /// What the next server must know.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(self.server.fs.state())
    }

    /// Makes this process the one that serves. With `left` it takes over from one that has ended,
    /// whose descriptors are open here beside those in the set: then this comes before anything else
    /// that opens one.
    pub fn begin(&mut self, left: Option<&HashSet<RawFd>>) -> Result<(), Errno> {
        let server = Arc::get_mut(&mut self.server).ok_or(Errno::BUSY)?;
        self.resumes = left.is_some();
        server.fs.serves_here(self.resumes);
        left.map_or(Ok(()), |base| server.adopt(base))?;
        server.about.serves_here();
        self.machine.read_load();
        Ok(())
    }

    /// What tells how the mount does, at any time from now on.
    pub fn reporter(&self) -> impl Fn() -> Report + Send + 'static {
        let server = Arc::clone(&self.server);
        move || server.report()
    }

    /// Answers requests while another thread does `work`, which needs the answers, with a mount
    /// that nobody else can see.
    pub fn answer_during<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
        unattached::answer_during(&self.server, self.porter.as_mut().ok(), work)
    }

    /// Why requests do not come through io_uring, if they do not.
    pub fn without_uring(&self) -> Option<&str> {
        self.porter.as_ref().err().map(String::as_str)
    }

    /// By which numbers system calls know what the requests come through, beside `/dev/fuse`.
    pub fn rings(&self) -> Vec<RawFd> {
        self.porter.as_ref().map(Porter::numbers).unwrap_or_default()
    }

    /// Serves requests until the file system is unmounted; after [`Connection::begin`].
    pub fn serve(self) -> Result<(), Errno> {
        if let Some(waiters) = &self.server.lock_waiters {
            waiters.start(self.server.device.clone())?;
        }
        if self.resumes && self.server.resume()? == Resumed::Ended {
            return Ok(());
        }
        let notifier = Notifier::start(&self.server, self.resumes)?;
        let ended = match self.porter {
            Ok(porter) => uring::run(&self.server, porter),
            Err(_) => workers::run(&self.server, self.threads, self.machine),
        };
        drop(notifier);
        ended
    }
}

/// Reads INIT, which the kernel sends first and once, and answers it.
fn shake_hands(device: &Device, stack_depth: u32, left_out: u64) -> Result<Agreed, Errno> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match device.read(&mut buffer)? {
            Read::Request(length) => length,
            Read::Ended => return Err(Errno::NODEV),
        };
        let mut request = Request::parse(&buffer[..length]).ok_or(Errno::PROTO)?;
        if request.opcode() != Some(Opcode::Init) {
            return Err(Errno::PROTO);
        }
        let init: InitIn = request.take().map_err(|_| Errno::PROTO)?;
        // Only kernels with FUSE_INIT_EXT send the second half.
        let high = request.take::<[u8; 4]>().map_or(0, u32::from_ne_bytes);
        let unique = request.unique();
        if init.major > MAJOR {
            // It speaks a newer major version: it asks again in ours.
            let version = InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() };
            device.reply(unique, &[bytes(&version)])?;
            continue;
        }
        if (init.major, init.minor) < (MAJOR, OLDEST_MINOR) {
            device.reply_error(unique, Errno::PROTO)?;
            return Err(Errno::PROTO);
        }
        let (agreed, out) = negotiate::agree(init, high, stack_depth, left_out);
        device.reply(unique, &[bytes(&out)])?;
        return Ok(agreed);
    }
}

/// The version that an INIT message offers: for showing what a kernel can do.
pub fn offered(message: &[u8]) -> Option<(u32, u32, u64)> {
    let mut request = Request::parse(message)?;
    if request.opcode() != Some(Opcode::Init) {
        return None;
    }
    let init: InitIn = request.take().ok()?;
    let high = request.take::<[u8; 4]>().map_or(0, u32::from_ne_bytes);
    let high = if u64::from(init.flags) & FUSE_INIT_EXT == 0 { 0 } else { high };
    Some((init.major, init.minor, u64::from(init.flags) | u64::from(high) << 32))
}
