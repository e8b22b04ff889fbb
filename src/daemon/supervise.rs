//! The process that keeps a mount alive: it holds what the server needs, waits, and starts a new
//! server when one ends without having been told to.
//!
//! The server is a fork that shares the table of descriptors: /dev/fuse, the lower tree and the open
//! files stay open when it is killed. What they are is in [`crate::state`], which both have mapped.
//! The supervisor itself has one thread, reads no request and looks at no lower file.
//!
//! A server is confined, and the supervisor is not. So while one lives whose threads can still make
//! calls, the supervisor opens no directory and nothing else that leads to the host's files: the
//! server could use it. Files in `/proc` lead nowhere.

use std::collections::HashSet;
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::adopt::Adopted;
use super::helper::Helper;
use super::upgrade::handover::Handover;
use super::{sandbox, upgrade};
use crate::config::Sandbox;
use crate::error::StartError;
use crate::fuse::connection::{Connection, WORKER};
use crate::mount::config::MountConfig;
use crate::mount::fuse_backend;
use crate::state::{Number, State};
use crate::sys::process::{self, Arrived, Forked, Signals};

/// A server that has lived no longer than this has died early.
const EARLY: Duration = Duration::from_millis(250);
/// After so many early deaths, one after the other, the mount is taken away.
const MOST_EARLY: u32 = 15;
/// How often to look whether a killed server is one that cannot end.
const LOOK_AT_SERVER: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a killed server's change of the lower tree is waited for, which cannot be cut off while
/// the lower file system is at it: a new server would do it a second time.
const MOST_CHANGE: Duration = Duration::from_secs(30);
/// How long the threads of a server that has ended may take to follow the first one.
const FOLLOWING: Duration = Duration::from_millis(200);
/// How long to wait after the first early death; doubled for each further one, up to 64 ms.
const PAUSE: Duration = Duration::from_millis(2);

/// The signals that the supervisor waits for.
const SIGNALS: [Signal; 6] =
    [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, upgrade::SIGNAL];
/// Those that a server hears of. Nobody has anything to ask a server for by the last one. They are
/// held back from before the mount is announced until a server listens: else one that comes between
/// ends the server and leaves the mount, or has a new server started.
pub(super) const SERVERS_SIGNALS: [Signal; 5] =
    [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1];

/// Takes the mount away, if it is still there and nothing lies on it.
pub(super) struct Unmounter {
    mountpoint: PathBuf,
    own: u64,
}

impl Unmounter {
    /// For the mount of this number.
    pub(super) fn new(config: &MountConfig, mount: u64) -> Self {
        Self { own: mount, mountpoint: config.mountpoint.clone() }
    }

    /// Detaches the mount: it ends with its last open file. While no server lives: the descriptor for
    /// the mount point leads up to the host's root.
    pub(super) fn detach(&self) {
        fuse_backend::detach_own(&self.mountpoint, self.own);
    }

    /// The same beside a server, in a copy of this process whose descriptors that does not share.
    fn detach_apart(&self) {
        let ended = match process::fork() {
            Ok(Forked::Child) => {
                fuse_backend::detach_own(&self.mountpoint, self.own);
                std::process::exit(0)
            }
            Ok(Forked::Parent(copy)) => {
                rustix::process::waitpid(Some(copy), WaitOptions::empty()).map(drop)
            }
            Err(errno) => Err(errno),
        };
        if let Err(errno) = ended {
            tracing::error!(%errno, "cannot unmount");
        }
    }
}

/// What a supervisor must know beside the connection.
pub(super) struct Supervised<'a> {
    pub(super) config: &'a MountConfig,
    pub(super) helper: &'a Helper,
    /// The number of the mount.
    pub(super) mount: u64,
    /// Where another program has supervised before.
    pub(super) adopted: Option<Adopted>,
}

