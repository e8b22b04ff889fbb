//! The lower tree: what is stored, reached only through descriptors.
//!
//! A caller's name is used once, to look a file up; after that the file is known by its identity
//! (device, inode, birth) and reached through a descriptor of its own. Descriptors are bounded:
//! they live in an LRU and are made again from a file handle or by a verified walk ([`reopen`]).
//!
//! Lock order: alias table → inode shard → locator → descriptors → open files. None of them is
//! held across a system call on the lower tree.

pub mod adopt;
mod aliases;
mod by_number;
pub mod caller;
pub mod cred;
pub mod descriptors;
pub mod dirents;
pub mod inode;
pub mod lock_owners;
mod made;
mod mounts;
pub mod no_open;
mod numbers;
pub mod open_files;
pub mod remote;
pub mod reopen;
mod row;
pub mod shadow;
pub mod spare;
pub mod stat;
pub mod table;
pub mod watch;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::error::{CallExt, FsError, StartError};
use crate::state::State;
use crate::state::in_flight::InFlight;
use crate::sys::handle;
use crate::sys::idmapped::{Change, MountAttrs, mount_setattr};
use by_number::Template;
use descriptors::{Descriptors, Usage};
use dirents::Dirent;
use inode::{Inode, Place};
use lock_owners::LockOwners;
use made::Made;
use mounts::Mounts;
use no_open::NoOpen;
use numbers::Numbers;
use open_files::OpenFiles;
use spare::Spare;
use stat::{Identity, LowerStat};
use table::{InodeTable, Lookup};
use watch::Watch;

/// The lower tree of one mount.
#[allow(clippy::struct_excessive_bools)] // each is a yes or no of its own
pub struct LowerTree {
    /// The root, as an `O_PATH` descriptor on a private clone of the mount where possible.
    root: Arc<OwnedFd>,
    /// The root again, readable: what open_by_handle_at(2) wants.
    handle_mount: OwnedFd,
    /// Whether the root is on a private clone of its mount.
    private: bool,
    /// The same for the mounts below.
    mounts: Mounts,
    /// Whether handles can be opened here (root on most local file systems).
    handles: bool,
    /// By which a file is found that is known by its number alone.
    template: Option<Template>,
    /// What files' times of birth are worth, by which they are told apart.
    births: Births,
    /// By which numbers files are shown.
    numbers: Numbers,
    /// Which files have contents without a size.
    made: Made,
    /// The kind of file system that the root is on.
    magic: u64,
    /// Whether walks may cross into file systems mounted below the lower directory.
    submounts: bool,
    /// Whether files here can have POSIX ACLs.
    acls: bool,
    /// What the next server must know, should this one be killed.
    pub state: Arc<State>,
    /// Every inode that the kernel knows.
    pub inodes: InodeTable,
    /// Cached `O_PATH` descriptors.
    descriptors: Descriptors,
    /// Descriptors that callers' files leave alone.
    spare: Spare,
    max_descriptors: usize,
    /// Files that callers have open.
    pub open_files: OpenFiles,
    /// Files whose contents are used without having been opened.
    no_open: NoOpen,
    /// Callers that hold locks on lower files.
    lock_owners: LockOwners,
    /// What hears of changes that others make.
    watch: Option<Watch>,
}

/// See [`LowerTree::keys`].
#[derive(Debug)]
pub struct Keys<'t> {
    /// By what files are opened by their handles.
    pub mounts: Vec<BorrowedFd<'t>>,
    /// What listens to changes.
    pub group: Option<BorrowedFd<'t>>,
}

/// linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;

/// What the times of birth that statx(2) gives are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Births {
    /// A number and a time of birth are one file, whenever they are seen.
    Tell,
    /// There are none: a file handle stands in for them.
    None,
    /// They may change while the file lives: an overlay shows the one of the layer, and the file
    /// moves to another layer when it is first changed. It keeps its number, and that is not given
    /// to another file while a descriptor of ours holds this one.
    Change,
}

impl LowerTree {
    /// Opens the lower directory, on a detached clone of its mount when the kernel and the user's
    /// rights allow it, so that later mounts over the path do not matter.
    pub fn open(path: &Path, submounts: bool, max_descriptors: usize) -> Result<Self, StartError> {
        Self::open_as(path, path, submounts, max_descriptors)
    }

