//! Hearing of changes that others make to the lower tree, through fanotify(7).
//!
//! The whole file system is watched, or, where that is not allowed, single inodes (`single`), by two
//! groups: one for names, and one for inodes, whose
//! events are cheaper for those who cause them (0.9 µs a write on the machine where this was
//! written; 1.3 µs if they had to name the directory too). Nothing is opened to find out what an
//! event is about: the inode number is read out of the handle, and nodeids are inode numbers.
//! What the server itself changes is left out: the kernel above knows of it.
//!
//! # Why what the kernel remembers does not stay wrong
//!
//! The kernel above may remember an answer for a long time, so each answer that was read from the
//! lower tree before a change must be taken back after it. An event comes after its change, and
//! [`Watch::read`] gives it a number ([`Clock`]) before the notification goes out. Take an answer
//! that was read before a change whose event comes later, and look at when the notification meets
//! it:
//!
//! - The kernel has the answer: the notification makes it forget.
//! - *Attributes of an inode that the kernel knows* are on their way: the kernel numbers both
//!   requests and notifications about an inode, and drops an answer to a request that it sent
//!   before the notification (`fi->attr_version`). It does not for answers to `SETATTR` and to
//!   requests that make something; so these get [`Trust::Short`].
//! - *Attributes of an inode that the kernel does not know yet* are on their way. Either the inode
//!   was in the table when the event was handled: then the notification fails with `ENOENT` and is
//!   repeated until the kernel knows the inode or the table does not. Or it was entered in the
//!   table after that: then the event has a number later than the answer's [`Ticket`], which was
//!   taken before the lower tree was asked, and the answer goes out with [`Trust::None`].
//! - *A name* is on its way from a lookup, a listing, or something made: the kernel holds the
//!   directory's lock until it has the answer, and the notification waits for that lock.
//! - *A name that the kernel has and asks about again* is looked up without that lock: an answer
//!   that may be one of these, because the inode was known before, gets [`Trust::Short`].
//!
//! - *A name that is not there* is always looked up under the lock.
//!
//! Lost events count as events about everything. There is a notification that makes the kernel
//! doubt all names at once, but it would also take down what is mounted inside the mount. So only
//! names are trusted for long that can be told one by one: the one that an inode was last seen
//! under ([`Place`]), and a number of those that are missing. When an inode is seen under another
//! name, the former one is told at once. A name that was entered after a loss, from an answer that
//! was begun before it, is not trusted ([`Watch::has_lost`]).
//!
//! What fanotify does not tell: access times; writing through a shared mapping before the file is
//! closed; and what is written by those who write so often that the events are turned off for the
//! file (`hot`). So answers about files that somebody has open for writing through the
//! mount, and about files that are written that often, get [`Trust::Short`], and no answer is
//! trusted for longer than [`LONG`].

mod clock;
mod event;
mod hot;
mod marks;
mod single;
mod told;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

pub use clock::{Clock, Ticket};
#[cfg(any(test, fuzzing))]
pub(crate) use event::fuzz as fuzz_events;
pub use single::Marked;

use self::event::{Event, Handle};
use self::hot::HotFiles;
use self::marks::Marks;
use self::told::Told;
use super::inode::{Inode, Place};
use super::{LowerTree, proc_path};
use crate::sys::fanotify::{self, Mask, Report};
use crate::sys::handle::{name_to_handle, open_by_handle};

/// How long an answer is trusted that nothing has disturbed: past it, even what fanotify does not
/// tell is seen.
pub const LONG: Duration = Duration::from_secs(600);
/// How long an answer is trusted of which an event could be missed.
pub const SHORT: Duration = Duration::from_secs(1);

/// The local file systems whose handles are understood: all changes come from this machine's own
/// calls. linux/magic.h: ext2 to ext4, xfs, btrfs, tmpfs.
const KNOWN: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

