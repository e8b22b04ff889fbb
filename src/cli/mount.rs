//! `idshift mount`: check, mount, and serve until the mount is taken away.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cli::status::ask::{Answer, Asking, PATIENCE};
use crate::config::{Backend, MountFlags};
use crate::daemon::background::{self, Background, ServiceManager};
use crate::daemon::{log, resume, sandbox, serve};
use crate::error::StartError;
use crate::host::cgroups;
use crate::host::privilege::Standing;
use crate::mount::check::{self, MountRequest};
use crate::mount::config::MountConfig;
use crate::mount::kernel_backend::{self, Choice};
use crate::mount::options::{Options, Origin};
use crate::mount::{policy_check, remount};
use crate::plain;
use crate::report::Question;

use parts::Parts;

mod parts;

/// Show LOWER at MOUNTPOINT with its ids shifted
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct Args {
    /// Mount options, separated by commas; may be given several times
    #[arg(short = 'o', value_name = "OPTS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// An id map, as in -o map=SPEC; may be given several times
    #[arg(short, long, value_name = "SPEC")]
    map: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    foreground: bool,
    /// Say what is done
    #[arg(short, long)]
    verbose: bool,
    /// Print errors alone, no warnings
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Move to the top of the control groups first: the mount outlives whoever calls, such as a container
    #[arg(long)]
    leave_cgroup: bool,
    /// Go on with what another program has left: `idshift upgrade` gives this
    #[arg(long = "go-on", hide = true, value_name = "LEFT", require_equals = true)]
    resume: Option<String>,
    /// Mount what is below another mount (`mount/parts.rs`): who gave the options
    #[arg(long, hide = true, value_name = "ORIGIN", require_equals = true)]
    part: Option<String>,
    /// Mount all that is below another mount
    #[arg(long, hide = true, value_name = "ORIGIN", require_equals = true)]
    parts: Option<String>,
    /// The directory as it is stored
    #[arg(value_hint = clap::ValueHint::DirPath)]
    lower: PathBuf,
    /// Where to show it
    #[arg(value_hint = clap::ValueHint::DirPath)]
    mountpoint: PathBuf,
}

/// A mount command in whichever syntax it came.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct Call {
    /// The stored directory.
    pub lower: PathBuf,
    /// Where to show it.
    pub mountpoint: PathBuf,
    /// `-o` strings.
    pub options: Vec<String>,
    /// Map specs that came outside of `-o`.
    pub maps: Vec<String>,
    /// Do everything but the mount (`-f` of mount(8)).
    pub fake: bool,
    /// Say what is done.
    pub verbose: bool,
    /// Say nothing but errors.
    pub quiet: bool,
    /// Leave the caller's control groups.
    pub leave_cgroup: bool,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Go on with what another program has left ([`crate::daemon::upgrade::OPTION`]).
    pub resume: Option<String>,
    /// It is part of a mount; the word says who gave the options ([`Origin::word`]).
    pub part: Option<String>,
    /// Enter this mount namespace first: a process id or the path of a namespace file.
    pub namespace: Option<PathBuf>,
}

impl From<Args> for Call {
    fn from(args: Args) -> Self {
        Self {
            lower: args.lower,
            mountpoint: args.mountpoint,
            options: args.options,
            maps: args.map,
            foreground: args.foreground,
            verbose: args.verbose,
            quiet: args.quiet,
            leave_cgroup: args.leave_cgroup,
            resume: args.resume,
            part: args.part,
            ..Self::default()
        }
    }
}

/// Runs the command; returns when the mount answers or, in the foreground, when it has ended.
pub fn run(args: Args) -> Result<u8, StartError> {
    let origin = match args.part.as_deref().or(args.parts.as_deref()) {
        Some(word) if word == Origin::MountProgram.word() => Origin::MountProgram,
        _ => Origin::Command,
    };
    if args.parts.is_some() {
        let call = Call::from(args);
        let mut options = Options::parse(&call.options, origin, MountFlags::default())?;
        options.maps.extend(call.maps.iter().cloned());
        return parts::mount_all(&call, &options, origin);
    }
    execute(args.into(), origin)
}

