//! The helper's side: the whole life of its process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::fusectl::{self, Connection};
use super::order::{Message, Order};
use super::{NOTHING, read_exact, write_all};
use crate::daemon::{log, sandbox};
use crate::lower::caller;
use crate::mount::config::MountConfig;
use crate::mount::guard::Guard;
use crate::mount::{fuse_backend, times};
use crate::sys::memory;
use crate::sys::process::{self, Signals};

/// How often the helper looks whether the server has ended, once its first thread has.
const LOOK_AT_SERVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// What the helper hears when the server's first thread has ended.
const ENDED: Signal = Signal::USR2;

/// How far the end of a server is looked out for that sends notifications.
#[derive(Debug)]
enum Looking {
    Not,
    /// Nothing to do before this is readable.
    Waiting(Signals),
    /// The first thread has ended, or could have before anybody waited for it.
    Now,
}

/// The helper's process.
pub(super) struct HelperProcess {
    mountpoint: PathBuf,
    guard: Option<Guard>,
    /// The server's own mount of the lower directory.
    lower: Option<OwnedFd>,
    asked: OwnedFd,
    /// `None` once nobody can send anything there.
    logged: Option<OwnedFd>,
    /// Who has started this process.
    server: Pid,
    /// Where connections are found, until the mount is there.
    fusectl: Option<Result<OwnedFd, Errno>>,
    /// The mount, once it is there.
    mounted: Option<Connection>,
    looking: Looking,
    /// What takes the mount away.
    unmounting: Option<JoinHandle<()>>,
    /// The server has said that it is done.
    finished: bool,
}

impl HelperProcess {
    pub(super) fn new(
        config: &MountConfig,
        guard: Option<Guard>,
        lower: Option<OwnedFd>,
        server: Pid,
        (asked, logged): (OwnedFd, OwnedFd),
    ) -> Self {
        let kept = [Some(asked.as_fd()), Some(logged.as_fd()), lower.as_ref().map(AsFd::as_fd)];
        let kept = kept.into_iter().flatten().chain(guard.as_ref().and_then(Guard::lock));
        let kept: Vec<RawFd> = kept.map(|fd| fd.as_raw_fd()).collect();
        if let Err(error) = settle_down(config, &kept) {
            tracing::warn!("the process that unmounts keeps more than it needs: {error}");
        }
        let mountpoint = config.mountpoint.clone();
        Self {
            mountpoint,
            guard,
            lower,
            asked,
            logged: Some(logged),
            server,
            fusectl: Some(fusectl::fusectl()),
            mounted: None,
            looking: Looking::Not,
            unmounting: None,
            finished: false,
        }
    }

    /// Serves until the server has ended.
    pub(super) fn attend(mut self) -> ! {
        while let Ok(true) = self.turn() {}
        // It could also be a server that has closed its end and lives. The guard's lock ends with
        // this process.
        if !self.is_over() {
            self.end_connection();
        }
        // What the server said last.
        self.pass_log_on();
        // It waits for nobody: the connection has ended.
        self.unmounting.take().map(JoinHandle::join);
        // Nothing of the copied server is to be dropped here.
        std::process::exit(0);
    }