    /// The same, of a directory that messages call `name`.
    pub fn open_as(
        path: &Path,
        name: &Path,
        submounts: bool,
        max_descriptors: usize,
    ) -> Result<Self, StartError> {
        let failed = |errno: Errno| unusable(name, "cannot open it", errno);
        if let Ok(clone) = clone_mount(path, submounts) {
            return Self::on(clone, name, submounts, max_descriptors);
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let path = name;
        let tree = Self::on(root, path, submounts, max_descriptors)?;
        Ok(Self { private: false, ..tree })
    }

    /// The tree below a directory that is open already (an `O_PATH` descriptor will do), on a mount
    /// that nobody else uses; `path` is for messages.
    pub fn on(
        root: OwnedFd,
        path: &Path,
        submounts: bool,
        max_descriptors: usize,
    ) -> Result<Self, StartError> {
        let state = Arc::new(State::create().map_err(no_memory)?);
        let new = |state, root, kind| {
            InodeTable::new(state, root, kind).ok_or_else(|| no_memory(Errno::NOMEM))
        };
        Self::with(root, path, submounts, max_descriptors, state, new)
    }

    /// The same for what another program has left, whose servers have used `state`.
    pub fn with_state(
        root: OwnedFd,
        path: &Path,
        submounts: bool,
        max_descriptors: usize,
        state: State,
    ) -> Result<Self, StartError> {
        let supervised = |state, root, _| Ok(InodeTable::for_supervisor(state, root));
        Self::with(root, path, submounts, max_descriptors, Arc::new(state), supervised)
    }

    fn with(
        root: OwnedFd,
        path: &Path,
        submounts: bool,
        max_descriptors: usize,
        state: Arc<State>,
        table: impl FnOnce(Arc<State>, Identity, FileType) -> Result<InodeTable, StartError>,
    ) -> Result<Self, StartError> {
        let failed = |what: &str, errno: Errno| unusable(path, what, errno);
        let stat = LowerStat::of(&root).map_err(|e| failed("cannot stat it", e.errno()))?;
        let is_dir = stat.kind() == FileType::Directory;
        let readable = OFlags::RDONLY | OFlags::CLOEXEC;
        let handle_mount = if is_dir {
            rustix::fs::openat(&root, ".", readable | OFlags::DIRECTORY, Mode::empty())
        } else {
            // A tree of one file.
            rustix::fs::open(proc_path(&root), readable, Mode::empty())
        };
        let handle_mount = handle_mount.map_err(|errno| failed("cannot read it", errno))?;
        // Where nothing tells mounts apart, a handle would lead around what a mount below forbids.
        let told_apart = !submounts || stat.identity().mount != 0;
        let handles = is_dir
            && told_apart
            && handle::name_to_handle(&root)
                .and_then(|h| handle::open_by_handle(&handle_mount, h.kind, &h.data, OFlags::PATH))
                .is_ok();
        let magic = remote::magic(&handle_mount);
        let births = match stat.btime {
            _ if magic == OVERLAYFS => Births::Change,
            Some(_) => Births::Tell,
            None => Births::None,
        };
        let template = handle::name_to_handle(&root)
            .ok()
            .and_then(|handle| Template::of(&stat, magic.cast_signed(), &handle));
        let mut made = Made::default();
        made.look_at(root.as_fd());
        Ok(Self {
            root: Arc::new(root),
            private: true,
            mounts: Mounts::default(),
            template: if handles { template } else { None },
            handles,
            births,
            made,
            numbers: Numbers::new(stat.identity(), submounts, magic.cast_signed()),
            magic,
            submounts,
            acls: submounts || has_acls(&handle_mount),
            handle_mount,
            inodes: table(Arc::clone(&state), identity(births, &stat), stat.kind())?,
            descriptors: Descriptors::new(max_descriptors),
            max_descriptors,
            spare: Spare::new(),
            open_files: OpenFiles::new(Arc::clone(&state)),
            no_open: NoOpen::default(),
            lock_owners: LockOwners::new(spare::limit()),
            watch: None,
            state,
        })
    }

    /// Whether inodes are reopened by file handle (else by a walk from the root).
    pub fn uses_handles(&self) -> bool {
        self.handles
    }

    /// Whether files here can have POSIX ACLs; what is mounted below may have some at any rate.
    pub fn has_acls(&self) -> bool {
        self.acls
    }

    /// Which file it is, as the inode table counts files.
    pub fn identity(&self, stat: &LowerStat) -> Identity {
        identity(self.births, stat)
    }

    /// The number by which a file is shown. `file` is a descriptor of it, and asked for only when
    /// its device has not been seen before.
    pub fn shown_number<F: AsFd>(&self, stat: &LowerStat, file: impl FnOnce() -> Option<F>) -> u64 {
        self.numbers.shown(stat, file)
    }

    /// The number by which an entry of the open directory `dir` is shown, which must be what stat(2)
    /// says of it.
    pub fn listed_number(&self, dir: &Inode, fd: BorrowedFd<'_>, entry: &Dirent<'_>) -> u64 {
        let leads_out = dir.nodeid == table::ROOT_ID && entry.name == "..";
        if self.numbers.must_be_looked_at(entry.kind) && !leads_out {
            let stat = LowerStat::at(fd, entry.name);
            if let Ok(stat) = stat {
                return self.numbers.shown(&stat, || open_path_at(fd, entry.name).ok());
            }
        }
        let ino = if leads_out { dir.identity.ino } else { entry.ino };
        self.numbers.on_device(dir.identity.dev, ino).unwrap_or_else(|| {
            // Not seen yet by this server, which has taken over from another.
            LowerStat::of(fd).ok().map(|stat| self.numbers.shown(&stat, || Some(fd)));
            self.numbers.on_device(dir.identity.dev, ino).unwrap_or(ino)
        })
    }

    /// Says what is mounted below, by paths from the root.
    pub fn know_mounts(&mut self, mut paths: Vec<PathBuf>) {
        paths.sort_unstable();
        for path in paths {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(mount) = rustix::fs::openat(&self.root, &path, flags, Mode::empty()) {
                self.mounts.know(mount.as_fd(), self.inodes.root_device());
                self.made.look_at(mount.as_fd());
                self.numbers.enter_mount(mount.as_fd(), path.as_os_str().as_encoded_bytes());
            }
        }
    }

    /// Whether the root is on a mount that is this server's alone.
    pub fn is_on_own_mount(&self) -> bool {
        self.private
    }

    /// The root's descriptor.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root as a mount that is the server's own; `None` where it is everybody's.
    pub fn private_mount(&self) -> Option<BorrowedFd<'_>> {
        self.private.then(|| self.root())
    }

