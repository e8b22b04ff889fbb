//! Making the calls, each in the thread of who makes it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, Uid,
    chmod, chownat, fallocate, fchmod, fchown, fsync, ftruncate, ioctl_getflags, ioctl_setflags,
    linkat, lremovexattr, mkdirat, openat, renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::step::{CALLERS, Call, Gave, Slot, Step};
use super::tree::TARGET;
use crate::common::raw::{mknod, truncate};
use crate::common::{Caller, set_xattr};

type Job = Box<dyn FnOnce() + Send>;

/// A thread for each caller.
pub(super) struct Crew {
    jobs: Vec<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    pub(super) fn new() -> Self {
        let (mut jobs, mut threads) = (Vec::new(), Vec::new());
        for who in CALLERS {
            let (sender, receiver): (Sender<Job>, Receiver<Job>) = channel();
            jobs.push(sender);
            threads.push(thread::spawn(move || {
                let caller = Caller::user(who.id).groups(who.groups);
                caller.run(move || receiver.iter().for_each(|job| job()));
            }));
        }
        Self { jobs, threads }
    }

    /// Makes the call of the step in the tree shown at `root`.
    pub(super) fn make(
        &self,
        step: &Step,
        root: &Path,
        held: &[Option<Slot>],
        gathers: bool,
    ) -> Result<Gave, Errno> {
        let at = CALLERS.iter().position(|who| *who == step.who).unwrap();
        let (answer, answered) = channel();
        let held = held[step.slot].as_ref().map(|slot| slot.upper.try_clone().unwrap());
        let (step, root) = (step.clone(), root.to_owned());
        let job = move || answer.send(perform(&step, &root, held, gathers)).unwrap();
        self.jobs[at].send(Box::new(job)).unwrap();
        answered.recv().expect("the caller's thread lives")
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Never waits for the other end of a fifo.
const NOW: OFlags = OFlags::NONBLOCK.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

fn open(path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    openat(CWD, path, flags | NOW, Mode::from_raw_mode(mode))
}

fn ids(step: &Step) -> (Option<Uid>, Option<Gid>) {
    (step.uid.map(Uid::from_raw), step.gid.map(Gid::from_raw))
}

fn perform(step: &Step, root: &Path, held: Option<OwnedFd>, gathers: bool) -> Result<Gave, Errno> {
    let [path, to]: [PathBuf; 2] = [root.join(step.path), root.join(step.to)];
    let mode = Mode::from_raw_mode(step.mode);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let text = [step.number; 5];
    let times = |nsec| {
        let time = Timespec { tv_sec: 7, tv_nsec: nsec };
        Timestamps { last_access: time, last_modification: time }
    };
    let done: Result<(), Errno> = match step.call {
        Call::Read => open(&path, OFlags::RDONLY, 0).and_then(|fd| read(&fd)),
        Call::List => open(&path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
            .and_then(|dir| rustix::fs::Dir::new(dir)?.try_for_each(|entry| entry.map(drop))),
        Call::Write => open(&path, OFlags::WRONLY, 0).and_then(|fd| write(&fd, &text)),
        Call::Empty => open(&path, OFlags::WRONLY | OFlags::TRUNC, 0).map(drop),
        Call::Truncate => truncate(&path, i64::from(step.number % 9)),
        Call::Allocate => open(&path, OFlags::WRONLY, 0)
            .and_then(|fd| fallocate(fd, FallocateFlags::empty(), 0, u64::from(step.number))),
        Call::Copy => {
            let from = open(&path, OFlags::RDONLY, 0)?;
            let to = open(&to, OFlags::WRONLY, 0)?;
            rustix::fs::copy_file_range(from, None, to, None, 9).map(drop)
        }
        Call::Hold => {
            let access = if step.holds_to_write() { OFlags::RDWR } else { OFlags::RDONLY };
            return open(&path, access | OFlags::NOFOLLOW, 0).map(Gave::Held);
        }
        Call::Create => {
            let exclusive =
                if step.number.is_multiple_of(2) { OFlags::EXCL } else { OFlags::empty() };
            open(&path, OFlags::WRONLY | OFlags::CREATE | exclusive, step.mode).map(drop)
        }
        Call::Tmpfile => open(&path, OFlags::TMPFILE | OFlags::WRONLY, step.mode).and_then(|fd| {
            let name = idshift::lower::proc_path(fd.as_fd());
            linkat(CWD, name, CWD, &to, AtFlags::SYMLINK_FOLLOW)
        }),
        Call::Mkdir => mkdirat(CWD, &path, mode),
        Call::Mknod => mknod(&path, step.kind | step.mode, step.device()),
        Call::Symlink => symlinkat(TARGET, CWD, &path),
        Call::Link => linkat(CWD, &path, CWD, &to, AtFlags::empty()),
        Call::Rename | Call::Exchange | Call::Whiteout => {
            renameat_with(CWD, &path, CWD, &to, step.flags())
        }
        Call::Unlink => unlinkat(CWD, &path, AtFlags::empty()),
        Call::Rmdir => unlinkat(CWD, &path, AtFlags::REMOVEDIR),
        Call::Chmod => chmod(&path, mode),
        Call::Chown => {
            let (uid, gid) = ids(step);
            chownat(CWD, &path, uid, gid, nofollow)
        }
        Call::Times => utimensat(CWD, &path, &times(0), nofollow),
        Call::Now => utimensat(CWD, &path, &times(UTIME_NOW), nofollow),
        Call::Attribute => set_xattr(&path, step.attribute, &step.value),
        Call::Remove => lremovexattr(&path, step.attribute),
        Call::Flags => open(&path, OFlags::RDONLY, 0).and_then(|fd| {
            let flags = ioctl_getflags(&fd)?;
            ioctl_setflags(fd, flags ^ IFlags::NODUMP)
        }),
        Call::HeldWrite => with(held, |fd| {
            write(fd, &text)?;
            if gathers { fsync(fd) } else { Ok(()) }
        }),
        Call::HeldRead => with(held, read),
        Call::HeldTruncate => with(held, |fd| ftruncate(fd, u64::from(step.number % 9))),
        Call::HeldAllocate => {
            with(held, |fd| fallocate(fd, FallocateFlags::empty(), 0, u64::from(step.number) + 1))
        }
        Call::HeldChmod => with(held, |fd| fchmod(fd, mode)),
        Call::HeldChown => with(held, |fd| {
            let (uid, gid) = ids(step);
            fchown(fd, uid, gid)
        }),
        Call::Kill | Call::Below => Ok(()),
    };
    done.map(|()| Gave::Nothing)
}

fn with(
    held: Option<OwnedFd>,
    call: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
) -> Result<(), Errno> {
    call(&held.ok_or(Errno::BADF)?)
}

fn write(fd: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    pwrite(fd, text, 0).map(drop)
}

fn read(fd: &OwnedFd) -> Result<(), Errno> {
    pread(fd, &mut [0; 64], 0).map(drop)
}
