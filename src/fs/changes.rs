//! What changes below mean for the kernel above, which remembers answers: what it has to forget.
//!
//! One thread listens and notifies, with others for what may have to wait ([`queue`]). A notification may wait
//! for a lock that the kernel holds while it waits for an answer: so this is never one of the threads
//! that answer, and no lock is held here meanwhile. While one is late, no answer is trusted.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use self::queue::{Notice, Queue};
use super::FileSystem;
use crate::lower::inode::Place;
use crate::lower::watch::{Change, Watch};

mod queue;

/// Whoever remembers answers, and can be told to forget: the kernel above.
pub trait Notices: Sync {
    /// The attributes of an inode. `NOENT` if it is not known there.
    fn forget_attributes(&self, nodeid: u64) -> Result<(), Errno>;
    /// The contents of an inode or, of a directory, its listing, and its attributes.
    fn forget_contents(&self, nodeid: u64) -> Result<(), Errno>;
    /// What a name stands for. `NOENT` if the directory or the name is not known there.
    fn expire_name(&self, parent: u64, name: &OsStr) -> Result<(), Errno>;
}

/// Room for the events of one reading.
const BUFFER: usize = 64 * 1024;
/// How often the buffer is filled before the kernel is told of what was in it.
const MOST_BUFFERS: usize = 64;
/// The least time between two readings while events keep coming: what a storm of changes,
/// elsewhere on the file system or through this mount, costs is bounded by it, and so is how late
/// a change is seen.
const PAUSE: Duration = Duration::from_millis(2);
/// After this time without events the next one is handled at once.
const QUIET: Duration = Duration::from_millis(10);
/// How soon a notification is repeated about an inode that the kernel is just being told of, at
/// first and at most; doubled in between.
const FIRST_REPEAT: Duration = Duration::from_millis(1);
const LAST_REPEAT: Duration = Duration::from_millis(500);
/// How often it is looked whether notices that are late have been told.
const LATE: Duration = Duration::from_millis(50);
/// So many readings in a row tell of writes to a file before they are left unheard for a while.
const LOUD: u32 = 16;

impl FileSystem {
    /// Whether changes below are to be told.
    pub fn tells_changes(&self) -> bool {
        self.watch().is_some()
    }

    /// Listens to changes below and tells them, until `stop` is readable. From one thread, alone.
    ///
    /// If it takes over from a server that was killed, which may have heard of a change and told
    /// nobody, all is told first.
    pub fn tell_changes(&self, kernel: &impl Notices, stop: BorrowedFd<'_>, takes_over: bool) {
        let Some(watch) = self.watch() else { return };
        let _at_the_end = Stopping(watch);
        let queue = Queue::new(kernel);
        let (repeats, loud, late) = (HashMap::new(), HashMap::new(), false);
        thread::scope(|scope| {
            let queue = &queue;
            let mut listener =
                Listener { fs: self, kernel, queue, scope, watch, loud, repeats, late };
            if takes_over {
                listener.tell(Changes { lost: true, ..Changes::default() });
            }
            if let Err(errno) = listener.listen(stop) {
                tracing::error!(%errno, "changes below are not heard of any more");
            }
            watch.stop();
            queue.end();
        });
    }
}

/// However the thread ends, no answer is trusted after it.
struct Stopping<'w>(&'w Watch);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Listener<'s, 'e, N> {
    fs: &'s FileSystem,
    kernel: &'s N,
    queue: &'s Queue<'s, N>,
    scope: &'s Scope<'s, 'e>,
    watch: &'s Watch,
    /// Whether some are still to be told.
    late: bool,
    /// In how many readings in a row the contents of these nodeids have changed.
    loud: HashMap<u64, u32>,
    /// Inodes that the table knows and the kernel does not yet.
    repeats: HashMap<u64, Repeat>,
}

struct Repeat {
    contents: bool,
    after: Duration,
    due: Instant,
}

