//! Making a descriptor of an inode: from the cache, a file that is open anyway, its handle, or a
//! walk from the parent that is checked against the identity. And looking at one without.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::sys::handle;

use super::inode::{Inode, Locator, Place};
use super::stat::{Identity, LowerStat};
use super::{Births, LowerTree, enter, open_path_at, proc_path};

/// More levels than any real tree has between a directory with a known descriptor and a file:
/// past it the tables are taken to be inconsistent rather than walked for ever.
const MAX_WALK: usize = 100_000;

impl LowerTree {
    /// What statx(2) says of the inode.
    ///
    /// A file that has had no descriptor so far gets none for this: it is looked at by the name that
    /// it was last seen under, which costs one system call in place of five.
    pub fn stat(&self, inode: &Inode) -> Result<LowerStat, FsError> {
        if let Some(stat) = self.stat_by_name(inode) {
            return Ok(stat);
        }
        LowerStat::of(self.path_fd(inode)?)
    }

    /// `None` unless the name is surely still this inode's.
    fn stat_by_name(&self, inode: &Inode) -> Option<LowerStat> {
        // A directory's descriptor is wanted for what is in it.
        if inode.is_dir() || self.births != Births::Tell {
            return None;
        }
        let Some(Locator::Walk(Place { parent, name })) = self.inodes.locator(inode) else {
            return None;
        };
        let dir = self.path_fd(&self.inodes.get(parent)?).ok()?;
        let stat = LowerStat::at(dir.as_fd(), &name).ok()?;
        (self.identity(&stat) == inode.identity).then_some(stat)
    }

    /// An `O_PATH` descriptor of the inode.
    pub fn path_fd(&self, inode: &Inode) -> Result<Arc<OwnedFd>, FsError> {
        let mut below = Vec::new();
        let mut inode = *inode;
        // Up to the nearest directory that can be had without its parent …
        let mut fd = loop {
            if let Some(fd) = self.known_fd(&inode)? {
                break fd;
            }
            let Some(Place { parent, name }) = self.place(&inode)? else { continue };
            below.push((inode, name));
            if below.len() > MAX_WALK {
                return Err(FsError::Stale);
            }
            inode = self.inode(parent).map_err(|_| FsError::Stale)?;
        };
        // … and down again, name by name.
        while let Some((inode, name)) = below.pop() {
            let open = if inode.is_dir() { enter } else { open_path_at };
            let opened = self.retrying(|| open(fd.as_fd(), &name)).map_err(gone)?;
            let stat = LowerStat::of(&opened)?;
            if self.identity(&stat) != inode.identity {
                return Err(FsError::Stale);
            }
            self.learn_handle(&inode, &opened);
            fd = Arc::new(opened);
            self.descriptors.put(inode.nodeid, Arc::clone(&fd));
        }
        Ok(fd)
    }

    /// A descriptor that can be had without walking, or `None`.
    fn known_fd(&self, inode: &Inode) -> Result<Option<Arc<OwnedFd>>, FsError> {
        if let Some(fd) = self.descriptors.get(inode.nodeid) {
            return Ok(Some(fd));
        }
        if let Some(fd) = self.open_files.any_of(inode.nodeid) {
            return Ok(Some(fd));
        }
        match self.inodes.locator(inode).ok_or(FsError::Stale)? {
            Locator::Root => Ok(Some(Arc::clone(&self.root))),
            Locator::Walk(_) => Ok(None),
            Locator::Handle { kind, data } => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let Some(opened) = self.open_handle(inode, kind, &data, flags) else {
                    return Ok(None);
                };
                let fd = Arc::new(opened?);
                self.descriptors.put(inode.nodeid, Arc::clone(&fd));
                Ok(Some(fd))
            }
        }
    }

    /// The name by which the inode is found where no descriptor is known; `None` if there is one by now.
    fn place(&self, inode: &Inode) -> Result<Option<Place>, FsError> {
        match self.inodes.locator(inode).ok_or(FsError::Stale)? {
            Locator::Root => Ok(None),
            Locator::Walk(place) => Ok(Some(place)),
            // Another program has found it, through a mount on which this one has no descriptor.
            Locator::Handle { .. } => self.inodes.place(inode).map(Some).ok_or(FsError::Stale),
        }
    }

    /// Opens a handle on the mount through which the inode was found, so that what that mount forbids
    /// stays forbidden; `None` where no descriptor on that mount is known.
    fn open_handle(
        &self,
        inode: &Inode,
        kind: i32,
        data: &[u8],
        flags: OFlags,
    ) -> Option<Result<OwnedFd, FsError>> {
        let other = if inode.identity.mount == self.inodes.root_mount() {
            None
        } else {
            Some(self.mounts.get(inode.identity.mount)?)
        };
        let mount = other.unwrap_or(&self.handle_mount);
        let open = || handle::open_by_handle(mount, kind, data, flags).call("open_by_handle_at");
        Some(self.retrying(open).map_err(gone))
    }

    /// From the first descriptor on, the inode is found by its handle, whatever its name becomes.
    fn learn_handle(&self, inode: &Inode, fd: &OwnedFd) {
        let Identity { mount, dev, .. } = inode.identity;
        if !self.handles || dev != self.inodes.root_device() {
            return;
        }
        if mount != self.inodes.root_mount() && self.mounts.get(mount).is_none() {
            return;
        }
        if let Ok(handle) = handle::name_to_handle(fd) {
            self.inodes.set_handle(inode, handle.kind, &handle.data);
        }
    }

    /// Opens the file itself for reading or writing: a regular file or a directory. `ENXIO` for all
    /// others, whatever asks for them: a fifo would make the server wait for its other end, and
    /// opening a device may do anything. The kernel above opens these itself. An inode's type
    /// never changes, so that what is checked here is what is opened.
    pub fn open_file(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd, FsError> {
        if !matches!(inode.kind, FileType::RegularFile | FileType::Directory) {
            return Err(FsError::Refused(Errno::NXIO));
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        if let Some(Locator::Handle { kind, data }) = self.inodes.locator(inode) {
            match self.open_handle(inode, kind, &data, flags) {
                // Unlinked meanwhile: only a descriptor that was kept still reaches it.
                None | Some(Err(FsError::Stale)) => {}
                Some(other) => return other,
            }
        }
        let path = self.path_fd(inode)?;
        // The magic link must be followed: it leads to exactly this inode.
        let flags = flags.difference(OFlags::NOFOLLOW);
        self.retrying(|| rustix::fs::open(proc_path(&path), flags, Mode::empty()).call("open"))
    }

    /// Runs a call that makes a descriptor; when the process has no more, the cache gives its own
    /// back and the call is tried once again.
    pub fn retrying<T>(&self, call: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        match call() {
            Err(FsError::Os { errno: Errno::MFILE | Errno::NFILE, .. }) => {
                self.shed();
                call()
            }
            result => result,
        }
    }

    /// Closes what can be opened again.
    pub fn shed(&self) {
        self.descriptors.shed();
        self.no_open.shed();
    }
}

/// What is not where it was is stale to the kernel, which then looks it up anew.
fn gone(error: FsError) -> FsError {
    match error {
        FsError::Os { errno: Errno::NOENT | Errno::STALE | Errno::NOTDIR, .. } => FsError::Stale,
        other => other,
    }
}
