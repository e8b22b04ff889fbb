//! The program as a user calls it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::mount::wait_for;
use super::runner::{machine, needs_idshift};

/// What a call of the program gave.
#[derive(Debug)]
pub(crate) struct Called {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// Copies a program that is to be run, by another process: a fork elsewhere in this one would keep
/// it open for writing, and so busy.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(status.success());
}

/// Runs `idshift` with these arguments.
pub(crate) fn idshift(arguments: &[&dyn AsRef<OsStr>]) -> Called {
    program(&machine().binary, arguments)
}

/// Runs a copy of `idshift`, or another program.
pub(crate) fn program(path: &Path, arguments: &[&dyn AsRef<OsStr>]) -> Called {
    let mut command = Command::new(path);
    command.args(arguments.iter().map(AsRef::as_ref));
    call(command)
}

/// Runs a command; fails the test if it does not end by itself. Its output must end with it too:
/// a server that goes to the background holds nothing of its caller.
pub(crate) fn call(mut command: Command) -> Called {
    needs_idshift();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if wait_for(&mut child).is_none() {
        child.kill().unwrap();
        panic!("{command:?} does not end");
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || sender.send(child.wait_with_output()).ok());
    let Output { status, stdout, stderr } = receiver
        .recv_timeout(Duration::from_secs(10))
        .unwrap_or_else(|_| panic!("{command:?} has ended, but somebody holds its output"))
        .unwrap();
    reader.join().unwrap();
    Called {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// The processes that serve this mount point: `idshift` with the path among their arguments.
pub(crate) fn servers_of(point: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_server = words[0].ends_with(b"idshift") || words[0].ends_with(b"mount.fuse.idshift");
        // The process that stays outside of a server's sandbox has its command line.
        let name = std::fs::read(entry.path().join("comm")).unwrap_or_default();
        if is_server
            && name != b"idshift-keeper\n"
            && words.contains(&point.as_os_str().as_encoded_bytes())
        {
            found.push(pid);
        }
    }
    found
}
