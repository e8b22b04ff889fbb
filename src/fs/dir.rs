//! Listing directories, with and without attributes.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, OFlags};

use crate::error::FsError;
use crate::lower::open_files::{NO_OPEN, OpenFile};
use crate::lower::stat::LowerStat;

use super::attr::Of;
use super::validity::How;
use super::{Call, Entry, FileSystem};

/// One entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// The number, as stat(2) shows it.
    pub ino: u64,
    /// Where reading goes on after this entry.
    pub next: u64,
    /// The type, if the lower file system says it in its listings.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
}

impl FileSystem {
    /// The open directory behind a handle; for [`NO_OPEN`], the directory opened for this once.
    pub fn open_dir(&self, nodeid: u64, handle: u64) -> Result<Arc<OpenFile>, FsError> {
        if handle != NO_OPEN {
            return self.lower.open_files.get(handle);
        }
        let inode = self.lower.inode(nodeid)?;
        Ok(Arc::new(OpenFile::no_open(inode, OFlags::RDONLY | OFlags::DIRECTORY)))
    }

    /// Lists names from `offset` on, until `add` returns false because its buffer is full.
    pub fn readdir(
        &self,
        dir: &OpenFile,
        offset: u64,
        mut add: impl FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), FsError> {
        let fd = self.lower.file_fd(dir)?;
        let mut stream = dir.dir.lock().unwrap_or_else(PoisonError::into_inner);
        stream.visit(fd.as_fd(), offset, |dirent| {
            let entry = DirEntry {
                ino: self.lower.listed_number(&dir.inode, fd.as_fd(), &dirent),
                next: dirent.next,
                kind: self.listed_kind(dirent.kind),
                name: dirent.name,
            };
            Ok(add(entry))
        })
    }

    /// Lists names with their attributes, each counted as a lookup that `add` gives to the kernel
    /// or drops. `.` and `..` come without: they are no lookups.
    pub fn readdirplus<'c>(
        &'c self,
        call: &Call<'c>,
        dir: &OpenFile,
        offset: u64,
        mut add: impl FnMut(DirEntry<'_>, Option<Entry<'c>>) -> bool,
    ) -> Result<(), FsError> {
        let since = self.since(dir.inode.nodeid);
        let fd = self.lower.file_fd(dir)?;
        let mut stream = dir.dir.lock().unwrap_or_else(PoisonError::into_inner);
        stream.visit(fd.as_fd(), offset, |dirent| {
            let mut shown = DirEntry {
                ino: dirent.ino,
                next: dirent.next,
                kind: dirent.kind,
                name: dirent.name,
            };
            if matches!(dirent.name.to_str(), Some("." | "..")) {
                shown.ino = self.lower.listed_number(&dir.inode, fd.as_fd(), &dirent);
                return Ok(add(shown, None));
            }
            // Gone since it was listed: as if it had gone a moment before.
            let Ok(stat) = LowerStat::at(fd.as_fd(), dirent.name) else { return Ok(true) };
            shown.kind = stat.kind();
            if self.lower.check_mount(&dir.inode, &stat).is_err() {
                return Ok(add(shown, None)); // looking it up says why
            }
            let lookup = self.lower.intern(call.in_flight, &dir.inode, dirent.name, &stat);
            let inode = lookup.inode().ok_or(FsError::Stale)?;
            let listed = Of::Listed { dir: fd.as_fd(), name: dirent.name, inode };
            // What is not shown to anybody has a name all the same.
            let attr = self.shown(listed, &stat).ok();
            if let Some(attr) = attr {
                (shown.kind, shown.ino) = (attr.kind, attr.ino);
            } else {
                shown.ino = self.lower.listed_number(&dir.inode, fd.as_fd(), &dirent);
            }
            let entry = |attr| self.entry(call, (since, How::Listed), (lookup, attr));
            Ok(add(shown, attr.map(entry)))
        })
    }
}
