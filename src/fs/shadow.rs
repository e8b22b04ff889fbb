//! `suid=shadow`: set-ID bits and file capabilities live in an attribute of the lower file and
//! never in its mode. They come and go as the kernel lets real ones come and go.
//!
//! Deviation: what takes a set-ID bit away takes all of them and the capabilities, also S_ISGID of a file
//! that its group cannot execute, which natively may stay.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::proc_path;
use crate::lower::shadow::{self, CAPABILITY};
use crate::lower::stat::LowerStat;
use crate::shift::set_id::{SET_ID, SetIdPolicy, Shadow};

use super::FileSystem;
use super::attr::Of;

impl FileSystem {
    /// Whether privileges of files of this type are kept in the attribute.
    pub(super) fn shadows(&self, kind: FileType) -> bool {
        self.policies.set_id == SetIdPolicy::Shadow && kind == FileType::RegularFile
    }

    /// The set-ID bits that are kept of a file and count; 0 without `suid=shadow`.
    pub(super) fn kept_bits(&self, of: Of<'_>, stat: &LowerStat) -> Result<u32, FsError> {
        if !self.shadows(stat.kind()) {
            return Ok(0);
        }
        if let Of::Listed { dir, name, .. } = of
            && let Some(name) = name.to_str()
            && !shadow::exists(&format!("{}/{name}", proc_path(dir)))
        {
            // That the name has none may be about another file, and then gives nobody a right.
            return Ok(0);
        }
        let shadow = self.reach(of, |fd| shadow::valid(fd, stat))?;
        Ok(shadow.map_or(0, |shadow| shadow.bits))
    }

    /// Takes all kept privileges away.
    pub(super) fn drop_kept(&self, fd: BorrowedFd<'_>, kind: FileType) -> Result<(), FsError> {
        if self.shadows(kind) { shadow::store(fd, &Shadow::default()) } else { Ok(()) }
    }

    /// Takes the kept S_ISGID away, as an ACL does that is set from outside the group.
    pub(super) fn drop_kept_set_gid(
        &self,
        fd: BorrowedFd<'_>,
        stat: &LowerStat,
    ) -> Result<(), FsError> {
        const S_ISGID: u32 = 0o2000;
        if !self.shadows(stat.kind()) {
            return Ok(());
        }
        match shadow::valid(fd, stat)? {
            Some(shadow) if shadow.bits & S_ISGID != 0 => {
                shadow::store(fd, &Shadow { bits: shadow.bits & !S_ISGID, ..shadow })
            }
            _ => Ok(()),
        }
    }

    /// Changes a regular file's mode, its set-ID bits apart. Fails closed: bits go first and come
    /// last.
    pub(super) fn shadow_mode(fd: BorrowedFd<'_>, open: bool, mode: u32) -> Result<(), FsError> {
        let stat = LowerStat::of(fd)?;
        let bits = mode & SET_ID;
        let before = shadow::valid(fd, &stat)?.unwrap_or_default();
        let keep = |bits| {
            let written = shadow::written(&stat);
            shadow::store(fd, &Shadow { bits, capability: before.capability.clone(), written })
        };
        if before.bits & !bits != 0 {
            keep(before.bits & bits)?;
        }
        Self::set_mode(fd, open, mode & !SET_ID)?;
        if bits & !before.bits != 0 { keep(bits) } else { Ok(()) }
    }

    /// Keeps the set-ID bits of a file that has just been made.
    pub(super) fn shadow_birth(fd: BorrowedFd<'_>, bits: u32) -> Result<(), FsError> {
        let written = shadow::written(&LowerStat::of(fd)?);
        shadow::store(fd, &Shadow { bits, capability: Vec::new(), written })
    }

    /// Moves real privileges, which came from the lower side, to where they are inert outside.
    pub(super) fn shadow_real(fd: BorrowedFd<'_>, stat: &LowerStat) -> Result<(), FsError> {
        let Some(all) = shadow::with_real(fd, stat)? else { return Ok(()) };
        shadow::store(fd, &all)?;
        shadow::remove_capability(fd)?;
        if stat.mode & SET_ID != 0 {
            Self::set_mode(fd, false, stat.mode & !SET_ID)
        } else {
            Ok(())
        }
    }

