//! The two directories of a mount, or the two files of a mount of one. Each is looked up once, and is its descriptor from then on: a path
//! through directories of somebody else's may lead elsewhere a moment later, and one through a link
//! in `/proc` leads to what no other path leads to.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::host::mountinfo;
use crate::lower::proc_path;
use crate::mount::config::MountConfig;

/// A directory that was found.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    name: PathBuf,
    here: bool,
    identity: (u64, u64),
}

/// What is shown, and where.
#[derive(Debug)]
pub struct Dirs {
    /// The lower directory.
    pub lower: Dir,
    /// The mount point.
    pub mountpoint: Dir,
}

impl Dirs {
    /// Looks both up by the names in a configuration, for whoever has nothing else.
    pub fn of(config: &MountConfig) -> io::Result<Self> {
        Ok(Self { lower: Dir::open(&config.lower)?, mountpoint: Dir::open(&config.mountpoint)? })
    }
}

impl Dir {
    /// Looks `path` up. That it is a directory is still to be seen.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open =
            |flags| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty());
        // A directory that is mounted only when somebody wants it is mounted for who wants a
        // directory.
        let fd = match open(OFlags::DIRECTORY) {
            Err(Errno::NOTDIR) => open(OFlags::empty())?,
            opened => opened?,
        };
        let known = rustix::fs::readlink(proc_path(&fd), Vec::new()).ok();
        let known = known.map(|name| PathBuf::from(OsString::from_vec(name.into_bytes())));
        let known = known.filter(|name| name.is_absolute() && leads_to(name, &fd));
        let here = known.is_some();
        let name = known.map_or_else(|| std::path::absolute(path), Ok)?;
        // What has no attributes (a mount whose server has died) is found wrong elsewhere.
        let identity = rustix::fs::fstat(&fd).map_or((0, 0), |it| (it.st_dev, it.st_ino));
        Ok(Self { fd, name, here, identity })
    }

    /// Says that it stands for another directory, which it covers.
    pub(super) fn covering(self, identity: (u64, u64)) -> Self {
        Self { identity, ..self }
    }

    /// The device and inode of the directory that is meant.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Its path, absolute and without symbolic links; where this mount namespace has none for it, the
    /// one that it was found by. For people, and to find it in the mount table.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Whether it has a path in this mount namespace.
    pub fn is_here(&self) -> bool {
        self.here
    }

    /// Whether its name leads to it, still.
    pub(super) fn is_led_to(&self) -> bool {
        leads_to(&self.name, &self.fd)
    }

    /// A path that leads to it and to nothing else, in this process, as long as this value lives.
    pub fn path(&self) -> PathBuf {
        proc_path(&self.fd).into()
    }

    /// Whether it is a directory. If not, it is the single file of a mount of one.
    pub(super) fn is_dir(&self) -> bool {
        let stat = rustix::fs::fstat(&self.fd);
        stat.is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Directory)
    }

    /// What it is.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.path().metadata()
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a path leads to the directory of a descriptor: the same one, through the same mount.
pub(super) fn leads_to(path: &Path, dir: &OwnedFd) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(found) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let (Ok(found_is), Ok(dir_is)) = (rustix::fs::fstat(&found), rustix::fs::fstat(dir)) else {
        return false;
    };
    (found_is.st_dev, found_is.st_ino) == (dir_is.st_dev, dir_is.st_ino)
        && mountinfo::id_of(&found) == mountinfo::id_of(dir)
}