/// What is heard of a change; the numbers are inode numbers on the root's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A name in a directory has come, gone, or stands for something else.
    Name {
        /// The directory.
        dir: u64,
        /// The name.
        name: &'a OsStr,
        /// What it stood for, or stands for.
        object: Option<u64>,
    },
    /// An inode has other attributes, perhaps another owner.
    Inode(u64),
    /// An inode has other contents, and with them other times and another size.
    Contents(u64),
    /// The kernel has been told of a name that is not known here any more.
    Unrecorded(Place),
    /// Events were lost: anything may have changed, and of names only those that are in the table
    /// or given here as missing can be in the kernel for long.
    Lost {
        /// Names that are not there.
        missing: Vec<Place>,
    },
    /// Changes are not heard of any more until what they are about is asked for again; what can be in
    /// the kernel for long is the same.
    Anew {
        /// Names that are not there.
        missing: Vec<Place>,
    },
}

/// How long an answer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Not beyond this moment.
    None,
    /// For [`SHORT`].
    Short,
    /// For [`LONG`].
    Long,
}

/// What listens to one lower file system.
pub struct Watch {
    names: OwnedFd,
    inodes: OwnedFd,
    /// A descriptor on the file system, for opening handles.
    mount: OwnedFd,
    own_pid: u32,
    /// Whether what this process changes is news all the same.
    hears_own: AtomicBool,
    clock: Clock,
    hot: HotFiles,
    told: Told,
    /// Where it is single inodes that are listened to, and not the file system: which.
    marks: Option<Marks>,
}

/// What may be listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole file system alone, for which the server needs CAP_SYS_ADMIN over it.
    FileSystem,
    /// Where that is refused, single inodes.
    AlsoInodes,
}

impl LowerTree {
    /// Starts to listen to the file system that the root is on. The error is the reason why that
    /// cannot be done, as a person would want to read it.
    pub fn start_watching(&mut self, scope: Scope) -> Result<(), String> {
        self.watch = Some(Watch::open(self, scope)?);
        Ok(())
    }

    /// Goes on listening where another program has: with its two groups, which listen to the whole file
    /// system.
    pub fn go_on_watching(&mut self, [names, inodes]: [OwnedFd; 2]) -> Result<(), Errno> {
        self.watch = Some(Watch::with(self, names, inodes, None)?);
        Ok(())
    }

    /// Whether a change of the inode by others is heard of, soon after it.
    pub fn is_heard(&self, inode: &Inode) -> bool {
        inode.identity.dev == self.inodes.root_device()
            && self.watch.as_ref().is_some_and(Watch::hears_all)
    }

    /// What listens, if anything does.
    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }
}

impl Watch {
    /// Listens to the file system that the tree's root is on.
    fn open(tree: &LowerTree, scope: Scope) -> Result<Self, String> {
        let statfs = rustix::fs::fstatfs(&tree.handle_mount).map_err(|errno| errno.to_string())?;
        if !KNOWN.contains(&(statfs.f_type.cast_unsigned() & 0xffff_ffff)) {
            return Err("changes can be heard of on ext4, xfs, btrfs and tmpfs alone".to_owned());
        }
        let refused = |errno: Errno| match errno {
            Errno::PERM if scope == Scope::FileSystem => {
                "only root can watch a whole file system; 'cache=coherent' watches single files"
                    .to_owned()
            }
            Errno::PERM => "only root can watch files before Linux 5.13".to_owned(),
            Errno::INVAL => "this kernel does not tell enough (Linux 5.17 would)".to_owned(),
            // Descriptors are not what is short: the limit of the process has just been raised.
            Errno::MFILE => "this user has as many fanotify groups as are allowed; root can raise \
                             the sysctl fs.fanotify.max_user_groups (a mount takes two)"
                .to_owned(),
            other => format!("fanotify: {other}"),
        };
        let names = fanotify::group(Report::NAMES).map_err(refused)?;
        let inodes = fanotify::group(Report::INODE).map_err(refused)?;
        let on_all = |(group, mask): (&OwnedFd, Mask)| {
            fanotify::watch_filesystem(group, &tree.handle_mount, mask | Mask::ONDIR)
        };
        let all = [(&names, NAMES), (&inodes, Mask::ATTRIB | CONTENTS)];
        // Handles are opened to turn events off, which is not done for single inodes.
        let watched =
            if tree.handles { all.into_iter().try_for_each(on_all) } else { Err(Errno::PERM) };
        let marks = match watched {
            Ok(()) => None,
            Err(Errno::PERM) if scope == Scope::AlsoInodes => {
                let root = tree.handle_mount.as_fd();
                single::listen_to_names(&names, root).map_err(refused)?;
                Some(Marks::allowed())
            }
            Err(errno) => return Err(refused(errno)),
        };
        // A file that is found through two mounts is two inodes to the kernel above.
        if tree.private && !tree.submounts {
            leave_own_writes_out(&inodes, &tree.handle_mount);
        }
        let root = name_to_handle(&tree.root).map_err(refused)?;
        let number = Handle { kind: root.kind, data: &root.data }.inode_number();
        if number != Some(tree.inodes.root_number()) {
            return Err("file handles cannot be understood here".to_owned());
        }
        Self::with(tree, names, inodes, marks).map_err(refused)
    }

