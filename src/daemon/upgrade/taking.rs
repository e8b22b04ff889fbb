//! The new program's side: going on with what another one has left.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::asked;
use super::handover::{Handover, READY};
use crate::daemon::log::{self, Place};
use crate::daemon::serve;
use crate::error::StartError;
use crate::host::sources::Host;
use crate::mount::config::MountConfig;
use crate::mount::intent;
use crate::mount::options::Options;
use crate::shift::idmap::Maps;
use crate::sys::process;

/// What another program has left, taken over.
#[derive(Debug)]
pub(in crate::daemon) struct Taken {
    pub(in crate::daemon) handover: Handover,
    /// Descriptors of its servers: open files, and what is of no use any more.
    pub(in crate::daemon) of_servers: HashSet<RawFd>,
}

/// What makes up the connection.
pub(in crate::daemon) struct Connected {
    pub(in crate::daemon) device: OwnedFd,
    pub(in crate::daemon) root: OwnedFd,
    pub(in crate::daemon) memory: OwnedFd,
    pub(in crate::daemon) group: Option<OwnedFd>,
}

/// What makes up the keeper.
pub(in crate::daemon) struct Kept {
    pub(in crate::daemon) process: Pid,
    pub(in crate::daemon) line: OwnedFd,
    pub(in crate::daemon) log: OwnedFd,
}

/// Goes on with a mount, until it is unmounted; `how` is the value of [`super::OPTION`], `options`
/// those of the command line, which is the one by which the mount was made. To be called before
/// anything opens a descriptor.
pub fn go_on(how: &str, options: Options) -> Result<(), StartError> {
    let (number, checks) = match how.strip_suffix(",check") {
        Some(number) => (number, true),
        None => (how, false),
    };
    let number = number.parse().ok().filter(|number| *number > 2).ok_or_else(nothing_left)?;
    let taken = Taken::take(number)?;
    let background = taken.handover.background;
    let config = taken.configuration(options)?;
    if checks {
        serve::could_go_on(&config, &taken)?;
        say!("{READY}");
        return Ok(());
    }
    let place = if background { Place::Background } else { Place::Foreground };
    log::start(config.options.log.as_deref(), place, false)?;
    // It was executed by a descriptor.
    if let Err(errno) = rustix::thread::set_name(c"idshift") {
        tracing::debug!(%errno, "no name");
    }
    serve::go_on(&config, taken)
}

fn nothing_left() -> StartError {
    StartError::Usage(format!(
        "option '{}…': 'idshift upgrade' gives it to the program that goes on with a mount; it is \
         of no use elsewhere",
        super::OPTION
    ))
}

impl Taken {
    fn take(number: RawFd) -> Result<Self, StartError> {
        let system = |what: &str, errno: Errno| StartError::System {
            what: what.to_owned(),
            source: errno.into(),
        };
        let own = process::take_descriptor(number).map_err(|_| nothing_left())?;
        let handover = Handover::read(&mut File::from(own)).map_err(StartError::Mount)?;
        let failed = |errno| system("cannot look at what is open", errno);
        let named = handover.descriptors();
        let open = process::open_descriptors().map_err(failed)?;
        if let Some(missing) = named.iter().find(|number| !open.contains(number)) {
            return Err(StartError::Mount(format!("descriptor {missing} was not left open")));
        }
        for number in open.iter().filter(|number| **number > 2) {
            process::set_close_on_exec(*number, true).map_err(failed)?;
        }
        let is_theirs = |number: &RawFd| *number > 2 && !named.contains(number);
        Ok(Self { of_servers: open.into_iter().filter(is_theirs).collect(), handover })
    }

    fn configuration(&self, options: Options) -> Result<MountConfig, StartError> {
        let Handover { lower, mountpoint, maps, background, .. } = &self.handover;
        let maps = Maps::from_specs(maps, &Host)
            .map_err(|error| StartError::Mount(format!("the maps that were left: {error}")))?;
        if !options.restart {
            return Err(StartError::Mount("the mount has no restart=on".to_owned()));
        }
        // As for every mount that root makes.
        let options = intent::settle(Options { allow_other: true, ..options }, None)?;
        let config = MountConfig::new(lower.clone(), mountpoint.clone(), maps, options);
        Ok(MountConfig { foreground: !background, ..config })
    }

    /// Once.
    pub(in crate::daemon) fn connected(&self) -> Result<Connected, StartError> {
        let Handover { device, root, memory, group, .. } = &self.handover;
        let group = group.map(own).transpose()?;
        Ok(Connected { device: own(*device)?, root: own(*root)?, memory: own(*memory)?, group })
    }

    /// Once.
    pub(in crate::daemon) fn kept(&self) -> Result<Kept, StartError> {
        let (process, line, log) = self.handover.keeper;
        let process = Pid::from_raw(process).ok_or_else(nothing_left)?;
        Ok(Kept { process, line: own(line)?, log: own(log)? })
    }

    /// Tells whoever has asked that this program has begun; once.
    pub(in crate::daemon) fn tell(&self) {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "a new program goes on");
        if let Ok(answer) = own(self.handover.answer) {
            asked::tell(&mut File::from(answer), concat!("done ", env!("CARGO_PKG_VERSION")));
        }
    }
}

fn own(number: RawFd) -> Result<OwnedFd, StartError> {
    process::take_descriptor(number).map_err(|errno| {
        StartError::Mount(format!("descriptor {number} was not left open: {errno}"))
    })
}
