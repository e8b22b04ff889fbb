//! The calls, and the five who make them.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
    UTIME_NOW, chmod, chownat, fallocate, fchmod, fchown, fsync, ftruncate, ioctl_getflags,
    ioctl_setflags, linkat, lremovexattr, makedev, mkdirat, openat, renameat_with, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::tree::{
    CAPABILITY, KEPT, MARK, RECORD, S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, TARGET, capability,
    random_acl,
};
use crate::common::dice::Dice;
use crate::common::raw::{mknod, truncate};
use crate::common::{ACL_ACCESS, ACL_DEFAULT, Caller, lo, set_xattr};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) name: &'static str,
    pub(super) id: u32,
    pub(super) groups: &'static [u32],
}

pub(super) const CALLERS: [Who; 5] = [
    Who { name: "root", id: 0, groups: &[] },
    Who { name: "owner", id: 1000, groups: &[] },
    Who { name: "member", id: 1001, groups: &[1000] },
    Who { name: "other", id: 1002, groups: &[] },
    Who { name: "outside", id: 50_000, groups: &[] },
];

impl Who {
    pub(super) fn is_root(self) -> bool {
        self.id == 0
    }

    pub(super) fn is_in(self, group: u32) -> bool {
        self.id == group || self.groups.contains(&group)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    List,
    Write,
    Empty,
    Truncate,
    Allocate,
    Copy,
    /// An open file for later; its right to write is the call's number.
    Hold,
    Create,
    Tmpfile,
    Mkdir,
    Mknod,
    Symlink,
    Link,
    Rename,
    Exchange,
    Whiteout,
    Unlink,
    Rmdir,
    Chmod,
    Chown,
    Times,
    Now,
    Attribute,
    Remove,
    Flags,
    HeldWrite,
    HeldRead,
    HeldTruncate,
    HeldAllocate,
    HeldChmod,
    HeldChown,
    /// The server is killed, and another goes on.
    Kill,
    /// Somebody changes the mode or the owner below.
    Below,
}

const CALLS: &[Call] = &[
    Call::Read,
    Call::List,
    Call::Write,
    Call::Write,
    Call::Empty,
    Call::Truncate,
    Call::Allocate,
    Call::Copy,
    Call::Hold,
    Call::Hold,
    Call::Create,
    Call::Create,
    Call::Tmpfile,
    Call::Mkdir,
    Call::Mknod,
    Call::Symlink,
    Call::Link,
    Call::Rename,
    Call::Exchange,
    Call::Whiteout,
    Call::Unlink,
    Call::Rmdir,
    Call::Chmod,
    Call::Chmod,
    Call::Chown,
    Call::Chown,
    Call::Times,
    Call::Now,
    Call::Attribute,
    Call::Attribute,
    Call::Remove,
    Call::Flags,
    Call::HeldWrite,
    Call::HeldWrite,
    Call::HeldWrite,
    Call::HeldRead,
    Call::HeldTruncate,
    Call::HeldAllocate,
    Call::HeldChmod,
    Call::HeldChmod,
    Call::HeldChown,
    Call::Kill,
    Call::Below,
    Call::Below,
];

/// One call. What it does not need of the rest it leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) who: Who,
    pub(super) call: Call,
    pub(super) path: &'static str,
    pub(super) to: &'static str,
    pub(super) mode: u32,
    pub(super) kind: u32,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) attribute: &'static str,
    pub(super) value: Vec<u8>,
    pub(super) slot: usize,
    pub(super) number: u8,
}

const PATHS: &[&str] =
    &["a", "a", "b", "b", "c", "c", "d/a", "d/a", "d/b", "e/a", "e/b", "d", "e", "new", "d/new"];
const NEW: &[&str] =
    &["new", "d/new", "e/new", "one", "two", "d/one", "d/two", "e/one", "e/two", "a", "d/a", "d"];
const DIRS: &[&str] = &["d", "e", "d", "e", "new", "one", "a"];

/// Where such a call mostly finds something to do.
fn paths(call: Call) -> &'static [&'static str] {
    match call {
        Call::Tmpfile | Call::List | Call::Rmdir => DIRS,
        Call::Create | Call::Mkdir | Call::Mknod | Call::Symlink => NEW,
        _ => PATHS,
    }
}

const MODES: &[u32] = &[
    0o644, 0o600, 0o777, 0o4755, 0o2755, 0o6777, 0o666, 0o070, 0o1777, 0o2777, 0o2644, 0o6755, 0o604,
];
pub(super) const SLOTS: usize = 2;

/// Somebody and a file that some steps after each other are about.
#[derive(Clone, Copy)]
pub(super) struct Focus {
    who: Who,
    path: &'static str,
    slot: usize,
}

fn someone(dice: &mut Dice) -> Who {
    CALLERS[dice.of(&[0, 0, 1, 1, 1, 1, 2, 2, 3, 4])]
}