    /// Makes a change through the mount that moves the time of modification; what is kept counts
    /// afterwards if it did before and the change has not taken it away.
    pub(super) fn with_kept<T>(
        &self,
        fd: BorrowedFd<'_>,
        kind: FileType,
        change: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let counted = self.shadows(kind) && shadow::valid(fd, &LowerStat::of(fd)?)?.is_some();
        let done = change()?;
        if counted && let Some(shadow) = shadow::read(fd)? {
            let written = shadow::written(&LowerStat::of(fd)?);
            shadow::store(fd, &Shadow { written, ..shadow })?;
        }
        Ok(done)
    }

    /// The capabilities that are kept of a regular file, `None` for none.
    pub(super) fn shadow_capability(&self, nodeid: u64) -> Result<Option<Vec<u8>>, FsError> {
        let inode = self.lower.inode(nodeid)?;
        if !self.shadows(inode.kind) {
            return Ok(None);
        }
        let fd = self.lower.path_fd(&inode)?;
        let shadow = shadow::valid(fd.as_fd(), &LowerStat::of(&fd)?)?;
        Ok(shadow.map(|shadow| shadow.capability).filter(|capability| !capability.is_empty()))
    }

    /// Sets the capabilities of a regular file, with a lower root id; with the flags of setxattr(2).
    pub(super) fn keep_capability(
        fd: BorrowedFd<'_>,
        value: Vec<u8>,
        flags: XattrFlags,
    ) -> Result<(), FsError> {
        if value.is_empty() {
            return Err(FsError::Refused(Errno::INVAL));
        }
        let stat = LowerStat::of(fd)?;
        let before = shadow::valid(fd, &stat)?.unwrap_or_default();
        let there = !before.capability.is_empty() || shadow::capability(fd)?.is_some();
        if there && flags.contains(XattrFlags::CREATE) {
            return Err(FsError::Refused(Errno::EXIST));
        }
        if !there && flags.contains(XattrFlags::REPLACE) {
            return Err(FsError::Refused(Errno::NODATA));
        }
        let written = shadow::written(&stat);
        shadow::store(fd, &Shadow { bits: before.bits, capability: value, written })?;
        shadow::remove_capability(fd).map(drop)
    }

    /// Takes the capabilities of a regular file away; `ENODATA` where it has none.
    pub(super) fn drop_capability(fd: BorrowedFd<'_>) -> Result<(), FsError> {
        let stat = LowerStat::of(fd)?;
        let real = shadow::remove_capability(fd)?;
        match shadow::valid(fd, &stat)? {
            Some(shadow) if !shadow.capability.is_empty() => {
                shadow::store(fd, &Shadow { capability: Vec::new(), ..shadow })
            }
            _ if real => Ok(()),
            _ => Err(FsError::Refused(Errno::NODATA)),
        }
    }

    /// The names of a file's attributes as it would have them with real privileges.
    pub(super) fn shadow_names(&self, nodeid: u64, names: Vec<u8>) -> Result<Vec<u8>, FsError> {
        if self.policies.set_id != SetIdPolicy::Shadow {
            return Ok(names);
        }
        let ours = |name: &&[u8]| name.strip_suffix(b"\0") == Some(shadow::NAME.as_bytes());
        let is_capability = |name: &[u8]| name.strip_suffix(b"\0") == Some(CAPABILITY.as_bytes());
        if !names.split_inclusive(|&b| b == 0).any(|name| ours(&name)) {
            return Ok(names);
        }
        let shown = names.split_inclusive(|&b| b == 0).filter(|name| !ours(name));
        let mut shown: Vec<&[u8]> = shown.collect();
        let shadow = self.shadow_capability(nodeid)?.is_some();
        if shadow && !shown.iter().any(|name| is_capability(name)) {
            shown.push(b"security.capability\0");
        }
        Ok(shown.concat())
    }
}
