//! Putting a running mount together, and serving it until it is unmounted.

use std::collections::HashSet;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::adopt::Adopted;
use super::helper::{Helper, Line};
use super::supervise::{self, SERVERS_SIGNALS, Supervised};
use super::{background, facts, log, sandbox};
use crate::config::{CacheMode, DEFAULT_TTL, LockMode, Sandbox, Transport};
use crate::error::{FsError, StartError};
use crate::fs::{FileSystem, Keeping, Options};
use crate::fuse::connection::{Connection, Machine, Settings};
use crate::fuse::notify;
use crate::host::mountinfo;
use crate::lower::LowerTree;
use crate::lower::cred::{self, Keep};
use crate::lower::watch::{Unheard, Who};
use crate::mount::config::MountConfig;
use crate::mount::dirs::{Dir, Dirs};
use crate::mount::fuse_backend::{self, Mounted};
use crate::mount::inherit::{self, Below};
use crate::mount::{acting, guard, ownership, policy_check, times};
use crate::plain;
use crate::report::{Cache, Report};
use crate::shift::acl::Unmapped;
use crate::state::WORKERS;
use crate::sys;

/// Descriptors that are left for callers' open files and the server's own needs.
const RESERVED: u64 = 64;
/// The most descriptors worth caching: beyond it a reopen by handle costs less than the memory.
const MAX_CACHED: u64 = 4096;

/// Mounts, calls `ready` once there is nothing left that the server needs, and serves until it is
/// unmounted. SIGTERM, SIGINT and SIGHUP unmount it, SIGUSR1 writes a report into the log.
///
/// From the sandbox on there are no paths, and no other process can be started: whatever needs one
/// is done before, or by the helper. `ready` is called before, so that what it tells others by is
/// not open inside; requests that come then wait a moment. No thread may be started before it.
pub fn serve(
    config: &MountConfig,
    dirs: Dirs,
    ready: Box<dyn FnOnce(&MountConfig) + Send>,
) -> Result<(), StartError> {
    let cached = prepare_limits()?;
    let Dirs { lower: lower_dir, mountpoint } = dirs;
    let (mut lower, guard) = guard::open_lower(config, &lower_dir, cached)?;
    // Through it the way leads up to the host's root.
    drop(lower_dir);
    let paths = mounts_below(config);
    let (config, below) = inherit::inherit(config, &lower, &paths)?;
    let config = &config;
    lower.know_mounts(paths);
    times::prepare(config, &lower);
    // Kept to the end: then the guard is undone.
    let helper = Helper::start(config, guard, lower.private_mount())?;
    let (keeping, cache) = keeping(config, &mut lower)?;
    let fs = file_system(config, lower, keeping)?;
    let (connection, mount, to_close) = connect(fs, config, (mountpoint, &below), cache)?;
    helper.line().mounted(mount).map_err(gone)?;
    if log::is_in_background() {
        background::leave_session();
    }
    let notifies = matches!(keeping, Keeping::Notified(_));
    let running = Running { connection, helper, mount, notifies, adopted: None, to_close };
    run(config, running, ready)
}

/// All that serving a mount takes.
pub(super) struct Running {
    pub(super) connection: Connection,
    pub(super) helper: Helper,
    /// The mount's number.
    pub(super) mount: u64,
    /// Whether the kernel is told of changes below.
    pub(super) notifies: bool,
    /// Where this program goes on after another.
    pub(super) adopted: Option<Adopted>,
    /// What nobody has to wait for.
    pub(super) to_close: Vec<OwnedFd>,
}

