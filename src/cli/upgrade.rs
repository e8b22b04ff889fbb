//! `idshift upgrade`: another program goes on with a mount.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::cli::status::ask::{Answer, Asking, PATIENCE};
use crate::daemon::upgrade::{ANSWER, BINARY, REQUEST, SIGNAL, SUPERVISOR};
use crate::error::StartError;
use crate::host::privilege::Standing;
use crate::plain;
use crate::report::{Question, Report};

/// Have another program serve the mount at MOUNTPOINT, without unmounting it
///
/// For mounts with restart=on, and for root of the machine. Open files stay open, and whoever waits
/// for an answer gets it. The new program is asked first whether it can go on with this mount; if
/// not, nothing is stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new program; this one if left out
    #[arg(short, long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    binary: Option<PathBuf>,
    /// The mount point, or any directory or file in the mount
    mountpoint: PathBuf,
}

/// How long the supervisor may take: it waits for two programs, and for requests that are under way.
const MOST: Duration = Duration::from_secs(60);
/// How long the new server may take to answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    if Standing::of_this_process() != Standing::Root {
        return Err(StartError::Usage(
            "upgrade: only root of the machine may have another program serve a mount".to_owned(),
        ));
    }
    let mount = Target { path: &args.mountpoint };
    let before = mount.report(Instant::now() + PATIENCE)?;
    let supervisor = mount.supervisor(&before)?;
    let binary = mount.program(args.binary.as_deref())?;
    let version = mount.ask(&supervisor, &binary)?;
    let until = Instant::now() + FIRST_ANSWER;
    let after = loop {
        match mount.report(until) {
            Ok(report) if report.number("pid") != before.number("pid") => break report,
            Err(error) if Instant::now() >= until => return Err(error),
            _ if Instant::now() >= until => {
                return Err(mount.wrong("the server is still the one that it was"));
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    complain!(
        "idshift: version {version} serves '{}' now (process {})",
        plain::path(&args.mountpoint),
        after.number("pid")
    );
    Ok(0)
}

/// The process that keeps a mount alive.
struct Supervisor {
    pid: i32,
    handle: OwnedFd,
}

struct Target<'a> {
    path: &'a Path,
}

impl Target<'_> {
    fn wrong(&self, why: impl Into<String>) -> StartError {
        StartError::Path { role: "mount point", path: self.path.to_owned(), why: why.into() }
    }

    fn failed(&self, what: &str, error: impl Into<io::Error>) -> StartError {
        StartError::System {
            what: format!("mount point '{}': {what}", self.path.display()),
            source: error.into(),
        }
    }

    fn report(&self, until: Instant) -> Result<Report, StartError> {
        let failed = |error| self.failed("cannot ask its server", error);
        let path = std::path::absolute(self.path).map_err(failed)?;
        let mut asking = Asking::start(&path, Question::Report, &[]).map_err(failed)?;
        let why = match asking.wait(until).map_err(failed)? {
            Answer::Text(_, text) => match Report::parse(&text) {
                Some(report) => return Ok(report),
                None => {
                    "its server is of a version that cannot be upgraded; unmount and mount again"
                }
            },
            Answer::Hung => "its server does not answer",
            Answer::Failed(_, Errno::NOTCONN | Errno::CONNABORTED) => {
                "its server has gone; take the mount away with 'idshift umount'"
            }
            Answer::Failed(_, Errno::NOTTY) => {
                "is in no idshift mount that has a server; 'idshift status' lists them"
            }
            Answer::Failed(_, errno) => {
                return Err(self.wrong(format!("its server cannot be asked: {errno}")));
            }
        };
        Err(self.wrong(why))
    }

    /// The supervisor, which is sure to be one: no other process gets a signal.
    fn supervisor(&self, report: &Report) -> Result<Supervisor, StartError> {
        let none = || {
            self.wrong(
                "has no restart=on, so nothing could go on with it; unmount it and mount it again \
                 with the new program, and with '-o restart=on' if that is to be the last time",
            )
        };
        let pid = i32::try_from(report.number("supervisor")).unwrap_or(0);
        let process = Pid::from_raw(pid).filter(|_| pid > 1).ok_or_else(none)?;
        let gone = || {
            self.wrong(format!(
                "process {pid}, which kept its server running, is not there (or is not seen from \
                 this namespace of processes): unmount and mount again"
            ))
        };
        let handle = pidfd_open(process, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::NOSYS => self.wrong("needs Linux 5.3: pidfd_open(2)".to_owned()),
            _ => gone(),
        })?;
        if waits_for_us(pid) { Ok(Supervisor { pid, handle }) } else { Err(gone()) }
    }

    /// Opens the new program.
    fn program(&self, path: Option<&Path>) -> Result<File, StartError> {
        let path = path.unwrap_or(Path::new("/proc/self/exe"));
        let wrong = |why: String| StartError::Path { role: "new program", path: path.into(), why };
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let binary =
            File::open(path).map_err(|error| wrong(format!("cannot be opened: {error}")))?;
        let on = binary.metadata().map_err(|error| wrong(error.to_string()))?.dev();
        if device(self.path).is_ok_and(|own| own == on) {
            return Err(wrong(
                "lies in the mount itself, where nobody could read it while the mount has no \
                 server; name one that lies elsewhere"
                    .to_owned(),
            ));
        }
        Ok(binary)
    }

    /// Has the supervisor execute the program; returns its version once it has begun.
    fn ask(&self, supervisor: &Supervisor, binary: &File) -> Result<String, StartError> {
        let failed = |errno: Errno| self.failed("cannot ask its supervisor", errno);
        let (answer, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let request = rustix::fs::memfd_create(REQUEST, MemfdFlags::CLOEXEC).map_err(failed)?;
        let text = format!(
            "{SUPERVISOR} {}\n{BINARY} {}\n{ANSWER} {}\n",
            supervisor.pid,
            binary.as_raw_fd(),
            theirs.as_raw_fd()
        );
        let mut request = File::from(request);
        let asked = request.write_all(text.as_bytes());
        asked.map_err(|error| self.failed("cannot ask its supervisor", error))?;
        pidfd_send_signal(&supervisor.handle, SIGNAL).map_err(failed)?;
        let said = self.wait(answer, supervisor)?;
        // Until now the supervisor has looked at them.
        drop((request, theirs));
        match said.trim_end().split_once(' ') {
            Some(("done", version)) => Ok(version.to_owned()),
            Some(("refused", why)) => Err(self.wrong(format!("is served as before: {why}"))),
            _ => Err(self.wrong(format!("its supervisor says '{}'", said.escape_default()))),
        }
    }

    /// A line from the supervisor.
    fn wait(&self, answer: OwnedFd, supervisor: &Supervisor) -> Result<String, StartError> {
        let until = Instant::now() + MOST;
        let mut answer = File::from(answer);
        let mut said = Vec::new();
        while said.last() != Some(&b'\n') {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(&answer, PollFlags::IN),
                PollFd::new(&supervisor.handle, PollFlags::IN),
            ];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Err(self.wrong("its supervisor does not answer")),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("cannot wait for its supervisor", errno)),
            }
            let (answered, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if answered {
                let mut part = [0; 1024];
                let length = answer
                    .read(&mut part)
                    .map_err(|error| self.failed("cannot read what its supervisor says", error))?;
                said.extend_from_slice(&part[..length]);
            } else if ended {
                return Err(self.wrong("its supervisor has ended; the system's log says why"));
            }
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

/// Whether a process is a supervisor of this program's: it holds back the signal, and has the memory
/// that servers share. Another one would be ended by the signal.
fn waits_for_us(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok()).unwrap_or(0);
    let has_memory = || {
        let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok);
        open.find(|entry| {
            let target = fs::read_link(entry.path());
            target.is_ok_and(|to| to.as_os_str() == "/memfd:idshift (deleted)")
        })
    };
    held & (1 << (SIGNAL.as_raw() - 1)) != 0 && has_memory().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_process_gets_the_signal() {
        assert!(!waits_for_us(rustix::process::getpid().as_raw_nonzero().get()));
        assert!(!waits_for_us(1) && !waits_for_us(i32::MAX));
    }
}
