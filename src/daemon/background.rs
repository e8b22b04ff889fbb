//! Going to the background: a copy of the command serves, and the command waits until the mount
//! answers.
//!
//! The copy has the write end of a pipe, and the terminal until then, so whatever goes wrong is told
//! where the user looks. One byte through the pipe means "it answers"; the end of the pipe without it
//! means that the process has ended, and its exit code is passed on.
//!
//! It is a copy, and not the program started anew: so it has what the command was given to use
//! (`/proc/self/fd/5` as a lower directory), and nothing tells the two apart that could come from
//! outside.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use crate::error::StartError;
use crate::sys::process::{self, Forked};

/// Where a command goes on after [`start`].
#[derive(Debug)]
pub enum Side {
    /// In the process that was started, which ends with this exit code.
    Command(u8),
    /// In the one that will serve.
    Server(Background),
}

/// Makes the copy that will serve. This process must have one thread; it returns when the mount
/// answers, or the copy has ended.
pub fn start() -> Result<Side, StartError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| StartError::System { what, source: errno.into() }
    };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(system("cannot make a pipe"))?;
    let server = match process::fork().map_err(system("cannot start the server process"))? {
        Forked::Child => return Ok(Side::Server(Background { pipe: write })),
        Forked::Parent(server) => server,
    };
    // The pipe ends only without this end of it.
    drop(write);
    let answer = File::from(read).read(&mut [0]).map_err(|source| StartError::System {
        what: "cannot read from a pipe".to_owned(),
        source,
    })?;
    if answer == 1 {
        return Ok(Side::Command(0));
    }
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(server), WaitOptions::empty()))
        .map_err(system("cannot wait for the server process"))?;
    let status = ended.map(|(_, status)| status);
    match status.and_then(WaitStatus::exit_status) {
        Some(code) => Ok(Side::Command(u8::try_from(code).unwrap_or(32))),
        None => Err(StartError::Mount(format!(
            "the server process was ended by signal {} before the mount answered",
            status.and_then(WaitStatus::terminating_signal).unwrap_or_default()
        ))),
    }
}

/// The side of the process that will serve.
#[derive(Debug)]
pub struct Background {
    pipe: OwnedFd,
}

impl Background {
    /// Tells the waiting process that the mount answers, and lets go of the terminal and of the
    /// working directory, which may be on a file system that somebody wants to unmount.
    pub fn ready(self) {
        if let Err(error) = detach() {
            tracing::warn!("cannot let go of the terminal: {error}");
        }
        if let Err(error) = File::from(self.pipe).write_all(b"+") {
            tracing::warn!("the command that started this mount has gone: {error}");
        }
    }
}

/// Leaves the session of the terminal, so that closing that does not end the mount. Not before the
/// mount is there: what systemd mounts when it is needed (`x-systemd.automount`) can be reached until
/// then by processes of its own group alone, and everybody else waits.
pub fn leave_session() {
    if let Err(errno) = rustix::process::setsid() {
        tracing::warn!(%errno, "cannot leave the session");
    }
}

fn detach() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    std::env::set_current_dir("/")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// The service manager that wants to hear of this process, if one does (sd_notify(3)).
#[derive(Debug, Default)]
pub struct ServiceManager(Option<UnixDatagram>);

impl ServiceManager {
    /// Finds it. Later nothing but the socket is needed, so that a process can tell it how it is
    /// after it has left all paths behind.
    pub fn find() -> Self {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match connect(address.as_bytes()) {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::warn!("no service manager at {}: {error}", address.display());
                Self::default()
            }
        }
    }

    /// Tells it about a new state (`READY=1`).
    pub fn tell(&self, state: &str) {
        let Some(socket) = &self.0 else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// `address` is a path, or, starting with `@`, a name in the abstract namespace.
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt;
    let address = match address {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_gets_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager(Some(connect(path.as_os_str().as_bytes()).unwrap()));
        manager.tell("READY=1");
        let mut got = [0; 64];
        let length = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..length], b"READY=1");
        assert!(connect(b"/nowhere/at/all").is_err());
    }
}
