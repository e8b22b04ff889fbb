//! Moving and removing names: rename, link, unlink, rmdir.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::proc_path;

use super::attr::Of;
use super::validity::How;
use super::{Call, Entry, FileSystem, Name};

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory's nodeid.
    pub parent: u64,
    /// The name in it.
    pub name: Name<'a>,
}

impl FileSystem {
    /// Removes a name that is not a directory's.
    pub fn unlink(&self, call: &Call<'_>, place: Place<'_>) -> Result<(), FsError> {
        self.remove(call, place, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, call: &Call<'_>, place: Place<'_>) -> Result<(), FsError> {
        self.remove(call, place, AtFlags::REMOVEDIR)
    }

    fn remove(&self, call: &Call<'_>, place: Place<'_>, flags: AtFlags) -> Result<(), FsError> {
        if self.is_removed(call, place)? {
            return Ok(());
        }
        let parent = self.lower.inode(place.parent)?;
        let name = place.name.as_os_str();
        let dir = self.lower.path_fd(&parent)?;
        self.may_change(dir.as_fd(), Errno::ACCESS)?;
        self.may_change_name(dir.as_fd(), name)?;
        self.may_remove(call.caller, &parent, dir.as_fd(), place.name)?;
        let inode = self.lower.keep_before_unlink(&parent, name)?;
        rustix::fs::unlinkat(&dir, name, flags).call("unlinkat")?;
        self.lower.unlinked(inode);
        Ok(())
    }

    /// Gives a file another name, with the flags of renameat2(2).
    ///
    /// A name that was not there before is a creation, which an unmapped caller is refused
    /// (`may_create` in fs/namei.c).
    pub fn rename(
        &self,
        call: &Call<'_>,
        from: Place<'_>,
        to: Place<'_>,
        flags: u32,
    ) -> Result<(), FsError> {
        let flags = RenameFlags::from_bits_retain(flags);
        if self.is_renamed(call, from, to, flags)? {
            return Ok(());
        }
        let (old_parent, new_parent) =
            (self.lower.inode(from.parent)?, self.lower.inode(to.parent)?);
        let (old_name, new_name) = (from.name.as_os_str(), to.name.as_os_str());
        let (old_dir, new_dir) =
            (self.lower.path_fd(&old_parent)?, self.lower.path_fd(&new_parent)?);
        for (parent, dir, name) in
            [(&old_parent, &old_dir, from.name), (&new_parent, &new_dir, to.name)]
        {
            self.may_change(dir.as_fd(), Errno::ACCESS)?;
            self.may_change_name(dir.as_fd(), name.as_os_str())?;
            self.may_remove(call.caller, parent, dir.as_fd(), name)?;
        }
        let replaced = match self.lower.keep_before_unlink(&new_parent, new_name) {
            Ok(replaced) => replaced,
            Err(FsError::Os { errno: Errno::NOENT, .. }) => {
                self.may_name(call.caller)?;
                None
            }
            Err(error) => return Err(error),
        };
        if flags.contains(RenameFlags::EXCHANGE) {
            self.note_before_exchange(call, old_dir.as_fd(), old_name);
        }
        self.rename_as(call, flags, || {
            rustix::fs::renameat_with(&old_dir, old_name, &new_dir, new_name, flags)
                .call("renameat2")
        })?;
        self.lower.unlinked(replaced);
        self.lower.moved(&new_parent, new_name, (old_parent.nodeid, old_name));
        if flags.contains(RenameFlags::EXCHANGE) {
            self.lower.moved(&old_parent, old_name, (new_parent.nodeid, new_name));
        }
        Ok(())
    }

    /// A whiteout is a new device node, which has an owner like any new file.
    fn rename_as(
        &self,
        call: &Call<'_>,
        flags: RenameFlags,
        rename: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        if flags.contains(RenameFlags::WHITEOUT) {
            self.as_creator(call.caller, self.creator(call.caller, 0)?, rename)
        } else {
            self.allocating(rename)
        }
    }

    /// Gives a file one more name.
    pub fn link<'c>(
        &'c self,
        call: &Call<'c>,
        nodeid: u64,
        to: Place<'_>,
    ) -> Result<Entry<'c>, FsError> {
        self.undo_linking(call, nodeid, to)?;
        let since = self.since(to.parent);
        self.may_name(call.caller)?;
        let inode = self.lower.inode(nodeid)?;
        let parent = self.lower.inode(to.parent)?;
        let (fd, dir) = (self.lower.path_fd(&inode)?, self.lower.path_fd(&parent)?);
        self.may_change(fd.as_fd(), Errno::OVERFLOW)?;
        self.may_change(dir.as_fd(), Errno::ACCESS)?;
        self.may_have_another_name(fd.as_fd())?;
        self.may_link(call.caller, &inode, fd.as_fd())?;
        let name = to.name.as_os_str();
        let link = || match rustix::fs::linkat(&fd, "", &dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the descriptor's path has to do.
            Err(Errno::NOENT) => {
                rustix::fs::linkat(CWD, proc_path(&fd), &dir, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        };
        self.allocating(|| link().call("linkat"))?;
        let stat = crate::lower::stat::LowerStat::of(&fd)?;
        let lookup = self.lower.intern(call.in_flight, &parent, name, &stat);
        let attr = self.shown(Of::Fd(fd.as_fd()), &stat)?;
        Ok(self.entry(call, (since, How::Made), (lookup, attr)))
    }
}