pub(super) fn run(
    config: &MountConfig,
    running: Running,
    ready: Box<dyn FnOnce(&MountConfig) + Send>,
) -> Result<(), StartError> {
    let Running { connection, helper, mount, notifies, adopted, mut to_close } = running;
    let line = helper.line();
    connection.look_callers_up_by(move |tid, fact| line.fact(tid, fact));
    let line = helper.line();
    connection.change_times_by(move |bits| line.times(bits));
    let failed = |what: &str, errno: Errno| StartError::System {
        what: what.to_owned(),
        source: errno.into(),
    };
    let mut ready = Some(ready);
    // The last that is done with what a server must not have.
    let mut close_up = || {
        if let Some(ready) = ready.take() {
            ready(config);
        }
        to_close.clear();
        if config.options.sandbox == Sandbox::On {
            sandbox::shut_streams();
        }
    };
    // All that comes before the first request in the process that serves.
    let begin = |connection: &mut Connection, left: Option<&HashSet<RawFd>>| {
        connection.begin(left).map_err(|errno| failed("the server cannot begin", errno))?;
        if left.is_some() {
            helper.line().resume().map_err(gone)?;
        }
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(no_signals)?;
        sys::process::unblock(&SERVERS_SIGNALS)
            .map_err(|errno| failed("cannot wait for signals", errno))?;
        if config.options.sandbox == Sandbox::On {
            sandbox::enter(config, connection.lower(), (connection.keys(), connection.rings()));
        }
        // What putting it together has taken.
        sys::memory::give_back();
        let unmount = unmounting(config, helper.line());
        wait_for_signals(signals, config.map_in_words(), connection.reporter(), unmount)
    };
    let serve = |connection: Connection| {
        connection.serve().map_err(|errno| failed("the FUSE connection broke", errno))
    };
    sys::process::block(&SERVERS_SIGNALS)
        .map_err(|errno| failed("cannot wait for signals", errno))?;
    let served = if config.options.restart {
        let supervisor = std::process::id();
        let serve = |mut connection: Connection, left: Option<&HashSet<RawFd>>| {
            begin(&mut connection, left)?;
            let served = serve(connection);
            // Else the supervisor has the helper undo what was done outside.
            if std::os::unix::process::parent_id() != supervisor {
                helper.line().finish();
            }
            served
        };
        let supervised = Supervised { config, helper: &helper, mount, adopted };
        close_up();
        supervise::run(connection, supervised, serve)
    } else {
        let mut connection = connection;
        if notifies {
            helper.line().notifies().map_err(gone)?;
        }
        close_up();
        begin(&mut connection, None).and_then(|()| serve(connection))
    };
    if served.is_err() {
        // Nobody answers any more: no dead mount is left.
        helper.line().unmount();
    }
    match &served {
        Ok(()) => tracing::info!("unmounted"),
        // With the helper goes the way to whoever reads what this process writes.
        Err(error) if config.options.sandbox == Sandbox::On => complain!("idshift: {error}"),
        Err(_) => {}
    }
    drop(helper);
    served
}

fn gone(errno: Errno) -> StartError {
    StartError::System { what: "the helper has gone".into(), source: errno.into() }
}

/// Everything that requests ask for.
pub(super) fn file_system(
    config: &MountConfig,
    lower: LowerTree,
    keeping: Keeping,
) -> Result<FileSystem, StartError> {
    let options = Options {
        maps: config.maps.clone(),
        unmapped_acl: unmapped_acl(),
        policies: config.options.policies,
        io: config.options.io,
        owners: ownership::open(config, &lower)?,
        keeping,
        acting: acting::of(config, &lower)?,
        ids: if lower.is_remote() { Keep::OneCall } else { Keep::UntilOthers },
    };
    policy_check::check_lower(config.options.policies, &lower)?;
    prepare_credentials();
    Ok(FileSystem::new(lower, options))
}

/// What is mounted below the lower directory and will be shown, by its path from there.
pub(super) fn mounts_below(config: &MountConfig) -> Vec<PathBuf> {
    if !config.options.submounts {
        return Vec::new();
    }
    let below = |mount: mountinfo::Mount| {
        let path = mount.mountpoint.strip_prefix(&config.lower).ok()?.to_owned();
        (!path.as_os_str().is_empty()).then_some(path)
    };
    mountinfo::read().unwrap_or_default().into_iter().filter_map(below).collect()
}

/// Remembered for good, as far as the kernel's clock goes.
pub(super) const FOR_GOOD: Duration = Duration::from_secs(86_400);