    /// The descriptors with which more could be reached than the lower tree, if others were in their
    /// places.
    pub fn keys(&self) -> Keys<'_> {
        let mounts = [self.handle_mount.as_fd()].into_iter().chain(self.mounts.all()).collect();
        Keys { mounts, group: self.watch().map(Watch::group) }
    }

    /// This process is the one that serves: what it changes itself is no news.
    pub fn serves_here(&mut self, takes_over: bool) {
        if let Some(watch) = &mut self.watch {
            watch.serves_here(takes_over);
        }
    }

    /// Brings everything of the file system that the root is on to the disk (syncfs(2)).
    pub fn syncfs(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.handle_mount).call("syncfs")
    }

    /// Gives memory back that is not needed any more; for quiet moments.
    pub fn tidy(&self) {
        if let Some(watch) = &self.watch {
            watch.tidy();
        }
        self.close_written();
        self.inodes.shrink();
        crate::sys::memory::give_back();
    }

    /// How well the cache of descriptors does.
    pub fn descriptor_usage(&self) -> Usage {
        self.descriptors.usage()
    }

    /// The inode that the kernel calls `nodeid`.
    pub fn inode(&self, nodeid: u64) -> Result<Inode, FsError> {
        self.inodes.get(nodeid).ok_or(FsError::UnknownNode)
    }

    /// Looks `name` up in `parent` and counts the lookup. The name is used here and not again.
    pub fn lookup<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        parent: &Inode,
        name: &OsStr,
    ) -> Result<(Lookup<'t>, LowerStat), FsError> {
        let dir = self.path_fd(parent)?;
        let mut stat = self.retrying(|| LowerStat::at(dir.as_fd(), name))?;
        if stat.automount && self.submounts {
            stat = LowerStat::of(self.retrying(|| enter(dir.as_fd(), name))?)?;
        }
        self.check_mount(parent, &stat)?;
        Ok((self.intern(in_flight, parent, name, &stat), stat))
    }

    /// Counts a lookup of the file that `stat` describes, found as `name` in `parent`.
    pub fn intern<'t>(
        &'t self,
        in_flight: InFlight<'t>,
        parent: &Inode,
        name: &OsStr,
        stat: &LowerStat,
    ) -> Lookup<'t> {
        let (identity, kind) = (self.identity(stat), stat.kind());
        if identity.mount != self.inodes.root_mount() && identity.dev == self.inodes.root_device() {
            // Found through another mount, it may be another inode to the kernel.
            if let Some(watch) = &self.watch {
                watch.hear_own();
            }
        }
        let mut lookup = self.inodes.intern(in_flight, (identity, kind), parent.nodeid, name);
        self.renamed(lookup.take_former());
        self.note_found(parent, name);
        lookup
    }

    /// The name is in the table now.
    fn note_found(&self, parent: &Inode, name: &OsStr) {
        if let Some(watch) = &self.watch {
            watch.note_found(parent.nodeid, name);
        }
    }

    /// An inode goes by another name than `former`, which the kernel may still trust.
    fn renamed(&self, former: Option<Place>) {
        if let (Some(watch), Some(former)) = (&self.watch, former) {
            watch.doubt(former);
        }
    }

    /// What is mounted below the lower directory, or would be by looking into it, is part of it only
    /// when asked for; and then only what [`LowerTree::lookup`] has had mounted.
    pub fn check_mount(&self, parent: &Inode, stat: &LowerStat) -> Result<(), FsError> {
        let (here, there) = (parent.identity, stat.identity());
        let crossed = if there.mount == 0 {
            // Before Linux 5.8: a btrfs has directories of other devices, its subvolumes.
            here.dev != there.dev
                && stat.kind() == FileType::Directory
                && self.magic.cast_signed() != libc::BTRFS_SUPER_MAGIC
        } else {
            (here.mount, here.dev) != (there.mount, there.dev) && stat.mount_root
        };
        let refused = stat.automount || (crossed && !self.submounts);
        if refused { Err(FsError::Refused(Errno::XDEV)) } else { Ok(()) }
    }

    /// What is known of a name before it goes away: the inode, if the kernel knows it, is kept
    /// reachable through a descriptor, because neither its name nor (once it has no links) its
    /// handle will find it again.
    /// Returns it then.
    ///
    /// Where that would only make the lower file system hide the file in place of removing it, the
    /// contrary is done.
    pub fn keep_before_unlink(
        &self,
        parent: &Inode,
        name: &OsStr,
    ) -> Result<Option<Inode>, FsError> {
        let dir = self.path_fd(parent)?;
        if remote::hides_what_is_held(self.magic) {
            return self.let_go_of(&dir, name).map(|()| None);
        }
        // Opened first and looked at then: whatever else takes the name, the two go together.
        let fd = self.retrying(|| open_path_at(dir.as_fd(), name))?;
        let inode = self.inodes.find(self.identity(&LowerStat::of(&fd)?));
        if let Some(inode) = &inode {
            self.pin(inode, fd);
        }
        Ok(inode)
    }

    /// A name of this inode has gone: it may have others, or be open.
    pub fn unlinked(&self, inode: Option<Inode>) {
        if let (Some(watch), Some(inode)) = (&self.watch, inode) {
            watch.strayed(inode.nodeid);
        }
    }

    /// Keeps the descriptor of an inode that cannot be found again.
    fn pin(&self, inode: &Inode, fd: OwnedFd) {
        self.inodes.pin(inode, fd.as_fd());
        for (row, fd) in self.descriptors.pin(inode, Arc::new(fd)) {
            self.inodes.unpin(row, fd.as_fd());
        }
    }

    /// The kernel has had a file renamed, which now answers to `name`, and no more to `left` (a
    /// directory's nodeid, a name): those that are reached by a walk must take the new one.
    pub fn moved(&self, parent: &Inode, name: &OsStr, left: (u64, &OsStr)) {
        let Ok(dir) = self.path_fd(parent) else { return };
        let Ok(stat) = LowerStat::at(dir.as_fd(), name) else { return };
        if let Some(inode) = self.inodes.find(self.identity(&stat)) {
            let former = self.inodes.relocate(&inode, parent.nodeid, name);
            self.note_found(parent, name);
            // The kernel moves the name itself: it need not doubt that one.
            self.renamed(former.filter(|f| (f.parent, &*f.name) != left));
        }
    }

    /// The kernel has dropped `count` lookups of `nodeid`; true when it knows it no more.
    pub fn forget(&self, in_flight: InFlight<'_>, nodeid: u64, count: u64) -> bool {
        let gone = self.inodes.forget(in_flight, nodeid, count);
        if gone {
            // The row that named a descriptor is free by now.
            drop(self.descriptors.remove(nodeid));
            self.no_open.remove(nodeid);
            if let Some(watch) = &self.watch {
                watch.forget(nodeid);
            }
        }
        gone
    }
}

