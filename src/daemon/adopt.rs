//! What another program has left to this one: read, checked, and owned.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::helper::AdoptedHelper;
use super::upgrade::handover::Handover;
use super::upgrade::{self, OPTION};
use crate::error::StartError;
use crate::host::sources::Host;
use crate::mount::config::MountConfig;
use crate::mount::intent;
use crate::mount::options::Options;
use crate::shift::idmap::Maps;
use crate::sys::process::{self, LeftOpen};

/// What another program has left, taken over.
#[derive(Debug)]
pub(super) struct Adopted {
    left: LeftOpen,
    pub(super) handover: Handover,
    /// Descriptors of its servers: open files, and what is of no use any more.
    pub(super) of_servers: HashSet<RawFd>,
}

/// What makes up the connection.
pub(super) struct AdoptedConnection {
    pub(super) device: OwnedFd,
    pub(super) root: OwnedFd,
    pub(super) memory: OwnedFd,
    pub(super) group: Option<OwnedFd>,
}

impl Adopted {
    pub(super) fn take(number: RawFd) -> Result<Self, StartError> {
        let system = |what: &str, errno: Errno| StartError::System {
            what: what.to_owned(),
            source: errno.into(),
        };
        let failed = |errno| system("cannot look at what is open", errno);
        let open = process::open_descriptors().map_err(failed)?;
        #[allow(unsafe_code)]
        // SAFETY: this program has opened nothing yet, and an exec has left nothing of the former one
        // that could own a descriptor; the standard streams stay the library's.
        let mut left = unsafe { LeftOpen::new(open.iter().copied().filter(|number| *number > 2)) };
        let own = left.take(number).map_err(|_| nothing_left())?;
        let handover = Handover::read(&mut File::from(own)).map_err(StartError::Mount)?;
        let named = handover.descriptors();
        if let Some(missing) = named.iter().find(|number| !open.contains(number)) {
            return Err(StartError::Mount(format!("descriptor {missing} was not left open")));
        }
        for number in open.iter().filter(|open| **open > 2 && **open != number) {
            process::set_close_on_exec(*number, true).map_err(failed)?;
        }
        let is_theirs = |number: &RawFd| *number > 2 && !named.contains(number);
        let of_servers = open.into_iter().filter(|of| *of != number && is_theirs(of)).collect();
        Ok(Self { left, handover, of_servers })
    }

    pub(super) fn configuration(&self, options: Options) -> Result<MountConfig, StartError> {
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
    pub(super) fn connection(&mut self) -> Result<AdoptedConnection, StartError> {
        let Handover { device, root, memory, group, .. } = self.handover;
        let mut own = |number| own(&mut self.left, number);
        let group = group.map(&mut own).transpose()?;
        Ok(AdoptedConnection {
            device: own(device)?,
            root: own(root)?,
            memory: own(memory)?,
            group,
        })
    }

    /// Once.
    pub(super) fn helper(&mut self) -> Result<AdoptedHelper, StartError> {
        let (process, line, log) = self.handover.helper;
        let process = Pid::from_raw(process).ok_or_else(nothing_left)?;
        let mut own = |number| own(&mut self.left, number);
        Ok(AdoptedHelper { process, line: own(line)?, log: own(log)? })
    }

    /// Tells whoever has asked that this program has begun; once.
    pub(super) fn tell(&mut self) {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "a new program goes on");
        if let Ok(answer) = own(&mut self.left, self.handover.answer) {
            upgrade::tell(&mut File::from(answer), concat!("done ", env!("CARGO_PKG_VERSION")));
        }
    }
}

fn own(left: &mut LeftOpen, number: RawFd) -> Result<OwnedFd, StartError> {
    left.take(number).map_err(|errno| {
        StartError::Mount(format!("descriptor {number} was not left open: {errno}"))
    })
}

/// The error where the option was not given by the program that left something.
pub(super) fn nothing_left() -> StartError {
    StartError::Usage(format!(
        "option '{OPTION}…': 'idshift upgrade' gives it to the program that goes on with a mount; it is \
         of no use elsewhere"
    ))
}