/// Has servers serve the connection until it ends. `serve` is what a server does, in its own process;
/// for all but the first it gets the descriptors that were open before.
pub(super) fn run(
    connection: Connection,
    supervised: Supervised<'_>,
    serve: impl Fn(Connection, Option<&HashSet<RawFd>>) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let system = |errno: Errno| StartError::System {
        what: "cannot start a server process".into(),
        source: errno.into(),
    };
    let Supervised { config, helper, mount, mut adopted } = supervised;
    if !config.foreground
        && let Err(error) = std::env::set_current_dir("/")
    {
        tracing::warn!("cannot leave the working directory: {error}");
    }
    let state = connection.state();
    // A server that ends by itself closes what it had, in the common table: not a second time here.
    let connection = ManuallyDrop::new(connection);
    // For a server that has just been started: it hears of it once it listens, and must not end.
    signal_hook::flag::register(Signal::USR1.as_raw(), Arc::default())
        .map_err(|source| StartError::System { what: "cannot wait for signals".into(), source })?;
    let signals = Signals::collect(&SIGNALS).map_err(system)?;
    let unmounter = Unmounter::new(config, mount);
    connection.shed();
    // The server would, after that.
    if config.options.sandbox == Sandbox::On
        && let Err(errno) = sandbox::close_inherited()
    {
        tracing::warn!(%errno, "descriptors of whoever started it stay open");
    }
    let mut base = process::open_descriptors().map_err(system)?;
    // What is left of servers of the program before this one is no part of it.
    let left = adopted.as_ref().map(|adopted| &adopted.of_servers);
    base.retain(|number| left.is_none_or(|left| !left.contains(number)));
    let mut is_first = true;
    let mut early = 0;
    let mut stuck: Vec<Pid> = Vec::new();
    loop {
        let started = Instant::now();
        #[allow(unsafe_code)]
        // SAFETY: the supervisor reads and closes nothing of what the connection owns while a server
        // lives, and the server exits without dropping what is the supervisor's.
        let forked = unsafe { process::fork_sharing_descriptors() };
        let pid = match forked.map_err(system)? {
            Forked::Child => {
                let left = (!is_first || adopted.is_some()).then_some(&base);
                std::process::exit(be_server(config, || {
                    serve(ManuallyDrop::into_inner(connection), left)
                }))
            }
            Forked::Parent(pid) => pid,
        };
        if is_first {
            adopted.iter_mut().for_each(Adopted::tell);
        }
        is_first = false;
        stuck.retain(|&pid| matches!(ended(pid), Ok(None)));
        let left = || upgrade::handover(config, &connection, helper, mount);
        let server = Attended { pid, state: &state, unmounter: &unmounter };
        let (end, wanted_by) = match attend(&server, &signals, left) {
            Ok(attended) => attended,
            // Nobody would look after the server any more.
            Err(errno) => {
                let ended =
                    rustix::process::kill_process(pid, Signal::KILL).and_then(|()| followed(pid));
                unmounter.detach();
                tracing::debug!(?ended, "a server that cannot be attended");
                return Err(system(errno));
            }
        };
        if matches!(end, End::Stuck) {
            stuck.push(pid);
        }
        if end.code() == Some(0) {
            return Ok(());
        }
        if let Some(code) = end.code() {
            unmounter.detach();
            return Err(StartError::Mount(format!(
                "the server has failed with exit code {code}: the mount is taken away"
            )));
        }
        if let Some(by) = wanted_by {
            upgrade::replace(by, left());
            // It has not come to that.
            continue;
        }
        early = if started.elapsed() < EARLY { early + 1 } else { 0 };
        if early >= MOST_EARLY {
            unmounter.detach();
            return Err(StartError::Mount(format!(
                "the server has {end} {MOST_EARLY} times, each time as soon as it was started: the \
                 mount is taken away"
            )));
        }
        count_restart(&state);
        tracing::warn!("the server has {end}: a new one takes over");
        if early > 1 {
            thread::sleep(PAUSE * 2_u32.pow((early - 2).min(5)));
        }
    }
}

fn count_restart(state: &Arc<State>) {
    state.number(Number::Restarts).fetch_add(1, Ordering::SeqCst);
}

/// What the child does; returns its exit code.
fn be_server(config: &MountConfig, serve: impl FnOnce() -> Result<(), StartError>) -> i32 {
    // Whoever kills a foreground process wants the mount to end. In the background the server goes
    // on without its supervisor.
    if config.foreground
        && let Err(errno) = process::signal_when_parent_ends(Signal::TERM)
    {
        tracing::warn!(%errno, "the server does not hear of its parent's end");
    }
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            i32::from(error.exit_code())
        }
    }
}

