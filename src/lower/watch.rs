//! Hearing of changes that others make to the lower tree, through fanotify(7).
//!
//! Only what the kernel above remembers is watched: the directories in which it looks for names, through
//! these what has a name in them, and some files by themselves (`marking` says what and when). So
//! whoever changes something that nobody looks at pays nothing for it, however many mounts there are.
//! There is one group for each mount. Nothing is opened to find out what an event is about: the inode
//! number is read out of the handle, and nodeids are inode numbers. What the server itself changes is
//! left out: the kernel above knows of it. So is what callers write to the lower files through the
//! mount.
//!
//! # What is heard of
//!
//! A mark on a directory tells of the names in it, of its own attributes, and of what happens to a file
//! *through a name in it*: the kernel goes from the name by which a file was opened or changed to the
//! directory. That leaves out what happens to the file otherwise:
//!
//! - *Through a further name in a directory that is not watched*: so a file with several names counts as
//!   watched only if it is marked itself. What is not heard of is that a first further name is made.
//! - *When it is not where the table has it*. Each name that comes or goes for an inode that the kernel
//!   knows makes that a stray (`strays`), until it is found by a name anew. What is not heard of
//!   is that a file was replaced that somebody has open.
//! - *Through no name at all*: a file that was opened by its handle (a kernel NFS server, another
//!   idshift) when nobody had it in memory, or one that was opened by a name that has gone.
//!
//! None of these is known to have happened before the attributes are looked at again. So what is heard
//! of through a directory alone is trusted for [`NEAR`], and then asked for again; then the file is
//! marked itself, and all of this is heard of.
//!
//! # Why what the kernel remembers does not stay wrong
//!
//! Each answer that was read from the
//! lower tree before a change must be taken back after it. What an answer is about is watched *before* the
//! lower tree is asked, or the answer is trusted for [`SHORT`] only. An event comes after its change, and
//! [`Watch::read`] gives it a number ([`Epochs`]) before the notification goes out. Take an answer
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
//!   table after that: then the event has a number later than the answer's [`Epoch`], which was
//!   taken before the lower tree was asked, and the answer goes out with [`Trust::None`].
//! - *A name* is on its way from a lookup, a listing, or something made: the kernel holds the
//!   directory's lock until it has the answer, and the notification waits for that lock.
//! - *A name that the kernel has and asks about again* is looked up without that lock: an answer
//!   that may be one of these, because the inode was known before, gets [`Trust::Short`].
//!
//! - *A name that is not there* is always looked up under the lock.
//!
//! Writes to a file that is written without end are left out for a while (`loud`). Then no answer about it
//! is trusted.
//!
//! Lost events count as events about everything. There is a notification that makes the kernel
//! doubt all names at once, but it would also take down what is mounted inside the mount. So only
//! names are trusted for long that can be told one by one: the one that an inode was last seen
//! under ([`Place`]), and a number of those that are missing. When an inode is seen under another
//! name, the former one is told at once. A name that was entered after a loss, from an answer that
//! was begun before it, is not trusted ([`Watch::has_lost`]).
//!
//! What fanotify does not tell: access times, and writing through a shared mapping before the file is
//! closed. So answers about files that somebody has open for writing through the
//! mount get [`Trust::Short`], and no answer is trusted for longer than [`LONG`].

mod epoch;
mod event;
mod loud;
mod marking;
mod marks;
mod strays;
mod told;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::FileType;
use rustix::io::Errno;

pub use epoch::{Epoch, Epochs};
#[cfg(any(test, fuzzing))]
pub(crate) use event::fuzz as fuzz_events;
pub use marking::Marked;

use self::event::{Event, Handle};
use self::loud::Loud;
use self::marks::Marks;
use self::strays::Strays;
use self::told::Told;
use super::LowerTree;
use super::inode::{Inode, Place};
use super::table::ROOT_ID;
use crate::sys::fanotify::{self, Mask};
use crate::sys::handle::name_to_handle;

/// How long an answer is trusted that nothing has disturbed: past it, even what fanotify does not
/// tell is seen.
pub const LONG: Duration = Duration::from_secs(600);
/// How long attributes are trusted that are heard of through a directory alone.
pub const NEAR: Duration = Duration::from_secs(30);
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
    /// For [`NEAR`].
    Near,
    /// For [`LONG`].
    Long,
}

/// What listens to one lower tree.
pub struct Watch {
    group: OwnedFd,
    own_pid: u32,
    /// Whether what this process changes is news all the same.
    hears_own: AtomicBool,
    epochs: Epochs,
    told: Told,
    /// Whether the kernel is still to be told of a change that was heard of long ago.
    late: AtomicBool,
    marks: Marks,
    strays: Strays,
    loud: Loud,
}

/// Why changes cannot be heard of, as a person would want to read it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// It is so on this machine, or for this user.
    #[error("{0}")]
    Impossible(String),
    /// A limit is reached that can be raised.
    #[error(
        "this user has all fanotify {what} that are allowed; raise sysctl fs.fanotify.{sysctl} \
         ({now} now)"
    )]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// The name of the limit.
        sysctl: &'static str,
        /// Its value.
        now: String,
    },
}

