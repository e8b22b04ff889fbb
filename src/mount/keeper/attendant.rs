//! The keeper's side: the whole life of its process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::ask::{Ask, Message};
use super::{NOTHING, mount_id, read_exact, write_all};
use crate::config::MountConfig;
use crate::host::mountinfo;
use crate::lower::caller;
use crate::lower::proc_path;
use crate::mount::guard::Guard;
use crate::mount::{fuse, log, sandbox, times};
use crate::plain;
use crate::sys::process;

/// How often the keeper looks whether a server that sends notifications has been killed.
const LOOK_AT_SERVER: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The keeper's process.
pub(super) struct Attendant {
    mountpoint: PathBuf,
    guard: Option<Guard>,
    /// The server's own mount of the lower directory.
    lower: Option<OwnedFd>,
    asked: OwnedFd,
    /// `None` once nobody can send anything there.
    logged: Option<OwnedFd>,
    /// Who has started this process.
    server: Pid,
    /// The mount whose connection may have to be ended.
    mounted: Option<u64>,
}

impl Attendant {
    pub(super) fn new(
        config: &MountConfig,
        mut guard: Option<Guard>,
        lower: Option<OwnedFd>,
        server: Pid,
        (asked, logged): (OwnedFd, OwnedFd),
    ) -> Self {
        if let Err(error) = settle_down(config) {
            tracing::warn!("the process that unmounts keeps more than it needs: {error}");
        }
        guard.iter_mut().for_each(Guard::leave_lock);
        let mountpoint = config.mountpoint.clone();
        Self { mountpoint, guard, lower, asked, logged: Some(logged), server, mounted: None }
    }

    /// Serves until the server has ended.
    pub(super) fn attend(mut self) -> ! {
        while let Ok(true) = self.turn() {}
        // What the server said last.
        self.pass_log_on();
        // Nothing of the copied server is to be dropped here.
        std::process::exit(0);
    }

    /// Waits for something to do and does it; `false` when the server has ended.
    fn turn(&mut self) -> Result<bool, Errno> {
        let mut fds = vec![PollFd::new(&self.asked, PollFlags::IN)];
        fds.extend(self.logged.as_ref().map(|logged| PollFd::new(logged, PollFlags::IN)));
        let patience = self.mounted.map(|_| LOOK_AT_SERVER);
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let asked = !fds[0].revents().is_empty();
        self.pass_log_on();
        if let Some(mount) = self.mounted
            && process::has_stuck_threads(self.server)
        {
            self.mounted = None;
            self.end_connection(mount);
        }
        if !asked {
            return Ok(true);
        }
        let mut message = Message::default();
        read_exact(&self.asked, &mut message)?;
        match Ask::decode(message) {
            Some(Ask::Unmount(mount)) => self.unmount(mount),
            Some(Ask::Fact(fact, tid)) => self.answer(caller::look_up(tid, fact).as_deref())?,
            Some(Ask::Mounted(number)) => {
                self.mounted = Some(number);
            }
            Some(Ask::Times(bits)) => {
                let errno = self.keep_times(bits).map_or_else(Errno::raw_os_error, |()| 0);
                write_all(&self.asked, &errno.to_ne_bytes())?;
            }
            Some(Ask::Finish) => {
                drop(self.guard.take());
                write_all(&self.asked, &[0])?;
            }
            Some(Ask::Echo(number)) => write_all(&self.asked, &number.to_ne_bytes())?,
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
        let mut line = vec![0; 64 * 1024];
        while let Some(logged) = &self.logged {
            match rustix::io::read(logged, &mut line) {
                Ok(length) if length > 0 => log::to_system(&line[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The end, or what no server sends; waiting for more would never sleep.
                Ok(_) | Err(_) => self.logged = None,
            }
        }
    }

    /// Ends the connection, and leaves the mount where it is: nobody is to write below it by mistake.
    fn end_connection(&self, mount: u64) {
        let failed = |errno: Errno| tracing::warn!("the connection of a killed server: {errno}");
        // As long as this is open the mount is busy, and a forced unmount does no more than end
        // the connection (`fuse_umount_begin`). By the descriptor, since another mount may take the
        // place at any moment.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = match rustix::fs::open(&self.mountpoint, flags, Mode::empty()) {
            Ok(held) => held,
            Err(errno) => return failed(errno),
        };
        if mountinfo::id_of(&held) != Ok(mount) {
            return;
        }
        match rustix::mount::unmount(proc_path(&held), UnmountFlags::FORCE) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => failed(errno),
        }
    }

    /// By a thread of its own: unmounting may wait for the server, which may wait for an answer.
    fn unmount(&self, mount: u64) {
        let mountpoint = self.mountpoint.clone();
        let unmounting = move || {
            // Another file system may have been mounted over ours: that is not ours to take away.
            let shown = mount_id(&mountpoint);
            if shown == 0 {
                tracing::debug!("unmounted already");
            } else if shown != mount {
                tracing::error!("another mount covers '{}'", plain::path(&mountpoint));
            } else if let Err(error) = fuse::detach(&mountpoint) {
                tracing::error!("{error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().spawn(unmounting) {
            tracing::error!("cannot unmount: {error}");
        }
    }
}

/// What the copy of the server must not keep.
fn settle_down(config: &MountConfig) -> Result<(), io::Error> {
    // Whoever starts a mount in the background waits for its output to end.
    if !config.foreground {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        rustix::process::chdir("/")?;
    }
    process::close_inherited()?;
    rustix::thread::set_name(c"idshift-keeper")?;
    // These are for the server. They reach the whole group when they come from a terminal or from
    // a service manager, or go to all processes of this name.
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    sandbox::shut_memory().map_err(io::Error::other)?;
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
