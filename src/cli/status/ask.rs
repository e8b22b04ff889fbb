//! Asking a mount, without ever hanging on one whose server does not answer.
//!
//! A process that waits for an answer of FUSE cannot always be killed: so another one asks, which is
//! left behind if it takes too long. It ends when the server answers or the connection is aborted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fuse;
use crate::host::mountinfo;
use crate::lower::proc_path;
use crate::report::{IOCTL, Question, ROOM};
use crate::sys::ioctl::exchange;

/// How long a mount may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(900);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This text, from the mount with this number.
    Text(u64, String),
    /// Nothing within the time.
    Hung,
    /// The call failed: on the mount with this number, if one was reached.
    Failed(Option<u64>, Errno),
}

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Asking {
    child: Child,
    out: ChildStdout,
    told: Vec<u8>,
}

impl Asking {
    /// Asks the mount that `path` is on.
    pub(crate) fn start(path: &Path, question: Question, details: &[u8]) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg0_of_this_program()
            .args(["status", "--ask"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&[question.code()])?;
            input.write_all(details)?;
        }
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, out, told: Vec::new() })
    }

    /// Waits for the answer until then. After [`Answer::Hung`] it may be asked again.
    pub(crate) fn wait(&mut self, until: Instant) -> io::Result<Answer> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.out, PollFlags::IN)];
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Ok(Answer::Hung),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut buffer = [0; 4096];
            let length = self.out.read(&mut buffer)?;
            if length == 0 {
                self.child.wait()?;
                return Ok(understand(&self.told));
            }
            self.told.extend_from_slice(&buffer[..length]);
        }
    }
}

impl Drop for Asking {
    /// Ends the other process if that is possible, and waits for it only then.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may have to wait for the server: whoever adopts it takes it away then.
            self.child.kill().ok();
        }
    }
}

trait Named {
    /// In process lists it goes by the program's name.
    fn arg0_of_this_program(&mut self) -> &mut Self;
}

impl Named for Command {
    fn arg0_of_this_program(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::arg0(self, "idshift")
    }
}

/// `mount ID`, then `answer` and the text, or `error ERRNO`.
fn understand(told: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(told);
    let (mount, rest) = match text.strip_prefix("mount ").and_then(|rest| rest.split_once('\n')) {
        Some((id, rest)) => (id.parse().ok(), rest),
        None => (None, &*text),
    };
    if let (Some(id), Some(answer)) = (mount, rest.strip_prefix("answer\n")) {
        return Answer::Text(id, answer.to_owned());
    }
    let errno = rest.strip_prefix("error ").and_then(|errno| errno.trim().parse().ok());
    Answer::Failed(mount, Errno::from_raw_os_error(errno.unwrap_or(Errno::IO.raw_os_error())))
}

/// The other process: asks the mount that `path` is on what stdin says.
pub(crate) fn ask_and_tell(path: &Path) -> io::Result<()> {
    let mut question = Vec::new();
    io::stdin().read_to_end(&mut question)?;
    let mut out = io::stdout().lock();
    let path = match question.first() {
        Some(code) if *code == Question::Rights.code() => complete(path, &mut question)?,
        _ => path.to_owned(),
    };
    let told = find(&path).and_then(|(id, found)| {
        writeln!(out, "mount {id}").map_err(|_| Errno::IO)?;
        out.flush().map_err(|_| Errno::IO)?;
        put(open(&path, id, &found)?, &question)
    });
    match told {
        Ok(answer) => {
            out.write_all(b"answer\n")?;
            out.write_all(&answer)?;
        }
        Err(errno) => writeln!(out, "error {}", errno.raw_os_error())?,
    }
    out.flush()
}

