//! The runtime behind the wrapper: which it is, and how it is run with everything that the wrapper got.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::containers::Problem;
use crate::host::privilege;

/// Names the runtime, by path or by name.
pub const VARIABLE: &str = "IDSHIFT_RUNTIME";

/// The name under which this program is a runtime; with `-NAME` behind it, in front of that one.
pub const NAME: &str = "idshift-runtime";

/// Those that are looked for if none is named.
const KNOWN: &[&str] = &["crun", "runc", "youki"];

/// Whether the program was called as a runtime, and then in front of which.
pub fn called_as(program: &OsStr) -> Option<Option<String>> {
    let name = Path::new(program).file_name()?.to_str()?;
    match name.strip_prefix(NAME)? {
        "" => Some(None),
        rest => rest.strip_prefix('-').map(|runtime| Some(runtime.to_owned())),
    }
}

/// The real runtime.
pub fn find(named: Option<&str>) -> Result<PathBuf, Problem> {
    let asked = std::env::var(VARIABLE).ok();
    if let Some(name) = named.or(asked.as_deref()) {
        if name.contains('/') {
            return Ok(PathBuf::from(name));
        }
        return privilege::in_path(name)
            .ok_or_else(|| Problem::new(format!("the OCI runtime '{name}' is not in PATH")));
    }
    KNOWN.iter().find_map(|name| privilege::in_path(name)).ok_or_else(|| {
        Problem::new(format!(
            "no OCI runtime is in PATH ({}); name one in {VARIABLE}, or by calling this program {NAME}-NAME",
            KNOWN.join(", ")
        ))
    })
}

/// Becomes the runtime.
pub fn become_it(runtime: &Path, args: &[OsString]) -> Problem {
    let error = Command::new(runtime).args(args).exec();
    Problem::new(format!("cannot run '{}': {error}", runtime.display()))
}

/// Runs the runtime, with our descriptors, and hands on the signals that we get.
pub fn run(runtime: &Path, args: &[OsString]) -> Result<ExitStatus, Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(format!("cannot run '{}': {error}", runtime.display()))
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH])
        .map_err(failed)?;
    let mut child = Command::new(runtime).args(args).spawn().map_err(failed)?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let handle = signals.handle();
    let forward = std::thread::spawn(move || {
        for signal in signals.forever() {
            if let (Some(pid), Some(signal)) =
                (pid, rustix::process::Signal::from_named_raw(signal))
            {
                // It may have ended already.
                rustix::process::kill_process(pid, signal).ok();
            }
        }
    });
    let status = child.wait().map_err(failed);
    handle.close();
    drop(forward.join());
    status
}

/// The exit code that says how it ended, as a shell gives it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
