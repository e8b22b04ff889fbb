//! Who asks for an upgrade, and which program he wants.
//!
//! His rights are looked up in `/proc`, and so is what he wants: in a file without a name of a name
//! that no other program uses. A process that has such a file, and all of the supervisor's rights,
//! wants an upgrade, however its number came here.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::Pid;

use super::arguments;
use super::handover::{Handover, READY};
use crate::sys::process::set_close_on_exec;

/// The name of the file that says what is wanted: lines `KEY NUMBER`.
pub const REQUEST: &str = "idshift-upgrade";
/// The supervisor that is asked.
pub const SUPERVISOR: &str = "supervisor";
/// The asker's descriptor of the program.
pub const BINARY: &str = "binary";
/// The asker's descriptor of a pipe for the answer: a line that begins with `refused ` or `done `.
pub const ANSWER: &str = "answer";

/// How long a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// A program that can go on, wanted by somebody who may want it.
pub(super) struct Asked {
    binary: File,
    /// What is left to it.
    pub(super) left: File,
    answer: File,
}

impl Asked {
    /// Finds out what that process wants of the supervisor, which is this process or has been copied
    /// to it. `None` if it is nothing, or cannot be; then the process is told why.
    pub(super) fn find(by: Pid, supervisor: Pid, left: Handover) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{}", by.as_raw_nonzero()));
        let Some(request) = UpgradeRequest::find(&process) else {
            tracing::debug!("{SIGNAL_NAME} from a process that wants nothing");
            return None;
        };
        let mut answer = match request.answer(&process) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("whoever wants an upgrade cannot be answered: {error}");
                return None;
            }
        };
        if request.supervisor != supervisor.as_raw_nonzero().get() {
            tell(&mut answer, "refused another supervisor is meant");
            return None;
        }
        let left = Handover { answer: answer.as_raw_fd(), ..left };
        let found = may_ask(&process).and_then(|()| check(&process, &request, &left));
        match found {
            Ok((binary, left)) => Some(Self { binary, left, answer }),
            Err(why) => {
                tracing::warn!("no upgrade: {why}");
                tell(&mut answer, &format!("refused {why}"));
                None
            }
        }
    }

    /// Says why it comes to nothing.
    pub(super) fn refuse(&self, why: &str) {
        tracing::warn!("no upgrade: {why}");
        if let Ok(mut answer) = self.answer.try_clone() {
            tell(&mut answer, &format!("refused {why}"));
        }
    }

    /// The program with these arguments; the first one is its name.
    pub(super) fn command(&self, arguments: &[OsString]) -> Command {
        command(&self.binary, arguments)
    }
}

const SIGNAL_NAME: &str = "SIGUSR2";

/// Tells whoever has asked; he may have gone.
pub(in crate::daemon) fn tell(answer: &mut File, line: &str) {
    let line = line.replace('\n', " ") + "\n";
    if let Err(error) = answer.write_all(line.as_bytes()) {
        tracing::debug!("whoever wanted an upgrade has gone: {error}");
    }
}

struct UpgradeRequest {
    supervisor: i32,
    binary: RawFd,
    answer: RawFd,
}

impl UpgradeRequest {
    fn find(process: &Path) -> Option<Self> {
        let name = format!("/memfd:{REQUEST} (deleted)");
        let open = fs::read_dir(process.join("fd")).ok()?.filter_map(Result::ok);
        let is_it = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.as_os_str() == &*name);
        let path = open.map(|entry| entry.path()).find(is_it)?;
        let mut text = String::new();
        File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line?.parse().ok()
        };
        let (supervisor, binary) = (number(SUPERVISOR)?, number(BINARY)?);
        Some(Self { supervisor, binary, answer: number(ANSWER)? })
    }

    /// Where he waits. Never waits for him.
    fn answer(&self, process: &Path) -> std::io::Result<File> {
        let path = process.join(format!("fd/{}", self.answer));
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        File::options().write(true).custom_flags(flags).open(path)
    }
}

/// Whether the process may have this one execute a program: whether it has this one's rights
/// itself.
fn may_ask(process: &Path) -> Result<(), String> {
    let unreadable = |error| format!("nothing is known of who asks: {error}");
    let namespace = |process: &Path| {
        fs::metadata(process.join("ns/user")).map(|it| (it.dev(), it.ino())).map_err(unreadable)
    };
    let own = Path::new("/proc/self");
    let same_namespace = namespace(process)? == namespace(own)?;
    let status = |process: &Path| fs::read_to_string(process.join("status")).map_err(unreadable);
    let (his, own) = (Rights::parse(&status(process)?), Rights::parse(&status(own)?));
    match (his, own) {
        (Some(his), Some(own)) if same_namespace && own.are_covered_by(&his) => Ok(()),
        (Some(his), Some(own)) => Err(format!(
            "who asks has not all the rights that the new program would have ({his}, and here \
             {own}); ask as root of the machine"
        )),
        _ => Err("nothing is known of the rights of who asks".to_owned()),
    }
}