/// Adds the mount's flags and the path within it to a question about rights; returns the mount
/// point, where it is to be put. A name that is about to be deleted, or is not there, is not
/// followed.
fn complete(path: &Path, question: &mut Vec<u8>) -> io::Result<PathBuf> {
    let delete = question.split(|byte| *byte == b'\n').nth(2) == Some(b"delete");
    let resolved = match (delete, path.parent(), path.file_name()) {
        (true, Some(parent), Some(name)) => resolve(parent)?.join(name),
        _ => resolve(path)?,
    };
    let mounts = mountinfo::read()?;
    // Of several on one another the last one is on top.
    let Some(mount) = mounts
        .iter()
        .filter(|mount| resolved.starts_with(&mount.mountpoint))
        .max_by_key(|mount| mount.mountpoint.as_os_str().len())
        .filter(|mount| mount.is_idshift())
    else {
        return Ok(resolved);
    };
    let flags = format!("{},{}", mount.options, mount.fs_options);
    question.extend_from_slice(flags.as_bytes());
    question.push(b'\n');
    // What is mounted is a child of the file system's root, or a directory below it.
    let root = Path::new(&mount.root);
    let shown = root.strip_prefix(Path::new("/").join(fuse::root::NAME));
    let root = shown.or_else(|_| root.strip_prefix("/")).unwrap_or(root);
    let below = resolved.strip_prefix(&mount.mountpoint).unwrap_or(&resolved);
    question.extend_from_slice(root.join(below).as_os_str().as_bytes());
    Ok(mount.mountpoint.clone())
}

/// The path without symbolic links, as far as it is there and may be seen.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|error| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => Err(error),
    })
}

/// What `path` leads to, and the number of the mount that it is on.
fn find(path: &Path) -> Result<(u64, OwnedFd), Errno> {
    let found = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok((mountinfo::id_of(&found)?, found))
}

/// The table that has the mount of `path`: that of another process where the path leads through its root.
fn table_of(path: &Path) -> PathBuf {
    let process = path.strip_prefix("/proc").ok().and_then(|rest| {
        let mut parts = rest.components().map(std::path::Component::as_os_str);
        let process = parts.next()?;
        (parts.next()? == "root").then_some(process)
    });
    Path::new("/proc").join(process.unwrap_or("self".as_ref())).join("mountinfo")
}

/// Opens what can carry the question: a directory or file of an idshift mount; `ENOTTY` for others,
/// which may take the ioctl for something else.
fn open(path: &Path, mount: u64, found: &OwnedFd) -> Result<OwnedFd, Errno> {
    let table = std::fs::read(table_of(path)).map_err(|_| Errno::IO)?;
    let mounts = mountinfo::parse(&table);
    if !mounts.iter().any(|other| other.id == mount && other.is_idshift()) {
        return Err(Errno::NOTTY);
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(Errno::NOTTY);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, proc_path(found), flags, Mode::empty())
}

/// Puts the question to an open file of the mount.
pub(crate) fn put(file: impl AsFd, question: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; ROOM];
    buffer.get_mut(..question.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(question);
    let length = exchange(file, IOCTL, &mut buffer)?;
    buffer.get(..length).map(<[u8]>::to_vec).ok_or(Errno::PROTO)
}

/// Writes a file so that whoever reads it sees the old or the new contents, never a part. In a
/// directory where others may write too, nothing of theirs is written through: the new file is one
/// that was not there.
pub(crate) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    // What a process of this number has left when it was killed.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = File::create_new(&beside)?
        .write_all(text.as_bytes())
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        std::fs::remove_file(&beside).ok();
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("x.prom"), dir.path().join("other"));
        std::fs::write(&other, "other").unwrap();
        let planted = dir.path().join(format!(".x.prom.{}", std::process::id()));
        std::os::unix::fs::symlink(&other, &planted).unwrap();
        write_atomically(&file, "new").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"other");
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&file).unwrap().is_file() && !planted.exists());
    }

    #[test]
    fn what_the_other_process_tells_is_understood() {
        let text = Answer::Text(7, "a\nb\n".to_owned());
        assert_eq!(understand(b"mount 7\nanswer\na\nb\n"), text);
        assert_eq!(understand(b"mount 7\nerror 107\n"), Answer::Failed(Some(7), Errno::NOTCONN));
        assert_eq!(understand(b"error 2\n"), Answer::Failed(None, Errno::NOENT));
        assert_eq!(understand(b""), Answer::Failed(None, Errno::IO));
    }
}