impl Focus {
    pub(super) fn random(dice: &mut Dice) -> Self {
        Self { who: someone(dice), path: dice.of(PATHS), slot: dice.size(SLOTS as u64) }
    }
}

impl Step {
    pub(super) fn random(dice: &mut Dice, focus: Focus) -> Self {
        let attributes = [MARK, ACL_ACCESS, ACL_ACCESS, ACL_DEFAULT, CAPABILITY, KEPT, RECORD];
        let attribute = dice.of(&attributes);
        let value = match attribute {
            ACL_ACCESS | ACL_DEFAULT => random_acl(dice, |id| id),
            CAPABILITY => {
                capability(dice.of(&[None, None, Some(0), Some(1000), Some(lo(0)), Some(60_000)]))
            }
            KEPT => b"1 6000 0.000000000 -".to_vec(),
            RECORD => b"20000:20000:06777:file".to_vec(),
            _ => vec![u8::try_from(dice.below(250)).unwrap()],
        };
        let call = dice.of(CALLS);
        let to = match call {
            Call::Tmpfile | Call::Link => NEW,
            _ => PATHS,
        };
        let is_new = matches!(call, Call::Create | Call::Mkdir | Call::Mknod | Call::Symlink);
        let ids = [None, Some(0), Some(1000), Some(1001), Some(1002), Some(50_000), Some(65_534)];
        Self {
            who: if dice.below(2) == 0 { focus.who } else { someone(dice) },
            call,
            path: if is_new || dice.below(2) == 0 { dice.of(paths(call)) } else { focus.path },
            to: dice.of(to),
            mode: dice.of(MODES),
            kind: dice.of(&[S_IFREG, S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO]),
            uid: dice.of(&ids),
            gid: dice.of(&ids),
            attribute,
            value,
            slot: if dice.below(4) > 0 { focus.slot } else { dice.size(SLOTS as u64) },
            number: u8::try_from(dice.below(250)).unwrap(),
        }
    }

    /// The focus opens its file, and keeps it open.
    pub(super) fn hold(dice: &mut Dice, focus: Focus) -> Self {
        let Focus { who, path, slot } = focus;
        Self { call: Call::Hold, who, path, slot, ..Self::random(dice, focus) }
    }

    /// Whether the descriptor that is made by `Hold` may write.
    pub(super) fn holds_to_write(&self) -> bool {
        self.number % 3 != 0
    }

    pub(super) fn device(&self) -> u64 {
        if self.number % 4 == 0 { 0 } else { makedev(1, 3) }
    }

    pub(super) fn flags(&self) -> RenameFlags {
        match self.call {
            Call::Exchange => RenameFlags::EXCHANGE,
            Call::Whiteout => RenameFlags::WHITEOUT,
            _ if self.number % 2 == 0 => RenameFlags::NOREPLACE,
            _ => RenameFlags::empty(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, call, path, to, mode, kind, uid, gid, slot, number, .. } = self;
        write!(f, "{} {call:?} {path} {to} {mode:o} {number}", who.name)?;
        match call {
            Call::Mknod => write!(f, " kind {kind:o}"),
            Call::Chown => write!(f, " ids {uid:?} {gid:?}"),
            Call::HeldChown => write!(f, " ids {uid:?} {gid:?} slot {slot}"),
            Call::Attribute | Call::Remove => write!(f, " {}={:?}", self.attribute, self.value),
            _ => write!(f, " slot {slot}"),
        }
    }
}

/// A file that somebody holds open, and a descriptor below to look at it.
pub(super) struct Slot {
    pub(super) upper: OwnedFd,
    pub(super) lower: OwnedFd,
    pub(super) number: u64,
    pub(super) writes: bool,
}

/// What a call gave.
#[derive(Debug)]
pub(super) enum Gave {
    Nothing,
    Held(OwnedFd),
}

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

fn perform(
    step: &Step,
    root: &Path,
    held: Option<OwnedFd>,
    gathers: bool,
) -> Result<Gave, Errno> {
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
            let exclusive = if step.number % 2 == 0 { OFlags::EXCL } else { OFlags::empty() };
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
        Call::HeldAllocate => with(held, |fd| {
            fallocate(fd, FallocateFlags::empty(), 0, u64::from(step.number) + 1)
        }),
        Call::HeldChmod => with(held, |fd| fchmod(fd, mode)),
        Call::HeldChown => with(held, |fd| {
            let (uid, gid) = ids(step);
            fchown(fd, uid, gid)
        }),
        Call::Kill | Call::Below => Ok(()),
    };
    done.map(|()| Gave::Nothing)
}

fn with(held: Option<OwnedFd>, call: impl FnOnce(&OwnedFd) -> Result<(), Errno>) -> Result<(), Errno> {
    call(&held.ok_or(Errno::BADF)?)
}

fn write(fd: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    pwrite(fd, text, 0).map(drop)
}

fn read(fd: &OwnedFd) -> Result<(), Errno> {
    pread(fd, &mut [0; 64], 0).map(drop)
}