/// What a process may do, as `/proc/PID/status` says.
#[derive(Debug, PartialEq, Eq)]
struct Rights {
    /// Real, effective, saved, of the file system.
    uids: Vec<u32>,
    capabilities: u64,
}

impl Rights {
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let uids = field("Uid:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        let capabilities = u64::from_str_radix(field("CapPrm:")?.trim(), 16);
        Some(Self { uids: uids.ok()?, capabilities: capabilities.ok()? })
    }

    fn are_covered_by(&self, other: &Self) -> bool {
        let same_user = other.uids.iter().all(|uid| self.uids.first() == Some(uid));
        same_user && !other.uids.is_empty() && self.capabilities & !other.capabilities == 0
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = self.uids.first().copied().unwrap_or(u32::MAX);
        write!(f, "user {uid}, capabilities {:x}", self.capabilities)
    }
}

/// Whether the program can go on; returns it, and what is left to it.
fn check(
    process: &Path,
    request: &UpgradeRequest,
    left: &Handover,
) -> Result<(File, File), String> {
    let binary = File::open(process.join(format!("fd/{}", request.binary)))
        .map_err(|error| format!("the new program cannot be opened: {error}"))?;
    nobody_else_changes(&binary)?;
    let name = || OsString::from("idshift");
    let said = ask(command(&binary, &[name(), "--version".into()]))?;
    let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if !said.status.success() || !version.starts_with("idshift ") {
        return Err("that program is not idshift: name one with --binary".to_owned());
    }
    let written = left.write().map_err(|errno| format!("no memory for what is left: {errno}"))?;
    let keep = |closes| {
        let mut all = left.descriptors().into_iter().chain([written.as_raw_fd()]);
        all.try_for_each(|number| set_close_on_exec(number, closes))
    };
    let line = arguments(std::env::args_os(), written.as_raw_fd(), ",check");
    let said = keep(false)
        .map_err(|errno| format!("a descriptor is missing: {errno}"))
        .and_then(|()| ask(command(&binary, &line)));
    // Whatever came of it: servers inherit nothing that they do not share.
    keep(true).map_err(|errno| format!("a descriptor is missing: {errno}"))?;
    let said = said?;
    if said.status.success() && said.stdout.starts_with(READY.as_bytes()) {
        return Ok((binary, written));
    }
    let why = String::from_utf8_lossy(&said.stderr);
    let why = why.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    let why = why.trim_start_matches("idshift: ").trim_start_matches("error: ");
    Err(format!("'{version}' cannot go on with this mount: {why}"))
}

/// A program that others may write to would be theirs by the time that it runs.
fn nobody_else_changes(binary: &File) -> Result<(), String> {
    let meta = binary.metadata().map_err(|error| format!("the new program: {error}"))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err("the new program is not an executable file".to_owned());
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own || meta.mode() & 0o6022 != 0 {
        return Err(format!(
            "the new program must belong to user {own}, nobody else may write to it, and it must \
             not be set-user-ID: it belongs to {} and has mode {:04o}; take a copy",
            meta.uid(),
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

fn command(binary: &File, arguments: &[OsString]) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command
}

/// Runs a program that is to say something short.
fn ask(mut command: Command) -> Result<Output, String> {
    let failed = |error: std::io::Error| format!("the new program cannot be run: {error}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let until = Instant::now() + PATIENCE;
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > until {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(format!("the new program has said nothing for {PATIENCE:?}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn rights(uids: &str, capabilities: &str) -> Rights {
        Rights::parse(&format!("Name:\tx\nUid:\t{uids}\nCapPrm:\t{capabilities}\n")).unwrap()
    }

    #[test]
    fn nobody_asks_for_more_than_he_has() {
        let root = rights("0\t0\t0\t0", "000001fffeffffff");
        assert!(root.are_covered_by(&rights("0\t0\t0\t0", "000001ffffffffff")));
        assert!(root.are_covered_by(&root));
        for other in [
            rights("0\t0\t0\t0", "000001fffedfffff"),
            rights("1000\t0\t0\t0", "000001ffffffffff"),
            rights("1000\t1000\t1000\t1000", "0"),
        ] {
            assert!(!root.are_covered_by(&other), "{other}");
        }
        assert_eq!(Rights::parse("Uid:\t0\n"), None);
    }

    #[test]
    fn a_process_that_wants_nothing_is_not_asked_further() {
        assert!(UpgradeRequest::find(Path::new("/proc/self")).is_none());
        assert!(UpgradeRequest::find(Path::new("/proc/none")).is_none());
    }
}