/// How what the kernel caches is kept true. For notifications, starts to
/// watch the lower tree.
fn keeping(config: &MountConfig, lower: &mut LowerTree) -> Result<(Keeping, Cache), StartError> {
    let kept = |mode: &str| Cache { mode: mode.to_owned(), why: None };
    let mut watched = |who| notify::supported().and_then(|()| lower.start_watching(who));
    Ok(match config.options.cache {
        CacheMode::None => (Keeping::For(Duration::ZERO), kept("none")),
        CacheMode::Ttl(time) => (Keeping::For(time), kept(&format!("ttl:{}", time.as_secs_f64()))),
        CacheMode::Exclusive => (Keeping::For(FOR_GOOD), kept("exclusive")),
        CacheMode::Coherent => {
            watched(Who::Anybody).map_err(|why| {
                StartError::Mount(format!(
                    "option 'cache=coherent': {why}; without the option, or with cache=ttl:1, a \
                     change below shows within a second"
                ))
            })?;
            (Keeping::Notified(notify::abilities()), kept("coherent"))
        }
        CacheMode::Auto => match watched(Who::Root) {
            Ok(()) => (Keeping::Notified(notify::abilities()), kept("coherent")),
            Err(why) => {
                let cache = Cache { mode: "ttl:1".to_owned(), why: Some(why.to_string()) };
                // What is the case on every mount of this kind needs no attention.
                match why {
                    Unheard::Limit { .. } => tracing::warn!("cache={cache}"),
                    Unheard::Impossible(_) => tracing::info!("cache={cache}"),
                }
                (Keeping::For(DEFAULT_TTL), cache)
            }
        },
    })
}

pub(super) fn settings(fs: &FileSystem, config: &MountConfig, cache: Cache) -> Settings {
    let machine = Machine::look();
    Settings {
        flush: fs.is_remote(),
        read_only: config.options.flags.read_only,
        stack_depth: stack_depth(fs),
        lower_locks: config.options.locks == LockMode::Lower,
        io: config.options.io,
        exports: fs.finds_by_number(),
        judges_opening: fs.acts_as_others()
            || fs.has_made_files()
            || !config.options.policies.is_default_for_writing(),
        acls: fs.has_acls(),
        judged_below: fs.acts_as_others(),
        gather_writes: config.options.cache == CacheMode::Exclusive
            && !config.options.flags.read_only,
        // Through an idmapped mount requests do not say who makes them.
        idmap: !config.options.no_idmap && !fs.acts_as_callers(),
        uring: config.options.transport == Transport::Uring,
        threads: config.options.threads.unwrap_or(machine.cpus().clamp(2, 8) * 2),
        threads_if_stuck: config.options.threads.unwrap_or(WORKERS),
        facts: facts::of(config, fs, cache),
        machine,
    }
}

fn connect(
    fs: FileSystem,
    config: &MountConfig,
    (mountpoint, below): (Dir, &[Below]),
    cache: Cache,
) -> Result<(Connection, u64, Vec<OwnedFd>), StartError> {
    let settings = settings(&fs, config, cache);
    let Mounted { device, detached, to_close } = fuse_backend::mount(config, mountpoint, below)?;
    let is_shown = detached.is_none();
    let established = Connection::establish(fs, device, settings).map_err(|errno| match errno {
        Errno::PROTO => "this kernel's FUSE is older than Linux 4.18's".to_owned(),
        Errno::NODEV => "it was unmounted before it could answer".to_owned(),
        other => format!("no handshake with the kernel's FUSE: {other}"),
    });
    let asked = |connection: Connection| match connection.without_uring() {
        Some(why) if config.options.transport == Transport::Uring => {
            Err(format!("option 'transport=uring': {why}; leave it out to read from /dev/fuse"))
        }
        _ => Ok(connection),
    };
    let mut connection = established.and_then(asked).map_err(|why| {
        if is_shown {
            fuse_backend::detach_own(
                &config.mountpoint,
                fuse_backend::mount_id(&config.mountpoint),
            );
        }
        StartError::Mount(why)
    })?;
    let Some(detached) = detached else {
        return Ok((
            connection,
            fuse_backend::mount_id(&config.mountpoint),
            Vec::from_iter(to_close),
        ));
    };
    let (mount, unused) = fuse_backend::attach(&mut connection, detached, config, below)?;
    Ok((connection, mount, to_close.into_iter().chain([unused]).collect()))
}

