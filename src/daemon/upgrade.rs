//! `idshift upgrade`: another program goes on with a mount that has `restart=on`. Nothing is
//! unmounted, and open files stay open.
//!
//! The supervisor executes the new program in its own place, so that it keeps its number, its
//! descriptors and its children; the program reads what it must know ([`handover`]), and starts a
//! server that takes over, as one does after a kill. The helper stays the one that it was.
//!
//! Who asks must have all rights that the supervisor has, for his program gets them. He sends
//! SIGUSR2 and waits; what he wants stands in a file without a name that he has open (`asked`).
//! Nothing of that goes by way of the server, which is trusted less, but shares the supervisor's
//! table of descriptors: so the supervisor looks at descriptors of the asker's only in a copy of
//! itself with a table of its own, and once more when the server has ended.

mod asked;
pub mod handover;

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid};

use super::helper::Helper;
use crate::fuse::connection::Connection;
use crate::mount::config::MountConfig;
use crate::state::{self, State};
use crate::sys::process::{self, Forked};
use asked::Asked;
pub(super) use asked::tell;
pub use asked::{ANSWER, BINARY, REQUEST, SUPERVISOR};
use handover::Handover;

/// By which the supervisor is asked.
pub const SIGNAL: Signal = Signal::USR2;
/// How a program is told to go on with a mount: its value is the number of the descriptor of what
/// was left to it, and `,check` behind it if it is only to say whether it could.
pub const OPTION: &str = "--go-on=";

/// How long a moment is waited for in which the server is in no request.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a server may take to stop.
const STOPPING: Duration = Duration::from_millis(50);

/// Whether somebody who may has asked for a program that can go on. If not, he has been told why.
pub(super) fn is_wanted(by: Pid, handover: impl FnOnce() -> Handover) -> bool {
    let own = getpid();
    match process::fork() {
        Ok(Forked::Child) => {
            let found = Asked::find(by, own, handover());
            std::process::exit(i32::from(found.is_none()))
        }
        Ok(Forked::Parent(copy)) => {
            let ended = rustix::process::waitpid(Some(copy), WaitOptions::empty());
            matches!(ended, Ok(Some((_, status))) if status.exit_status() == Some(0))
        }
        Err(errno) => {
            tracing::warn!(%errno, "somebody wants an upgrade, and no process can be started");
            false
        }
    }
}

/// Kills the server, if there is such a moment while it is in no request: then nothing has to be
/// done twice.
pub(super) fn end_server(server: Pid, state: &State) -> Result<(), Errno> {
    let start = Instant::now();
    loop {
        rustix::process::kill_process(server, Signal::STOP)?;
        let stopped = has_stopped(server)?;
        // One that has been read and not begun is none: nothing has been done for it yet.
        let busy = state.in_flight.all().filter(|record| record.unique() != 0).count();
        if (stopped && busy == 0) || start.elapsed() > PATIENCE {
            tracing::debug!(busy, stopped, waited = ?start.elapsed(), "the server is ended");
            return rustix::process::kill_process(server, Signal::KILL);
        }
        rustix::process::kill_process(server, Signal::CONT)?;
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all threads of a server have stopped; false if they have not in time, or it has ended.
fn has_stopped(server: Pid) -> Result<bool, Errno> {
    let until = Instant::now() + STOPPING;
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    while Instant::now() < until {
        match rustix::process::waitid(WaitId::Pid(server), options) {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => thread::sleep(Duration::from_micros(100)),
            Err(Errno::CHILD) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// Executes the program that was asked for in the place of this one, which has no server now.
/// Returns only if that is not possible; then everything is as before, and he who has asked knows.
pub(super) fn replace(by: Pid, handover: Handover) {
    let Some(asked) = Asked::find(by, getpid(), handover) else { return };
    let why = match execute(&asked) {
        Ok(never) => match never {},
        Err(why) => why,
    };
    // What has been left open is this program's own again.
    if let Err(errno) = process::close_on_exec_from(3) {
        tracing::warn!(%errno, "servers inherit what an exec would close");
    }
    asked.refuse(&format!("the new program cannot be executed: {why}"));
}

fn execute(asked: &Asked) -> Result<std::convert::Infallible, std::io::Error> {
    let left = process::open_descriptors()?;
    left.into_iter()
        .filter(|number| *number > 2)
        .try_for_each(|number| process::set_close_on_exec(number, false))?;
    Err(asked.command(&arguments(std::env::args_os(), asked.left.as_raw_fd(), "")).exec())
}

/// What is left to another program, but for where to answer.
pub(super) fn handover(
    config: &MountConfig,
    connection: &Connection,
    helper: &Helper,
    mount: u64,
) -> Handover {
    let leaves = connection.handles();
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
    let keeps = helper.handles();
    Handover {
        version: connection.state().number(state::Number::Version).load(state::in_flight::GET),
        lower: config.lower.clone(),
        mountpoint: config.mountpoint.clone(),
        maps: handover::specs(&config.maps),
        cache: leaves.cache.clone(),
        background: super::log::is_in_background(),
        agreed: leaves.agreed,
        mount,
        device: number(leaves.device),
        root: number(leaves.root),
        memory: number(leaves.memory),
        group: leaves.group.map(number),
        helper: (keeps.process.as_raw_nonzero().get(), number(keeps.line.as_fd()), keeps.log),
        answer: -1,
    }
}

/// This program's command line with the option in it, in place of the one that may be there. Where
/// it stands, it is an option in either syntax.
fn arguments(own: impl Iterator<Item = OsString>, left: RawFd, how: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = own
        .enumerate()
        .filter(|(at, word)| *at == 0 || *at > 2 || !is_option(word))
        .map(|(_, word)| word)
        .collect();
    // Behind the first word: `mount`, or a path by which mount(8)'s syntax is known.
    let named = arguments.get(1).is_some_and(|first| {
        let first = first.as_encoded_bytes();
        first == b"mount" || first.starts_with(b"/")
    });
    let at = if named { 2 } else { 1 };
    let at = at.min(arguments.len());
    arguments.insert(at, format!("{OPTION}{left}{how}").into());
    arguments
}

fn is_option(word: &OsString) -> bool {
    word.as_encoded_bytes().starts_with(OPTION.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_stands_where_it_is_one() {
        let line = |words: &str| {
            let own = words.split(' ').map(OsString::from);
            let line = arguments(own, 7, ",check");
            line.join(std::ffi::OsStr::new(" ")).into_string().unwrap_or_default()
        };
        for (before, after) in [
            ("idshift mount -f /a /b", "idshift mount --go-on=7,check -f /a /b"),
            ("idshift mount --go-on=5 -f /a /b", "idshift mount --go-on=7,check -f /a /b"),
            ("idshift /a /b -o map=b:0:1:1", "idshift /a --go-on=7,check /b -o map=b:0:1:1"),
            ("idshift /a --go-on=5 /b", "idshift /a --go-on=7,check /b"),
            ("mount.fuse.idshift -o ro /a /b", "mount.fuse.idshift --go-on=7,check -o ro /a /b"),
            ("mount.fuse.idshift --go-on=5 -o ro", "mount.fuse.idshift --go-on=7,check -o ro"),
        ] {
            assert_eq!(line(before), after);
        }
    }
}