/// Who may listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root of the machine alone.
    Root,
    /// Whoever may read the files.
    Anybody,
}

impl LowerTree {
    /// Starts to listen to the file system that the root is on.
    pub fn start_watching(&mut self, who: Who) -> Result<(), Unheard> {
        self.watch = Some(Watch::open(self, who)?);
        Ok(())
    }

    /// Goes on listening where another program has, with its group.
    pub fn adopt_watch(&mut self, group: OwnedFd) -> Result<(), Errno> {
        self.watch = Some(Watch::with(group)?);
        Ok(())
    }

    /// Whether every change of the inode's attributes by others is heard of, soon after it: also what is
    /// done by another way than its name.
    pub fn is_heard(&self, inode: &Inode) -> bool {
        let heard =
            |watch: &Watch| watch.marks.hears(inode, watch.epoch()) && !watch.is_silent(inode);
        self.watch.as_ref().is_some_and(|watch| heard(watch) && !watch.epochs.has_stopped())
    }

    /// What listens, if anything does.
    pub fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }
}

impl Watch {
    /// Listens to the file system that the tree's root is on.
    fn open(tree: &LowerTree, who: Who) -> Result<Self, Unheard> {
        let impossible = |why: &str| Err(Unheard::Impossible(why.to_owned()));
        if tree.inodes.get(ROOT_ID).is_none_or(|root| root.kind != FileType::Directory) {
            return impossible("changes are heard of in directories, and LOWER is a single file");
        }
        let statfs = rustix::fs::fstatfs(&tree.handle_mount).map_err(refused)?;
        if !KNOWN.contains(&(statfs.f_type.cast_unsigned() & 0xffff_ffff)) {
            return impossible("changes can be detected only on ext4, xfs, btrfs and tmpfs");
        }
        let group = fanotify::group().map_err(refused)?;
        match fanotify::ignore_mount(&group, &tree.handle_mount, left_out(tree)) {
            Err(Errno::PERM) if who == Who::Root => {
                return impossible("for others than root 'cache=coherent' has to be asked for");
            }
            Err(errno) => tracing::debug!(%errno, "writes through the mount are heard of"),
            Ok(()) => {}
        }
        let root = name_to_handle(&tree.root).map_err(refused)?;
        let number = Handle { kind: root.kind, data: &root.data }.inode_number();
        if number != Some(tree.inodes.root_number()) {
            return impossible("file handles cannot be understood here");
        }
        let watch = Self::with(group).map_err(refused)?;
        watch.begin(tree).map_err(refused)?;
        Ok(watch)
    }