    fn with(
        tree: &LowerTree,
        names: OwnedFd,
        inodes: OwnedFd,
        marks: Option<Marks>,
    ) -> Result<Self, Errno> {
        Ok(Self {
            names,
            inodes,
            mount: rustix::io::fcntl_dupfd_cloexec(&tree.handle_mount, 0)?,
            own_pid: std::process::id(),
            hears_own: AtomicBool::new(false),
            clock: Clock::default(),
            hot: HotFiles::default(),
            told: Told::new()?,
            marks,
        })
    }

    /// The two groups, for the program that goes on after this one.
    pub fn groups(&self) -> [BorrowedFd<'_>; 2] {
        [self.names.as_fd(), self.inodes.as_fd()]
    }

    /// By what handles that events name are opened.
    pub(super) fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// See [`LowerTree::serves_here`].
    pub(super) fn serves_here(&mut self, takes_over: bool) {
        self.own_pid = std::process::id();
        if takes_over && let Err(errno) = fanotify::forget_inodes(&self.inodes) {
            tracing::warn!(%errno, "writes to files that were written often may be seen late");
        }
    }

    /// One file may have several nodeids from now on, and a change by one of them is news to the others.
    pub(super) fn hear_own(&self) {
        self.hears_own.store(true, Ordering::SeqCst);
    }

