//! The way down: the one place where owners, modes and ACLs are given to lower files, so that a
//! policy about what is stored, or where, is asked everywhere.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use crate::error::{CallExt, FsError};
use crate::lower::stat::LowerStat;
use crate::lower::{THIS_FILE, proc_path};
use crate::shift::id::{LowerGid, LowerUid};
use crate::shift::set_id::{SET_ID, SetIdPolicy};
use crate::sys::file;

use super::{Caller, FileSystem};

/// A lower owner to set; with neither, chown(2) only clears bits.
pub(super) struct Owner {
    /// The new owner.
    pub(super) uid: Option<LowerUid>,
    /// The new group.
    pub(super) gid: Option<LowerGid>,
}

impl Owner {
    /// Whether there is anything to set.
    pub(super) fn changes(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }
}

/// How a new file gets its mode.
pub(super) struct Birth {
    mode: Mode,
    /// Set-ID bits that the call must not give the file.
    kept: u32,
}

impl Birth {
    /// The permission bits for the call that creates the file.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether something is left to be stored once the file is there.
    pub(super) fn goes_on(&self) -> bool {
        self.kept != 0
    }
}

impl FileSystem {
    /// How a file of this type is born with these permission bits, which are as the caller asked
    /// for them: its umask is applied below. `dir` is where it is made, whose group it may get.
    pub(super) fn birth(
        &self,
        dir: BorrowedFd<'_>,
        kind: FileType,
        mode: u32,
        caller: Caller,
    ) -> Result<Birth, FsError> {
        let bits = if kind == FileType::RegularFile { mode & SET_ID } else { 0 };
        let squashed = bits != 0 && (self.is_squashed(caller) || self.squashes_births_in(dir)?);
        self.may_set_id(kind, mode, squashed)?;
        let kept = if self.shadows(kind) || self.can_squash() { bits } else { 0 };
        Ok(Birth { mode: Mode::from_bits_truncate(mode & !kept), kept })
    }

    /// Stores what the call that created the file could not. Nobody has been told of the file yet.
    ///
    /// By now the file has its group. Should the directory have got another one just before, the
    /// file gets no set-ID bits.
    pub(super) fn after_birth(&self, fd: BorrowedFd<'_>, birth: &Birth) -> Result<(), FsError> {
        if !birth.goes_on() {
            return Ok(());
        }
        let stat = LowerStat::of(fd)?;
        if self.squashes(&stat) {
            return Ok(());
        }
        if self.shadows(stat.kind()) {
            return Self::shadow_birth(fd, birth.kept);
        }
        Self::set_mode(fd, true, stat.mode & 0o7777 | birth.kept)
    }

    /// Changes the owner as the caller would, so that set-ID bits go or stay as for the caller.
    pub(super) fn store_owner(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
        owner: &Owner,
    ) -> Result<(), FsError> {
        self.drop_kept(fd, stat.kind())?;
        self.with_rights_of(caller, fd, stat, owner.gid, || set_owner(fd, owner.uid, owner.gid))
    }

    /// Changes the permission bits to exactly these, whatever a policy has cut from what was
    /// shown; `open` says that the descriptor is an open file's.
    pub(super) fn store_mode(
        &self,
        fd: BorrowedFd<'_>,
        open: bool,
        kind: FileType,
        mode: u32,
    ) -> Result<(), FsError> {
        if mode & SET_ID != 0 && !self.policies.is_default_for_writing() {
            self.may_set_id(kind, mode, self.squashes(&LowerStat::of(fd)?))?;
        }
        if self.shadows(kind) {
            return Self::shadow_mode(fd, open, mode);
        }
        Self::set_mode(fd, open, mode)
    }

    /// Changes the permission bits of the lower file.
    pub(super) fn set_mode(fd: BorrowedFd<'_>, open: bool, mode: u32) -> Result<(), FsError> {
        let mode = Mode::from_bits_truncate(mode);
        if open {
            return rustix::fs::fchmod(fd, mode).call("fchmod");
        }
        // fchmod(2) refuses O_PATH descriptors. The way through /proc takes three times as long.
        match file::chmod(fd, mode) {
            // Too old a kernel, or a container's filter that says so in this way.
            Err(Errno::NOSYS | Errno::PERM) => {
                rustix::fs::chmodat(CWD, proc_path(fd), mode, AtFlags::empty()).call("chmod")
            }
            done => done.call("fchmodat2"),
        }
    }

    /// Sets an access ACL whose ids are lower ones. `outside_group`: see [`FileSystem::setxattr`].
    pub(super) fn store_access_acl(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
        outside_group: Option<bool>,
    ) -> Result<(), FsError> {
        let set = || rustix::fs::setxattr(proc_path(fd), name, value, flags).call("setxattr");
        if self.policies.set_id != SetIdPolicy::Pass && outside_group != Some(false) {
            self.drop_kept_set_gid(fd, &LowerStat::of(fd)?)?;
        }
        match outside_group {
            Some(false) => set(),
            Some(true) => self.as_outsider(&LowerStat::of(fd)?, set),
            None => self.with_rights_of(caller, fd, &LowerStat::of(fd)?, None, set),
        }
    }
}

/// Changes the owner of the lower file; with neither, the lower file system clears what a change of
/// owner clears.
pub(super) fn set_owner(
    fd: BorrowedFd<'_>,
    uid: Option<LowerUid>,
    gid: Option<LowerGid>,
) -> Result<(), FsError> {
    let uid = uid.map(|uid| rustix::fs::Uid::from_raw(uid.raw()));
    let gid = gid.map(|gid| rustix::fs::Gid::from_raw(gid.raw()));
    rustix::fs::chownat(fd, "", uid, gid, THIS_FILE).call("fchownat")
}