/// How a server has ended.
enum End {
    Status(WaitStatus),
    /// It has been killed, but one of its threads cannot end: a notification waits for a lock whose
    /// holder waits for an answer. The next server gives that.
    Stuck,
}

/// A server, as its supervisor sees it.
struct Attended<'a> {
    pid: Pid,
    state: &'a State,
    unmounter: &'a Unmounter,
}

/// Waits until the server has ended; unmounts, and has it report, when asked to meanwhile. Returns
/// also for whom it was ended, if somebody wants another program, to which `left` would be left.
fn attend(
    server: &Attended<'_>,
    signals: &Signals,
    left: impl Fn() -> Handover,
) -> Result<(End, Option<Pid>), Errno> {
    let (mut wanted_by, mut dying) = (None, None);
    loop {
        if let Some(status) = ended(server.pid)? {
            return Ok((End::Status(status), wanted_by));
        }
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&LOOK_AT_SERVER)) {
            Ok(0) => {}
            Ok(_) => {
                let Arrived { signal, sender } = signals.next()?;
                match sender.filter(|_| signal == upgrade::SIGNAL.as_raw()) {
                    Some(by) if wanted_by.is_none() && upgrade::is_wanted(by, &left) => {
                        wanted_by = Some(by);
                        upgrade::end_server(server.pid, server.state)?;
                    }
                    _ => server.obey(signal)?,
                }
                continue;
            }
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        if process::has_stuck_threads(server.pid) {
            // A first thread can also end by itself, and leave others that make calls: what the next
            // server opens before it is confined would be open to them. Past this no thread gets back
            // to instructions of its own, also one that cannot end yet.
            rustix::process::kill_process(server.pid, Signal::KILL)?;
            if let Some(status) = followed(server.pid)? {
                return Ok((End::Status(status), wanted_by));
            }
            let since = *dying.get_or_insert_with(Instant::now);
            let changing = server.is_changing();
            if changing && since.elapsed() > MOST_CHANGE {
                tracing::warn!(
                    "the lower file system does not finish a change that a killed server has \
                     begun: the next server may do it once more"
                );
            }
            if !changing || since.elapsed() > MOST_CHANGE {
                return Ok((End::Stuck, wanted_by));
            }
        }
    }
}

impl Attended<'_> {
    /// Whether a thread that answers requests may still be changing the lower tree.
    fn is_changing(&self) -> bool {
        let begun =
            self.state.in_flight.all().any(|record| record.unique() != 0 && record.is_changing());
        begun && process::thread_names(self.pid).iter().any(|name| name.starts_with(WORKER))
    }

    fn obey(&self, signal: i32) -> Result<(), Errno> {
        if signal == Signal::USR1.as_raw() {
            // Whoever knows the mount by this process wants the server's report.
            return rustix::process::kill_process(self.pid, Signal::USR1);
        }
        if signal != Signal::CHILD.as_raw() && signal != upgrade::SIGNAL.as_raw() {
            self.unmounter.detach_apart();
        }
        Ok(())
    }
}

/// Waits for the other threads of a process whose first one has ended; usually they end at once.
fn followed(pid: Pid) -> Result<Option<WaitStatus>, Errno> {
    let until = Instant::now() + FOLLOWING;
    while Instant::now() < until {
        if let Some(status) = ended(pid)? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

fn ended(pid: Pid) -> Result<Option<WaitStatus>, Errno> {
    Ok(rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)?.map(|(_, status)| status))
}

impl End {
    /// The exit code; `None` if it was killed.
    fn code(&self) -> Option<i32> {
        match self {
            End::Status(status) => status.exit_status(),
            End::Stuck => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Status(status) => match (status.terminating_signal(), status.exit_status()) {
                (Some(signal), _) => write!(f, "been killed by signal {signal}"),
                (None, code) => write!(f, "failed with exit code {}", code.unwrap_or_default()),
            },
            End::Stuck => f.write_str("been killed while it told the kernel something"),
        }
    }
}