/// Lifts limits as far as that is possible; returns how many descriptors may be cached.
pub(super) fn prepare_limits() -> Result<usize, StartError> {
    lift_file_size_limit()?;
    Ok(raise_descriptor_limit())
}

/// Raises the soft limit to the hard one; returns how many descriptors may be cached.
fn raise_descriptor_limit() -> usize {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
    let cached = (limit.saturating_sub(RESERVED) / 2).clamp(16, MAX_CACHED);
    usize::try_from(cached).unwrap_or(16)
}

/// Lets files be as long as their file systems allow: by its own limit the kernel above has judged
/// the caller already. Where the server's (`ulimit -f`) cannot be lifted, more than that is no more
/// than an errno.
fn lift_file_size_limit() -> Result<(), StartError> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(no_signals)?;
    let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
    let wanted = [None, maximum].map(|limit| Rlimit { current: limit, maximum: limit });
    if !wanted.into_iter().any(|limit| rustix::process::setrlimit(Resource::Fsize, limit).is_ok()) {
        tracing::debug!("the limit of the size of files stays");
    }
    Ok(())
}

/// What the workers' credentials rest on; each step matters only where the server has the right
/// to it, and is done without where not.
fn prepare_credentials() {
    rustix::process::umask(rustix::fs::Mode::empty());
    let steps = [
        (
            "keeping capabilities across fsuid changes",
            cred::keep_capabilities().map_err(FsError::errno),
        ),
        ("dropping supplementary groups", sys::cred::set_groups(&[])),
        ("dropping CAP_SYS_RESOURCE, so that quotas hold", drop_sys_resource()),
    ];
    for (step, result) in steps {
        if let Err(errno) = result {
            tracing::debug!(%errno, "not done: {step}");
        }
    }
}

fn drop_sys_resource() -> Result<(), Errno> {
    let now = rustix::thread::capabilities(None)?;
    let without = |set: CapabilitySet| set.difference(CapabilitySet::SYS_RESOURCE);
    let reduced = CapabilitySets {
        effective: without(now.effective),
        permitted: without(now.permitted),
        inheritable: without(now.inheritable),
    };
    rustix::thread::set_capabilities(None, reduced)
}

/// The placeholder for unmapped ACL entries is an id that this user namespace must know.
fn unmapped_acl() -> Unmapped {
    let covers = |line: &str| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted = u64::from(u32::MAX - 1);
        Some(first <= wanted && wanted < first + count)
    };
    let maps = |path| std::fs::read_to_string(path).unwrap_or_default();
    let all = ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .all(|path| maps(path).lines().any(|line| covers(line) == Some(true)));
    if all { Unmapped::Placeholder } else { Unmapped::Drop }
}

/// A lower file system that is stacked itself needs a deeper stack for passthrough; a flat one
/// leaves room for an overlayfs above the mount.
fn stack_depth(fs: &FileSystem) -> u32 {
    const STACKED: [u64; 2] = [0x794c_7630, 0x6573_5546]; // overlayfs, FUSE (linux/magic.h)
    if STACKED.contains(&fs.magic()) { 2 } else { 1 }
}

fn no_signals(source: std::io::Error) -> StartError {
    StartError::System { what: "cannot wait for signals".into(), source }
}

/// Has the helper take the mount away.
fn unmounting(config: &MountConfig, helper: Arc<Line>) -> impl Fn(i32) + Send + 'static {
    let mountpoint = config.mountpoint.clone();
    move |signal| {
        tracing::info!(signal, "unmounting '{}'", plain::path(&mountpoint));
        helper.unmount();
    }
}

fn wait_for_signals(
    mut signals: Signals,
    map: String,
    report: impl Fn() -> Report + Send + 'static,
    unmount: impl Fn(i32) + Send + 'static,
) -> Result<(), StartError> {
    let wait = move || {
        for signal in &mut signals {
            if signal == SIGUSR1 {
                report().in_words(&map, None).lines().for_each(|line| tracing::info!("{line}"));
            } else {
                unmount(signal);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(no_signals)?;
    Ok(())
}
