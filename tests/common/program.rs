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

/// Whether it is the process that stays outside of a server's sandbox, with its command line.
fn is_helper(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"idshift-helper\n")
}

/// The servers that a process has started.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| parent_of(*pid) == Some(parent) && !is_helper(*pid);
    processes().into_iter().filter(is_child).collect()
}

/// The process that works outside of the sandbox for the servers that a process has started.
pub(crate) fn helper_of(parent: u32) -> Option<u32> {
    processes().into_iter().find(|&pid| parent_of(pid) == Some(parent) && is_helper(pid))
}

/// The parent of a process that is not just being reaped.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let is_dead = fields.next()? == "Z";
    fields.next()?.parse().ok().filter(|_| !is_dead)
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes that answer requests of this mount point. One that only keeps such a process running
/// counts when it has none.
pub(crate) fn servers_of(point: &Path) -> Vec<u32> {
    let all = processes_of(point);
    let parents: Vec<u32> = all.iter().filter_map(|&pid| parent_of(pid)).collect();
    all.into_iter().filter(|pid| !parents.contains(pid)).collect()
}

/// All processes of this mount point: `idshift` with the path among their arguments.
pub(crate) fn processes_of(point: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for pid in processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_server = words[0].ends_with(b"idshift") || words[0].ends_with(b"mount.fuse.idshift");
        let is_of_point = words.contains(&point.as_os_str().as_encoded_bytes());
        if is_server && is_of_point && !is_helper(pid) {
            found.push(pid);
        }
    }
    found
}