/// What one reading has brought, each thing once.
#[derive(Default)]
struct Changes {
    names: HashSet<Place>,
    /// Nodeids, and whether the contents have changed.
    inodes: HashMap<u64, bool>,
    /// Nodeids of files that were written.
    written: HashSet<u64>,
    /// Nodeids that may have another owner or mode.
    owners: HashSet<u64>,
    lost: bool,
    /// All is to be asked anew, without having been lost.
    anew: bool,
    missing: Vec<Place>,
}

impl<N: Notices> Listener<'_, '_, N> {
    fn listen(mut self, stop: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut last = Instant::now();
        loop {
            let [events, doubted] = self.watch.descriptors();
            let mut fds =
                [stop, events, doubted].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, self.timeout().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            let slept = last.elapsed();
            if slept < QUIET {
                thread::sleep(PAUSE.saturating_sub(slept));
            }
            let mut changes = Changes::default();
            for _ in 0..MOST_BUFFERS {
                let mut add = |change: Change<'_>| changes.add(change, self.fs, self.watch);
                if !self.watch.read(&mut buffer, &mut add)? {
                    break;
                }
            }
            if changes.lost {
                tracing::warn!(
                    "too many changes below at once: all that is remembered is asked anew"
                );
            }
            if self.late && self.queue.take_given_up() {
                changes.lost = true;
                changes.missing.extend(self.watch.take_missing());
            }
            self.repeat(&mut changes);
            for ino in self.watch.end_silence() {
                changes.add(Change::Contents(ino), self.fs, self.watch);
            }
            let loud = self.grown_loud(&changes, slept);
            self.tell(changes);
            self.silence(loud);
            last = Instant::now();
        }
    }