    fn with(group: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            group,
            own_pid: std::process::id(),
            hears_own: AtomicBool::new(false),
            epochs: Epochs::default(),
            told: Told::new()?,
            late: AtomicBool::new(false),
            marks: Marks::allowed(),
            strays: Strays::default(),
            loud: Loud::default(),
        })
    }

    /// The group, for the program that goes on after this one.
    pub fn group(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }

    /// See [`LowerTree::serves_here`].
    ///
    /// What another server has marked stays marked: the kernel above may trust names for long of
    /// which only that server knew. This one marks what it is asked for once more.
    pub(super) fn serves_here(&mut self, takes_over: bool) {
        self.own_pid = std::process::id();
        if takes_over {
            self.marks.others_are_left();
        }
    }

    /// One file may have several nodeids from now on, and a change by one of them is news to the others.
    pub(super) fn hear_own(&self) {
        self.hears_own.store(true, Ordering::SeqCst);
    }

    /// To be polled: readable when there is something to [`Watch::read`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.group.as_fd(), self.told.doubted()]
    }

    /// To be taken before the lower tree is asked for what an answer will hold.
    pub fn epoch(&self) -> Epoch {
        self.epochs.now()
    }

    /// Whether events have been lost since the epoch was taken. To be asked after a name was
    /// entered in the table.
    pub fn has_lost(&self, since: Epoch) -> bool {
        self.epochs.all_disturbed(since) || self.is_late()
    }

    /// All names that the kernel may take to be missing for long, which are not kept any more.
    pub fn take_missing(&self) -> Vec<Place> {
        self.told.take_missing()
    }

    /// Whether the kernel is still to be told of a change that was heard of long ago.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::SeqCst)
    }

    /// The kernel is still to be told of a change, or has been told of all by now.
    pub fn set_late(&self, late: bool) {
        self.late.store(late, Ordering::SeqCst);
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

    /// Whether writes to the inode are not heard of just now, so that what is said of it is never trusted.
    pub fn is_silent(&self, inode: &Inode) -> bool {
        self.loud.contains(inode.identity.ino)
    }

    /// Nobody will read events any more: from now on no answer is trusted.
    pub fn stop(&self) {
        self.epochs.stop();
    }

    /// An inode's name comes or goes; or the inode was found by a name, and something happened to it
    /// meanwhile.
    pub fn strayed(&self, nodeid: u64) {
        self.strays.add(nodeid);
    }

    /// An inode was found by the name that the table has of it. To be called after it was entered there,
    /// and before asking how far the answer can be trusted.
    pub fn found(&self, nodeid: u64) {
        self.strays.remove(nodeid);
    }

    /// Reads the events that are waiting, up to the room in a buffer, and tells what others have
    /// changed. From one thread alone. Returns whether there may be more.
    pub fn read(
        &self,
        buffer: &mut Vec<u8>,
        tell: &mut dyn FnMut(Change<'_>),
    ) -> Result<bool, Errno> {
        // Memory that is not written to takes none.
        buffer.clear();
        let length = match rustix::io::read(&self.group, spare_capacity(buffer)) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(errno),
        };
        let mut rest = &buffer[..];
        while let Some((event, after)) = event::parse(rest) {
            rest = after;
            self.handle(&event, tell);
        }
        if !rest.is_empty() {
            tracing::error!("an event that is not understood");
            self.lost(tell);
        }
        if self.told.take_anew() {
            self.start_over();
            tell(Change::Anew { missing: self.told.take_missing() });
        }
        for place in self.told.take_doubts() {
            tell(Change::Unrecorded(place));
        }
        Ok(length > 0)
    }

    fn lost(&self, tell: &mut dyn FnMut(Change<'_>)) {
        self.epochs.happened_to_all();
        tell(Change::Lost { missing: self.told.take_missing() });
    }

    /// One event may stand for several, of which some are about the name and some about the inode
    /// behind it.
    fn handle(&self, event: &Event<'_>, tell: &mut dyn FnMut(Change<'_>)) {
        if event.mask.contains(Mask::OVERFLOW) {
            return self.lost(tell);
        }
        if event.pid == self.own_pid && !self.hears_own.load(Ordering::SeqCst) {
            return;
        }
        let object = event.object.map(Handle::inode_number);
        let place = event.place.map(|(dir, name)| (dir.inode_number(), name));
        let is_of_name = event.mask.intersects(NAMES);
        let (object, place) = match (object, place) {
            (None | Some(Some(_)), Some((Some(dir), name))) => {
                (object.flatten(), Some((dir, name)))
            }
            (Some(Some(ino)), None) if !is_of_name => (Some(ino), None),
            _ => return self.lost(tell),
        };
        if let Some((dir, name)) = place.filter(|_| is_of_name) {
            self.epochs.happened(dir);
            if let Some(ino) = object {
                self.epochs.happened(ino);
            }
            tell(Change::Name { dir, name, object });
        }
        if event.mask.intersects(OF_INODES) {
            // Of a directory itself there is its own handle, with the name `.`.
            let Some(ino) = object.or(place.map(|(dir, _)| dir)) else { return self.lost(tell) };
            self.epochs.happened(ino);
            if event.mask.intersects(CONTENTS) {
                tell(Change::Contents(ino));
            }
            if event.mask.intersects(OF_INODES.difference(CONTENTS)) {
                tell(Change::Inode(ino));
            }
        }
    }
}

/// What is not heard of if it is done through the mount that the lower tree is on.
///
/// Callers write to the lower files on a mount that is the server's alone. The kernel above knows of
/// it, and each event would cost them as much as the write. But a file that is found through two mounts is
/// two inodes to that kernel.
fn left_out(tree: &LowerTree) -> Mask {
    let nothing = Mask::OPEN; // which is never listened to
    if tree.private && !tree.submounts { Mask::MODIFY } else { nothing }
}

/// Why nothing is heard of.
fn refused(errno: Errno) -> Unheard {
    Unheard::Impossible(match errno {
        Errno::MFILE => return limit("groups", "max_user_groups"),
        Errno::NOSPC => return limit("marks", "max_user_marks"),
        Errno::PERM => "only root can watch files before Linux 5.13".to_owned(),
        Errno::INVAL => "this kernel does not tell enough (Linux 5.17 would)".to_owned(),
        other => format!("fanotify: {other}"),
    })
}

fn limit(what: &'static str, sysctl: &'static str) -> Unheard {
    let now = std::fs::read_to_string(format!("/proc/sys/fs/fanotify/{sysctl}"));
    let now = now.map_or("unknown".to_owned(), |now| now.trim().to_owned());
    Unheard::Limit { what, sysctl, now }
}

/// Events about names.
const NAMES: Mask = Mask::CREATE.union(Mask::DELETE).union(Mask::MOVED_FROM).union(Mask::MOVED_TO);
/// Events after which contents, too, are different.
const CONTENTS: Mask = Mask::MODIFY.union(Mask::CLOSE_WRITE);
/// Events about inodes.
const OF_INODES: Mask =
    CONTENTS.union(Mask::ATTRIB).union(Mask::MOVE_SELF).union(Mask::DELETE_SELF);