    /// Waits for something to do and does it; `false` when the server has ended.
    fn turn(&mut self) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(&self.asked, PollFlags::IN)];
        fds.extend(self.logged.as_ref().map(|logged| PollFd::new(logged, PollFlags::IN)));
        let logged = fds.len() > 1;
        fds.extend(match &self.looking {
            Looking::Waiting(signal) => Some(PollFd::new(signal, PollFlags::IN)),
            Looking::Not | Looking::Now => None,
        });
        let patience = matches!(self.looking, Looking::Now).then_some(LOOK_AT_SERVER);
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let asked = !fds[0].revents().is_empty();
        let ended = fds.get(1 + usize::from(logged)).is_some_and(|fd| !fd.revents().is_empty());
        self.pass_log_on();
        if ended {
            self.looking = Looking::Now;
        }
        if matches!(self.looking, Looking::Now) && process::has_stuck_threads(self.server) {
            self.looking = Looking::Not;
            self.end_connection();
        }
        if !asked {
            return Ok(true);
        }
        let mut message = Message::default();
        read_exact(&self.asked, &mut message)?;
        match Order::decode(message) {
            Some(Order::Unmount) => self.unmount(),
            Some(Order::Fact(fact, tid)) => self.answer(caller::look_up(tid, fact).as_deref())?,
            Some(Order::Mounted(number)) => {
                // Whoever says it once more is another than the one that has mounted.
                let fusectl = self.fusectl.take();
                if let Some(fusectl) = &fusectl {
                    self.mounted = Some(Connection::of(number, &self.mountpoint, fusectl));
                }
                write_all(&self.asked, &[0])?;
                drop(fusectl);
            }
            Some(Order::Times(bits)) => {
                let errno = self.keep_times(bits).map_or_else(Errno::raw_os_error, |()| 0);
                write_all(&self.asked, &errno.to_ne_bytes())?;
            }
            Some(Order::Notifies) => self.looking = look_out(self.server),
            Some(Order::Finish) => {
                self.finish();
                write_all(&self.asked, &[0])?;
            }
            Some(Order::Echo(number)) => write_all(&self.asked, &number.to_ne_bytes())?,
            None => return Ok(false), // no server says that
        }
        Ok(true)
    }

    fn keep_times(&self, bits: u64) -> Result<(), Errno> {
        let (set, clear) = times::decode(bits).ok_or(Errno::INVAL)?;
        times::change(self.lower.as_ref().ok_or(Errno::NOTSUP)?.as_fd(), set, clear)
    }

    fn answer(&self, text: Option<&str>) -> Result<(), Errno> {
        let length = text.and_then(|text| u32::try_from(text.len()).ok());
        let mut answer = length.unwrap_or(NOTHING).to_ne_bytes().to_vec();
        answer.extend(text.filter(|_| length.is_some()).unwrap_or_default().as_bytes());
        write_all(&self.asked, &answer)
    }

    fn pass_log_on(&mut self) {
        // Memory that is not written to takes none.
        let mut line = Vec::with_capacity(64 * 1024);
        while let Some(logged) = &self.logged {
            line.clear();
            match rustix::io::read(logged, spare_capacity(&mut line)) {
                Ok(length) if length > 0 => log::pass_on(&line),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The end, or what no server sends; waiting for more would never sleep.
                Ok(_) | Err(_) => self.logged = None,
            }
        }
    }

    /// Whether the server has ended by itself, and the mount before it. The next mount may have its
    /// number by now, and must not be taken for it.
    fn is_over(&self) -> bool {
        self.finished && self.unmounting.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Undoes the guard, if the mount does not go on.
    fn finish(&mut self) {
        self.finished = true;
        let Some(guard) = self.guard.take() else { return };
        let ended = self.mounted.as_ref().map_or(Ok(()), |mount| mount.end(&self.mountpoint));
        match ended {
            Ok(()) => drop(guard),
            Err(errno) => {
                tracing::error!(
                    "it cannot be found out whether the mount goes on ({errno}): its guard stays; \
                     'idshift unguard' undoes it"
                );
                guard.leave();
            }
        }
    }

    fn end_connection(&self) {
        if let Some(Err(errno)) = self.mounted.as_ref().map(|mount| mount.end(&self.mountpoint)) {
            tracing::debug!("the connection of a server that has ended: {errno}");
        }
    }

    /// By a thread of its own: unmounting may wait for the server, which may wait for an answer.
    fn unmount(&mut self) {
        let Some(mount) = self.mounted.as_ref().map(Connection::mount) else { return };
        let mountpoint = self.mountpoint.clone();
        let unmounting = move || fuse_backend::detach_own(&mountpoint, mount);
        match std::thread::Builder::new().spawn(unmounting) {
            Ok(thread) => self.unmounting = Some(thread),
            Err(error) => tracing::error!("cannot unmount: {error}"),
        }
    }
}

/// Waits for the end of the server's first thread, which has started this process.
fn look_out(server: Pid) -> Looking {
    let wait = || {
        let signal = Signals::collect(&[ENDED])?;
        process::signal_when_parent_ends(ENDED).map(|()| signal)
    };
    match wait() {
        Ok(_) if process::has_stuck_threads(server) => Looking::Now,
        Ok(signal) => Looking::Waiting(signal),
        Err(errno) => {
            tracing::warn!(%errno, "the server's end is looked out for again and again");
            Looking::Now
        }
    }
}

/// What the copy of the server must not keep.
fn settle_down(config: &MountConfig, kept: &[RawFd]) -> Result<(), io::Error> {
    // Whoever starts a mount in the background waits for its output to end.
    if !config.foreground {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        rustix::process::chdir("/")?;
        rustix::process::setsid()?;
    }
    #[allow(unsafe_code)]
    // SAFETY: this process is a copy that never returns; what it uses is kept.
    unsafe { process::close_all_but(kept) }?;
    rustix::thread::set_name(c"idshift-helper")?;
    // These are for the server. They reach the whole group when they come from a terminal or from
    // a service manager, or go to all processes of this name.
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    sandbox::shut_memory().map_err(io::Error::other)?;
    memory::give_back();
    Ok(give_up_rights()?)
}

/// What unmounting, undoing guards, and looking at callers need.
fn give_up_rights() -> Result<(), Errno> {
    let needed = CapabilitySet::SYS_ADMIN
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH;
    let now = rustix::thread::capabilities(None)?;
    let kept = now.permitted.intersection(needed);
    let reduced =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, reduced)
}
