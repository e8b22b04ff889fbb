//! Mounts of idshift that a container engine asks for: made by this very program, as its own process, so that they outlive whoever
//! asked.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::Problem;
use crate::host::privilege;

/// Where what does not outlive the machine's next start lies: mount points, and who uses them.
pub fn runtime_dir() -> Result<PathBuf, Problem> {
    let of_root = Path::new("/run/idshift");
    directory(of_root, "XDG_RUNTIME_DIR", None)
}

/// Where what outlives it lies.
pub fn state_dir() -> Result<PathBuf, Problem> {
    directory(Path::new("/var/lib/idshift"), "XDG_DATA_HOME", Some(".local/share"))
}

/// Root's directory, or one of the user's by this variable, or in his home.
fn directory(of_root: &Path, variable: &str, in_home: Option<&str>) -> Result<PathBuf, Problem> {
    if privilege::in_initial_namespace() && rustix::process::geteuid().is_root() {
        return Ok(of_root.to_owned());
    }
    let given = std::env::var_os(variable).map(PathBuf::from);
    let home = || in_home.and_then(|dir| Some(Path::new(&std::env::var_os("HOME")?).join(dir)));
    match given.or_else(home).filter(|dir| dir.is_absolute()) {
        Some(dir) => Ok(dir.join("idshift")),
        None => Err(Problem::new(format!(
            "{variable} is not set, and without it there is no place for the mounts of a user's containers"
        ))),
    }
}

/// Unmounts all that is mounted there. What somebody still holds goes when he lets go.
pub fn take_away(path: &Path) -> Result<(), Errno> {
    loop {
        let flags = UnmountFlags::NOFOLLOW;
        let result = match rustix::mount::unmount(path, flags) {
            Err(Errno::BUSY) => rustix::mount::unmount(path, flags | UnmountFlags::DETACH),
            other => other,
        };
        match result {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()), // no mount (any more)
            Err(errno) => return Err(errno),
        }
    }
}

/// Runs `idshift mount` with these options; on failure, what it says.
pub fn run_mount(options: &str, lower: &Path, at: &Path) -> Result<(), String> {
    let mut command = this_program("idshift");
    run(command.args(["mount", "--leave-cgroup", "-o", options]).arg(lower).arg(at))
}

/// Whether these options and this directory can be mounted, as far as that shows without doing it.
pub fn check_mount(options: &str, lower: &Path, at: &Path) -> Result<(), String> {
    // The helper's -f is mount(8)'s: everything but the mount.
    let mut command = this_program("mount.fuse.idshift");
    run(command.arg(lower).arg(at).args(["-f", "-o", options]))
}

fn this_program(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("NOTIFY_SOCKET");
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Err(said.strip_prefix("idshift: ").unwrap_or(said).to_owned())
}

/// A map in an option string: a comma would end it.
pub fn escaped(spec: &str) -> String {
    spec.replace('\\', "\\\\").replace(',', "\\,")
}
