//! Going to the background without fork: the command starts itself again and waits until the
//! second process says that the mount answers.
//!
//! The second process has the write end of a pipe as its stdin, and the terminal as its stderr
//! until then, so whatever goes wrong is told where the user looks. One byte through the pipe
//! means "it answers"; the end of the pipe without it means that the process has ended, and its
//! exit code is passed on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use crate::error::StartError;
use crate::sys::process;

/// Set in the environment of the second process.
const MARKER: &str = "IDSHIFT_BACKGROUND";

/// Starts this program again, with the same arguments, as the one that will serve. Returns the
/// exit code for this process: 0 when the mount answers, else that of the second process.
pub fn start() -> Result<u8, StartError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| StartError::System { what, source }
    };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| system("cannot make a pipe")(errno.into()))?;
    // Whoever waits for a descriptor of the caller's to close (`make`, `ssh`, a test runner) must
    // not wait for the server. Older kernels cannot; then they wait.
    if let Err(errno) = process::close_on_exec_from(3) {
        tracing::debug!("the server inherits open descriptors: {errno}");
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "idshift".into());
    // In a block of its own: the command keeps the write end, and the pipe ends only without it.
    let mut child = {
        Command::new(this_program())
            .arg0(name)
            .args(arguments)
            .env(MARKER, "1")
            .stdin(Stdio::from(write))
            .spawn()
            .map_err(system("cannot start the server process"))?
    };
    let answer = File::from(read).read(&mut [0]).map_err(system("cannot read from a pipe"))?;
    if answer == 1 {
        return Ok(0);
    }
    let status = child.wait().map_err(system("cannot wait for the server process"))?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(32)),
        (None, signal) => Err(StartError::Mount(format!(
            "the server process was ended by signal {} before the mount answered",
            signal.unwrap_or_default()
        ))),
    }
}

/// The path of this program, so that the process keeps its name; by the kernel's link if the file
/// has been replaced since.
fn this_program() -> OsString {
    match std::env::current_exe() {
        Ok(path) if path.is_file() => path.into(),
        _ => "/proc/self/exe".into(),
    }
}

/// The second process's side.
#[derive(Debug)]
pub struct Background {
    pipe: OwnedFd,
    /// Opened while there is a path to it.
    null: File,
}

impl Background {
    /// `Some` in the process that [`start`] has started. Leaves the session of the terminal, so
    /// that closing that does not end the mount.
    pub fn this_process() -> Result<Option<Self>, StartError> {
        if std::env::var_os(MARKER).is_none() {
            return Ok(None);
        }
        let take = || -> io::Result<Self> {
            let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::process::setsid()?;
            Ok(Self { pipe, null })
        };
        let this = take().map_err(|source| StartError::System {
            what: "cannot leave the terminal".to_owned(),
            source,
        })?;
        Ok(Some(this))
    }

    /// Tells the waiting process that the mount answers, and lets go of the terminal and of the
    /// working directory, which may be on a file system that somebody wants to unmount.
    pub fn ready(self) {
        if let Err(error) = detach(&self.null) {
            tracing::warn!("cannot let go of the terminal: {error}");
        }
        if let Err(error) = File::from(self.pipe).write_all(b"+") {
            tracing::warn!("the command that started this mount has gone: {error}");
        }
    }
}

fn detach(null: &File) -> io::Result<()> {
    std::env::set_current_dir("/")?;
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)?;
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