fn identity(births: Births, stat: &LowerStat) -> Identity {
    if births == Births::Change { stat.identity_without_birth() } else { stat.identity() }
}

fn has_acls(dir: &OwnedFd) -> bool {
    let asked = rustix::fs::fgetxattr(dir, "system.posix_acl_access", &mut [0_u8; 0]);
    asked != Err(Errno::OPNOTSUPP)
}

fn no_memory(errno: Errno) -> StartError {
    let what = match errno {
        Errno::FBIG => {
            "cannot reserve memory for inodes: the limit of the size of files ('ulimit -f') is too \
             small; raise it for whoever mounts"
        }
        _ => "cannot reserve memory for inodes",
    };
    StartError::System { what: what.into(), source: errno.into() }
}

fn unusable(path: &Path, what: &str, errno: Errno) -> StartError {
    StartError::Path {
        role: "lower directory",
        path: path.to_path_buf(),
        why: format!("{what}: {errno}"),
    }
}

/// Whether the server can have a mount of this directory for itself.
pub fn has_private_mount(path: &Path) -> bool {
    clone_mount(path, false).is_ok()
}

/// A detached clone of the mount that `path` is on, rooted at `path` (open_tree(2), Linux 5.2). Cut
/// off from the propagation of mounts: what is mounted there later, perhaps by this program, must not
/// appear in it.
fn clone_mount(path: &Path, submounts: bool) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let recursive = flags | OpenTreeFlags::AT_RECURSIVE;
    let first = if submounts { recursive } else { flags };
    let clone = rustix::mount::open_tree(CWD, path, first).or_else(|errno| match errno {
        // In a user namespace, mounts below that came from outside are locked to the one above
        // and can only be cloned together with it.
        Errno::INVAL if !submounts => rustix::mount::open_tree(CWD, path, recursive),
        _ => Err(errno),
    })?;
    let none = MountAttrs::empty();
    let private = Change { set: none, clear: none, private: true, userns: None, recursive: true };
    match mount_setattr(clone.as_fd(), private) {
        Ok(()) | Err(Errno::NOSYS) => Ok(clone),
        Err(errno) => Err(errno),
    }
}

/// The path under which the kernel resolves a descriptor of ours to exactly its file, symlink or
/// not: for the calls that take no descriptor, or no `O_PATH` one.
pub fn proc_path(fd: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// `AT_EMPTY_PATH`, with the flags that keep a call on exactly the file of the descriptor.
pub const THIS_FILE: AtFlags = AtFlags::EMPTY_PATH.union(AtFlags::SYMLINK_NOFOLLOW);

/// Opens `name` in `dir` as a path descriptor, without following or crossing anything.
pub fn open_path_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, FsError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat")
}

/// The same of a directory, and into what an automount puts there.
fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, FsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).call("openat")
}