/// Does what both syntaxes of the command ask for.
pub fn execute(call: Call, origin: Origin) -> Result<u8, StartError> {
    // Wrong usage is found before a second process is started.
    let mut options = Options::parse(&call.options, origin, MountFlags::default())?;
    if let Some(how) = &call.resume {
        resume::resume(how, options)?;
        return Ok(0);
    }
    options.maps.extend(call.maps.iter().cloned());
    // `mount -a` asks for what is there already where the mount table does not tell it so: where what
    // is mounted is not the file system's own root (`fuse/root.rs`).
    if origin == Origin::MountProgram
        && call.namespace.is_none()
        && call.part.is_none()
        && !options.remount
        && check::is_there_already(&call.lower, &call.mountpoint, &options)
    {
        return Ok(0);
    }
    let parts = Parts::of(&call, &options, origin);
    let background = if call.foreground || call.fake || options.remount {
        None
    } else {
        match background::start()? {
            background::Side::Command(code) => return Ok(parts::after(parts, code)),
            background::Side::Server(background) => Some(background),
        }
    };
    if let Some(namespace) = &call.namespace {
        enter(namespace)?;
    }
    if options.remount {
        return change(&call, origin);
    }
    let place = if background.is_some() {
        log::Destination::Background
    } else {
        log::Destination::Foreground
    };
    log::start(options.log.as_deref(), place, call.quiet)?;
    let (config, dirs) = check::check(MountRequest {
        lower: call.lower,
        mountpoint: call.mountpoint,
        options,
        foreground: call.foreground,
    })?;
    // Whoever waits for a descriptor of the caller's to close (`make`, `ssh`, a test runner) must not
    // wait for the server. What the paths named has been found.
    if background.is_some()
        && let Err(errno) = sandbox::close_inherited()
    {
        tracing::debug!("the server inherits open descriptors: {errno}");
    }
    let choice = kernel_backend::choose(&config, &dirs.lower)?;
    if config.options.backend == Backend::Auto && !call.quiet {
        complain!("idshift: {choice}");
    }
    let is_kernel = matches!(choice, Choice::Kernel { .. });
    if !is_kernel {
        check::fuse_is_here(Standing::of_this_process())?;
    }
    if call.fake {
        say(call.verbose, &config, "would be shown");
        return Ok(0);
    }
    if check::looks_swapped(&config.lower, &config.mountpoint) {
        tracing::warn!(
            "'{}' is empty and '{}' is not: the directory that is to be shown comes first, and then \
             the place where to show it",
            plain::path(&config.lower),
            plain::path(&config.mountpoint)
        );
    }
    if let Some(warning) = policy_check::set_id_warning(&config) {
        tracing::warn!("{warning}");
    }
    if is_kernel {
        // Nothing has to keep running.
        kernel_backend::mount_at(&config, &dirs)?;
        say(call.verbose, &config, "is shown");
        return Ok(0);
    }
    // Only a server can be killed: the kernel's mount needs none, and moving takes tens of milliseconds.
    if call.leave_cgroup
        && let Err(why) = cgroups::leave()
    {
        tracing::warn!(
            "the server stays in the control group of its caller, and ends with it: {why}"
        );
    }
    let verbose = call.verbose;
    let manager = ServiceManager::find();
    // Its socket is closed then: a server that was taken over has nothing to tell it.
    let parts = parts.filter(|_| background.is_none());
    let ready = move |config: &MountConfig| {
        parts::begin(parts.as_ref(), config);
        say(verbose, config, "is shown");
        answers(config, &manager, background);
    };
    serve::serve(&config, dirs, Box::new(ready))?;
    Ok(0)
}

fn say(verbose: bool, config: &MountConfig, what: &str) {
    if verbose {
        let mountpoint = plain::path(&config.mountpoint);
        complain!("idshift: {} {what} at {mountpoint}", plain::line(&config.source));
    }
}

/// Called by the server once the mount answers.
fn answers(config: &MountConfig, manager: &ServiceManager, background: Option<Background>) {
    tracing::info!(
        "'{}' is shown at '{}'",
        plain::path(&config.lower),
        plain::path(&config.mountpoint)
    );
    for line in config.map_in_words().lines() {
        tracing::info!("{line}");
    }
    manager.tell(&format!(
        "READY=1\nSTATUS={} is shown at {}",
        config.source,
        plain::path(&config.mountpoint)
    ));
    if let Some(background) = background {
        background.ready();
    }
}

fn change(call: &Call, origin: Origin) -> Result<u8, StartError> {
    let mount = remount::target(&call.mountpoint)?;
    // mount(8) has put the present flags into the string; a person gives only what changes.
    let before = remount::present_flags(&mount)?;
    let present = match origin {
        Origin::Command => before,
        Origin::MountProgram => MountFlags::default(),
    };
    let options = Options::parse(&call.options, origin, present)?;
    if !call.fake {
        remount::remount(&mount, &options)?;
        if let Some(times) = remount::new_times(before, &options) {
            change_times(&mount.mountpoint, &times)?;
        }
    }
    Ok(0)
}

/// Access times are kept by the mount that the server reads through.
fn change_times(mountpoint: &Path, times: &[u8]) -> Result<(), StartError> {
    let failed = |why: &str| {
        let point = plain::path(mountpoint);
        StartError::Mount(format!(
            "'{point}' is remounted, but access times are kept as before: {why}; mount it anew"
        ))
    };
    let answer = Asking::start(mountpoint, Question::Times, times)
        .and_then(|mut asking| asking.wait(Instant::now() + PATIENCE));
    match answer.map_err(|error| failed(&error.to_string()))? {
        Answer::Text(..) => Ok(()),
        Answer::Hung => Err(failed("its server does not answer")),
        Answer::Failed(_, Errno::NOTSUP) => Err(failed("the lower mount could not be cloned here")),
        // A server of before.
        Answer::Failed(_, Errno::INVAL) => Err(failed("its server is of an older version")),
        Answer::Failed(_, errno) => Err(failed(&errno.to_string())),
    }
}

/// Enters the mount namespace that `-N` of mount(8) names. This process has one thread here.
fn enter(namespace: &std::path::Path) -> Result<(), StartError> {
    let is_pid = namespace.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let path = if is_pid {
        PathBuf::from("/proc").join(namespace).join("ns/mnt")
    } else {
        namespace.into()
    };
    std::fs::File::open(&path)
        .and_then(|file| {
            Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Mount))?)
        })
        .map_err(|error| StartError::Path {
            role: "mount namespace",
            path,
            why: format!("cannot be entered: {error}"),
        })
}