    /// How long to wait for events; `None` for ever.
    fn timeout(&self) -> Option<Timespec> {
        let repeat = self.repeats.values().map(|repeat| repeat.due).min();
        let late = self.late.then(|| Instant::now() + LATE);
        let silent = self.watch.silent_until();
        let due = repeat.into_iter().chain(late).chain(silent).min()?;
        let wait = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    /// The files that others write to without end.
    fn grown_loud(&mut self, changes: &Changes, slept: Duration) -> Vec<u64> {
        let before = std::mem::take(&mut self.loud);
        if slept >= QUIET {
            return Vec::new();
        }
        let mut grown = Vec::new();
        for &nodeid in &changes.written {
            match before.get(&nodeid).map_or(1, |readings| readings + 1) {
                LOUD => grown.push(nodeid),
                readings => drop(self.loud.insert(nodeid, readings)),
            }
        }
        grown
    }

    fn silence(&mut self, loud: Vec<u64>) {
        let mut changes = Changes::default();
        for nodeid in loud {
            if let Some(ino) = self.fs.lower.silence(self.watch, nodeid) {
                changes.add(Change::Contents(ino), self.fs, self.watch);
            }
        }
        if !changes.inodes.is_empty() {
            self.tell(changes);
        }
    }

    /// Adds what is to be told once more.
    fn repeat(&self, changes: &mut Changes) {
        let now = Instant::now();
        for (&nodeid, repeat) in self.repeats.iter().filter(|(_, repeat)| repeat.due <= now) {
            *changes.inodes.entry(nodeid).or_default() |= repeat.contents;
        }
    }

    /// Tells the kernel: names first, so that whoever finds a name anew asks for its attributes
    /// after they were forgotten.
    fn tell(&mut self, changes: Changes) {
        let Changes { mut names, mut inodes, owners, lost, anew, missing, .. } = changes;
        let table = &self.fs.lower.inodes;
        for nodeid in owners {
            // With its attributes alone expired, the kernel would go on judging by the old owner
            // wherever it does not ask for them; a name that has to be looked up brings the new one.
            if self.fs.changed_by_others(nodeid) {
                names.extend(table.get(nodeid).and_then(|inode| table.place(&inode)));
            }
        }
        if lost || anew {
            table.nodeids().into_iter().for_each(|nodeid| table.doubt(nodeid));
        }
        let all = if lost || anew { table.places() } else { Vec::new() };
        // Listings go along with the names in them.
        let dirs: HashSet<u64> = names.iter().map(|place| place.parent).collect();
        let listed = inodes.extract_if(|nodeid, contents| *contents && dirs.contains(nodeid));
        let listings: Vec<u64> = listed.map(|(nodeid, _)| nodeid).collect();
        let names = names.into_iter().chain(missing).chain(all).map(Notice::Name);
        let first = names.chain(listings.iter().copied().map(Notice::Contents));
        let mut all_told = self.queue.tell(self.scope, first);
        if lost || anew {
            inodes.extend(table.nodeids().into_iter().map(|nodeid| (nodeid, true)));
        }
        let mut contents = Vec::new();
        for (nodeid, of_contents) in inodes {
            if of_contents || self.repeats.get(&nodeid).is_some_and(|repeat| repeat.contents) {
                contents.push(nodeid);
                continue;
            }
            match self.kernel.forget_attributes(nodeid) {
                Err(Errno::NOENT) => self.tell_again(nodeid, false),
                told => {
                    unless_unknown(told);
                    self.repeats.remove(&nodeid);
                }
            }
        }
        if !contents.is_empty() {
            all_told = self.queue.tell(self.scope, contents.iter().copied().map(Notice::Contents));
        }
        let unknown: HashSet<u64> = self.queue.take_unknown().into_iter().collect();
        for nodeid in contents.iter().chain(&listings).filter(|nodeid| !unknown.contains(nodeid)) {
            self.repeats.remove(nodeid);
        }
        for nodeid in unknown {
            self.tell_again(nodeid, true);
        }
        self.set_late(!all_told);
    }

    /// The kernel did not know the inode. If the table does, an answer is on its way there, or a FORGET
    /// here.
    fn tell_again(&mut self, nodeid: u64, contents: bool) {
        let before = self.repeats.remove(&nodeid);
        if !self.fs.lower.inodes.knows(nodeid) {
            return;
        }
        let after = before.map_or(Duration::ZERO, |repeat| repeat.after * 2);
        let after = after.clamp(FIRST_REPEAT, LAST_REPEAT);
        self.repeats.insert(nodeid, Repeat { contents, after, due: Instant::now() + after });
    }

    fn set_late(&mut self, late: bool) {
        if late && !self.late {
            tracing::warn!(
                "a directory or file is held for long: until the kernel has been told of it, answers are trusted less"
            );
        }
        self.late = late;
        self.watch.set_late(late);
    }
}

impl Changes {
    fn add(&mut self, change: Change<'_>, fs: &FileSystem, watch: &Watch) {
        let table = &fs.lower.inodes;
        match change {
            Change::Lost { missing } => {
                self.lost = true;
                self.missing.extend(missing);
            }
            Change::Anew { missing } => {
                self.anew = true;
                self.missing.extend(missing);
            }
            Change::Unrecorded(place) => {
                self.names.insert(place);
            }
            Change::Inode(ino) => table.nodes_numbered(ino, |nodeid| {
                self.inode(nodeid, false);
                self.owners.insert(nodeid);
            }),
            Change::Contents(ino) => table.nodes_numbered(ino, |nodeid| {
                self.inode(nodeid, true);
                self.written.insert(nodeid);
            }),
            Change::Name { dir, name, object } => {
                table.nodes_numbered(dir, |nodeid| self.name(nodeid, name));
                if let Some(ino) = object {
                    table.nodes_numbered(ino, |nodeid| {
                        watch.strayed(nodeid);
                        self.inode(nodeid, false);
                    });
                }
            }
        }
    }

    fn inode(&mut self, nodeid: u64, contents: bool) {
        *self.inodes.entry(nodeid).or_default() |= contents;
    }

    fn name(&mut self, dir: u64, name: &OsStr) {
        self.names.insert(Place { parent: dir, name: name.into() });
        self.inode(dir, true);
    }
}

/// What the kernel does not know it need not forget; an ended connection needs nothing.
fn unless_unknown(told: Result<(), Errno>) {
    match told {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NOTCONN) => {}
        Err(errno) => tracing::warn!(%errno, "the kernel cannot be told of a change below"),
    }
}