    /// To be polled: readable when there is something to [`Watch::read`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.names.as_fd(), self.inodes.as_fd(), self.told.doubted()]
    }

    /// Whether changes of every inode of the file system are heard of, until [`Watch::stop`].
    fn hears_all(&self) -> bool {
        self.marks.is_none() && !self.clock.has_stopped()
    }

    /// To be taken before the lower tree is asked for what an answer will hold.
    pub fn ticket(&self) -> Ticket {
        self.clock.ticket()
    }

    /// How far attributes can be trusted that were read after the ticket was taken.
    pub fn trust(&self, since: Ticket, inode: &Inode) -> Trust {
        let ino = inode.identity.ino;
        // The order counts: a file that is hot no more has an event of its own.
        let hot = self.hot.contains(ino);
        match self.clock.undisturbed(since, ino) {
            false => Trust::None,
            true if hot || !self.hears(inode, since) => Trust::Short,
            true => Trust::Long,
        }
    }

    /// Whether events have been lost since the ticket was taken. To be asked after a name was
    /// entered in the table.
    pub fn has_lost(&self, since: Ticket) -> bool {
        self.clock.all_disturbed(since)
    }

    /// The kernel is told that a name is not there. To be called before asking
    /// [`Watch::has_lost`].
    pub fn note_missing(&self, parent: u64, name: &OsStr) {
        self.told.missing(Place { parent, name: name.into() });
    }

    /// The kernel is told what a name stands for, which it may have taken to be missing.
    pub(super) fn note_found(&self, parent: u64, name: &OsStr) {
        self.told.found(parent, name);
    }

    /// Has the kernel ask about a name anew.
    pub(super) fn doubt(&self, place: Place) {
        self.told.doubt(place);
    }

    /// Nobody will read events any more: from now on no answer is trusted.
    pub fn stop(&self) {
        self.clock.stop();
    }

    /// Reads the events that are waiting, up to a buffer of each group, and tells what others have
    /// changed. From one thread alone. Returns whether there may be more.
    pub fn read(&self, buffer: &mut [u8], tell: &mut dyn FnMut(Change<'_>)) -> Result<bool, Errno> {
        let mut more = false;
        for group in [&self.names, &self.inodes] {
            let length = match rustix::io::read(group, &mut *buffer) {
                Ok(length) => length,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            more = true;
            let mut rest = &buffer[..length];
            while let Some((event, after)) = event::parse(rest) {
                rest = after;
                self.handle(&event, tell);
            }
            if !rest.is_empty() {
                tracing::error!("an event that is not understood");
                self.lost(tell);
            }
        }
        if let Some(marks) = self.marks.as_ref().filter(|_| self.told.take_anew()) {
            self.start_over(marks);
            tell(Change::Anew { missing: self.told.take_missing() });
        }
        for place in self.told.take_doubts() {
            tell(Change::Unrecorded(place));
        }
        self.cool_down(tell);
        Ok(more)
    }

    fn lost(&self, tell: &mut dyn FnMut(Change<'_>)) {
        self.clock.happened_to_all();
        tell(Change::Lost { missing: self.told.take_missing() });
    }

    fn handle(&self, event: &Event<'_>, tell: &mut dyn FnMut(Change<'_>)) {
        if event.mask.contains(Mask::OVERFLOW) {
            return self.lost(tell);
        }
        if event.pid == self.own_pid && !self.hears_own.load(Ordering::SeqCst) {
            return;
        }
        let object = event.object.map(Handle::inode_number);
        let place = event.place.map(|(dir, name)| (dir.inode_number(), name));
        match (place, object) {
            (Some((Some(dir), name)), None | Some(Some(_))) => {
                let object = object.flatten();
                self.clock.happened(dir);
                if let Some(ino) = object {
                    self.clock.happened(ino);
                }
                tell(Change::Name { dir, name, object });
            }
            (None, Some(Some(ino))) => {
                self.clock.happened(ino);
                if event.mask.intersects(CONTENTS) {
                    self.count(ino, event);
                    tell(Change::Contents(ino));
                }
                if event.mask.contains(Mask::ATTRIB) || !event.mask.intersects(CONTENTS) {
                    tell(Change::Inode(ino));
                }
            }
            _ => self.lost(tell),
        }
    }

    /// Counts a change of contents; those of a file that has too many are not heard of for a while.
    ///
    /// The file is hot before its events are turned off, and the change that is being told makes
    /// the kernel forget what it has been allowed to trust for long.
    fn count(&self, ino: u64, event: &Event<'_>) {
        // Of a single inode: who writes pays for the event, and nobody else.
        let Some(handle) = event.object.filter(|_| self.marks.is_none()) else { return };
        if self.hot.count(ino, handle, Instant::now())
            && let Err(errno) = self.hear(handle, false)
        {
            tracing::debug!(%errno, ino, "a file that is written often is still heard of");
        }
    }

    /// Hears again of files that have been hot for long enough.
    fn cool_down(&self, tell: &mut dyn FnMut(Change<'_>)) {
        let hear = |handle: Handle<'_>| self.hear(handle, true);
        self.hot.cool_down(Instant::now(), hear, |ino| {
            // What was read before this moment may have missed something.
            self.clock.happened(ino);
            tell(Change::Contents(ino));
        });
    }

    /// When [`Watch::read`] wants to be called even if there are no events.
    pub fn next_due(&self) -> Option<Instant> {
        self.hot.next_due()
    }

    /// Turns the events of one file's writes on or off.
    fn hear(&self, file: Handle<'_>, on: bool) -> Result<(), Errno> {
        let file = open_by_handle(&self.mount, file.kind, file.data, OFlags::PATH)?;
        let path = CString::new(proc_path(&file)).map_err(|_| Errno::INVAL)?;
        fanotify::ignore(&self.inodes, &path, Mask::MODIFY, !on)
    }
}

/// Leaves out what callers write through the mount: the kernel above knows of it, and each event
/// would cost them as much as the write. They write to the lower files on a mount that is this
/// server's alone. Where the kernel cannot, or only root may, they are heard of.
fn leave_own_writes_out(inodes: &OwnedFd, mount: &OwnedFd) {
    if let Err(errno) = fanotify::ignore_mount(inodes, mount, Mask::MODIFY) {
        tracing::debug!(%errno, "writes through the mount are heard of");
    }
}

/// Events about names.
const NAMES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVED_FROM).union(Mask::MOVED_TO);
/// Events after which contents, too, are different.
const CONTENTS: Mask = Mask::MODIFY.union(Mask::CLOSE_WRITE);
