//! Rights by what is stored now.
//!
//! The kernel above judges some calls by the owner and the mode that it remembers, without asking:
//! whoever changes attributes or ACLs, removes a name in a sticky directory, or links. Others may have
//! changed the file meanwhile, and by a descriptor, the working directory or the mount's root no name
//! is looked up that could tell. So for these calls the kernel's word counts only where it surely has
//! what is stored; else they are judged here once more, as the kernel judges them (`setattr_prepare`,
//! fs/attr.c; `may_delete` and `may_linkat`, fs/namei.c; `may_write_xattr`, fs/xattr.c). What the kernel
//! refuses by what it remembers stays refused.
//!
//! Where the lower tree is watched, an inode that nothing was heard of costs nothing here; elsewhere
//! what is stored is compared with what was told last.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::FsError;
use crate::lower::caller::{Callers, Capability, ProcCaller};
use crate::lower::inode::{Inode, Told};
use crate::lower::stat::LowerStat;
use crate::lower::table::Knowledge;
use crate::shift::access::{By, Person, READ, Shown, WRITE, judge};
use crate::shift::id::{INVALID, Id};

use super::attr::Of;
use super::{Attr, Caller, FileSystem, Keeping, Name, SetAttr, SetTime, XattrReply};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;
const S_IXGRP: u32 = 0o0010;
/// The bits of a mode by which some call is judged.
const BITS: u32 = S_ISUID | S_ISGID | S_ISVTX | S_IXGRP;

/// From this time on what the kernel remembers is remembered for good: nobody else changes the lower tree
/// (`cache=exclusive`).
const FOR_GOOD: Duration = Duration::from_secs(86_400);

/// Whether the kernel lets only those link to a file who may read and write it
/// (`/proc/sys/fs/protected_hardlinks`). Adopted for so where it does not say.
pub(super) fn protected_hardlinks() -> bool {
    let value = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks");
    value.map_or(true, |value| value.trim() != "0")
}

/// Somebody who is judged: by the ids of the request, or, where it carries none because the mount can be
/// idmapped, by what the kernel above has found, as far as that rests on what is still so. Never by the
/// ids in `/proc`, which may be of another number space there.
struct Judged<'f> {
    callers: &'f Callers,
    caller: Caller,
    /// What the kernel was told of the file last.
    told: Option<Told>,
    process: Option<ProcCaller<'f>>,
}

impl<'f> Judged<'f> {
    fn process(&mut self) -> &ProcCaller<'f> {
        let (callers, tid) = (self.callers, self.caller.tid);
        self.process.get_or_insert_with(|| callers.read(tid))
    }

    /// Whether the kernel above has judged by this owner, and by the present sticky bit.
    fn found_by_owner(&self, now: &Attr) -> bool {
        let sticky = |mode: u32| mode & S_ISVTX;
        self.told.is_some_and(|told| told.uid == now.uid && sticky(told.mode) == sticky(now.mode))
    }

    /// The same with the group.
    fn found_by_ids(&self, now: &Attr) -> bool {
        self.found_by_owner(now) && self.told.is_some_and(|told| told.gid == now.gid)
    }

    fn owns(&self, now: &Attr) -> bool {
        if now.uid == INVALID {
            return false;
        }
        match self.caller.uid {
            Some(uid) => uid.raw() == now.uid,
            None => !self.caller.is_told() && self.found_by_owner(now),
        }
    }

    /// `inode_owner_or_capable`
    fn may_act_as_owner(&mut self, now: &Attr) -> Result<(), FsError> {
        let told = self.caller.is_told();
        let may = self.owns(now)
            || if told {
                self.process().may_act_as_owner(now.uid)
            } else {
                self.is_capable(Capability::Fowner, now)
            };
        if may { Ok(()) } else { Err(FsError::NotOwner) }
    }

    /// Whether the caller has the capability over everything with a valid id.
    fn is_capable(&mut self, capability: Capability, now: &Attr) -> bool {
        now.uid != INVALID && now.gid != INVALID && self.process().has(capability)
    }

    fn has_over(&mut self, capability: Capability, now: &Attr) -> bool {
        if self.caller.is_told() {
            return self.process().has_over(capability, now.uid, now.gid);
        }
        self.found_by_ids(now) || self.is_capable(capability, now)
    }

    /// Whether the caller may have this group, as owner of the file.
    fn may_give_to(&mut self, gid: u32, now: &Attr) -> bool {
        if gid == INVALID || !self.owns(now) {
            return false;
        }
        if self.caller.is_told() {
            return gid == now.gid || self.is_in(gid);
        }
        // To the group that it had, owners may give it without being members.
        gid == now.gid || self.told.is_some_and(|told| told.gid != gid)
    }

    /// By a name the kernel can find out anew, and does so on `ESTALE`.
    fn by_name(&mut self, capability: Capability, now: &Attr) -> Result<(), FsError> {
        if self.is_capable(capability, now) { Ok(()) } else { Err(FsError::Stale) }
    }

    fn is_in(&mut self, gid: u32) -> bool {
        gid != INVALID
            && (self.caller.gid.is_some_and(|own| own.raw() == gid)
                || self.process().groups.contains(&gid))
    }

    /// Whether S_ISGID stays in a mode that the caller sets; `gid` is the group set with it.
    fn keeps_set_gid(&mut self, gid: Option<u32>, now: &Attr) -> bool {
        if self.caller.is_told() {
            return self.is_in(gid.unwrap_or(now.gid)) || self.has_over(Capability::Fsetid, now);
        }
        let found = gid.is_some() || self.told.is_some_and(|told| told.gid == now.gid);
        found || self.is_capable(Capability::Fsetid, now)
    }
}

impl FileSystem {
    fn judged(&self, caller: Caller, told: Option<Told>) -> Judged<'_> {
        Judged { callers: &self.callers, caller, told, process: None }
    }

    /// Whether nobody else changes the lower tree.
    fn is_alone(&self) -> bool {
        matches!(self.keeping, Keeping::For(time) if time >= FOR_GOOD)
    }

    /// To be called with all attributes of an inode that go to the kernel, but for those in answers to
    /// a change of attributes ([`FileSystem::settle`]).
    pub(super) fn tell(&self, inode: &Inode, attr: &Attr) {
        if !self.is_alone() {
            self.lower.inodes.tell(inode, told(attr));
        }
    }

    /// What is known of what the kernel has of the inode, before a change of attributes.
    pub(super) fn knowledge(&self, inode: &Inode) -> Knowledge {
        if self.is_alone() {
            return Knowledge { told: None, doubts: 0 };
        }
        self.lower.inodes.knowledge(inode)
    }

    /// The answer to a change of attributes, which the kernel takes whatever it has.
    pub(super) fn settle(&self, inode: &Inode, attr: &Attr, before: Knowledge) {
        if !self.is_alone() {
            self.lower.inodes.settle(inode, told(attr), before);
        }
    }

    /// Others have changed the attributes of an inode. Returns whether the kernel may judge wrongly by
    /// what it has of it, until it asks anew.
    pub fn changed_by_others(&self, nodeid: u64) -> bool {
        let Ok(inode) = self.lower.inode(nodeid) else { return false };
        let Knowledge { told: before, doubts } = self.knowledge(&inode);
        let now = self.lower.stat(&inode).and_then(|stat| self.shown(Of::Inode(&inode), &stat));
        if doubts == 0 && now.is_ok_and(|now| before == Some(told(&now))) {
            return false;
        }
        self.lower.inodes.doubt(nodeid);
        true
    }

    /// What is stored now, if the kernel may have something else of the inode: of its owner, its group,
    /// and these bits of its mode.
    fn doubted(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
        (knowledge, bits): (Knowledge, u32),
    ) -> Result<Option<Attr>, FsError> {
        if self.is_alone() || (knowledge.doubts == 0 && self.lower.is_heard(inode)) {
            return Ok(None);
        }
        let now = self.shown(Of::Fd(fd), &LowerStat::of(fd)?)?;
        Ok((!is_sure(caller, knowledge, &now, bits)).then_some(now))
    }

    /// Judges a change of attributes that the kernel has let pass. Returns the mode to set, of which
    /// S_ISGID may have to go.
    pub(super) fn may_set(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
        set: &SetAttr,
        knowledge: Knowledge,
    ) -> Result<Option<u32>, FsError> {
        let owner_alone = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if !owner_alone && set.atime.is_none() && set.mtime.is_none() {
            return Ok(set.mode); // a right to write, which the kernel asks about anew
        }
        let Some(now) = self.doubted(caller, inode, fd, (knowledge, 0))? else {
            return Ok(set.mode);
        };
        let mut judged = self.judged(caller, knowledge.told);
        let invalid = |id: u32, set: bool| id == INVALID && !set;
        if invalid(now.uid, set.uid.is_some()) || invalid(now.gid, set.gid.is_some()) {
            return Err(FsError::UnmappedOwner);
        }
        let id = |id: Option<Option<u32>>| id.map(|id| id.unwrap_or(INVALID));
        let uid = id(set.uid.map(|id| id.map(Id::raw)));
        let gid = id(set.gid.map(|id| id.map(Id::raw)));
        let keeps_uid = uid.is_none_or(|uid| judged.owns(&now) && uid == now.uid);
        if !keeps_uid && !judged.has_over(Capability::Chown, &now) {
            return Err(FsError::NotOwner);
        }
        if let Some(gid) = gid
            && !judged.may_give_to(gid, &now)
            && !judged.has_over(Capability::Chown, &now)
        {
            return Err(FsError::NotOwner);
        }
        if set.mode.is_some() {
            judged.may_act_as_owner(&now)?;
        }
        match (set.atime, set.mtime) {
            (None, None) => {}
            (Some(SetTime::Now), Some(SetTime::Now)) => {
                if judged.may_act_as_owner(&now).is_err() {
                    self.may_use(&mut judged, inode, &now, WRITE, FsError::Refused(Errno::ACCESS))?;
                }
            }
            _ => judged.may_act_as_owner(&now)?,
        }
        let Some(mode) = set.mode.filter(|mode| mode & S_ISGID != 0) else { return Ok(set.mode) };
        Ok(Some(if judged.keeps_set_gid(gid, &now) { mode } else { mode & !S_ISGID }))
    }

    /// Judges a change of an extended attribute that the kernel has let pass. Returns whether the
    /// kernel may have been wrong about the file's group.
    pub(super) fn may_set_attribute(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<bool, FsError> {
        let judged_by = (self.knowledge(inode), S_ISVTX);
        let Some(now) = self.doubted(caller, inode, fd, judged_by)? else { return Ok(false) };
        let mut judged = self.judged(caller, judged_by.0.told);
        if now.uid == INVALID || now.gid == INVALID {
            return Err(FsError::Refused(Errno::PERM));
        }
        let name = name.as_encoded_bytes();
        let in_sticky = name.starts_with(b"user.") && inode.is_dir() && now.mode & S_ISVTX != 0;
        if name.starts_with(b"system.posix_acl_") || in_sticky {
            judged.may_act_as_owner(&now)?;
        }
        if name == b"security.capability" && !judged.has_over(Capability::Setfcap, &now) {
            return Err(FsError::Refused(Errno::PERM));
        }
        Ok(true)
    }

    /// Judges a change of the file's flags that the kernel has let pass.
    pub(super) fn may_flag(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
    ) -> Result<(), FsError> {
        let judged_by = (self.knowledge(inode), 0);
        let Some(now) = self.doubted(caller, inode, fd, judged_by)? else { return Ok(()) };
        self.judged(caller, judged_by.0.told).may_act_as_owner(&now)
    }

    /// Judges a link to a file that the kernel has let pass.
    pub(super) fn may_link(
        &self,
        caller: Caller,
        inode: &Inode,
        fd: BorrowedFd<'_>,
    ) -> Result<(), FsError> {
        let judged_by = (self.knowledge(inode), BITS);
        let Some(now) = self.doubted(caller, inode, fd, judged_by)? else { return Ok(()) };
        if now.uid == INVALID || now.gid == INVALID {
            return Err(FsError::UnmappedOwner);
        }
        let mut judged = self.judged(caller, judged_by.0.told);
        if !caller.is_told() {
            return judged.by_name(Capability::Fowner, &now);
        }
        if !self.protected_hardlinks || judged.may_act_as_owner(&now).is_ok() {
            return Ok(());
        }
        let set_group = S_ISGID | S_IXGRP;
        let is_safe = inode.kind == FileType::RegularFile
            && now.mode & S_ISUID == 0
            && now.mode & set_group != set_group;
        if !is_safe {
            return Err(FsError::NotOwner);
        }
        self.may_use(&mut judged, inode, &now, READ | WRITE, FsError::NotOwner)
    }

    /// Judges the removal of a name from a directory, or its replacement, as far as the directory is
    /// sticky.
    pub(super) fn may_remove(
        &self,
        caller: Caller,
        dir: &Inode,
        dir_fd: BorrowedFd<'_>,
        name: Name<'_>,
    ) -> Result<(), FsError> {
        if self.is_alone() {
            return Ok(());
        }
        // Of the directory the kernel has asked anew before it let this pass.
        let known = self.lower.inodes.knowledge(dir).told;
        if known.is_some_and(|told| told.mode & S_ISVTX == 0) {
            return Ok(());
        }
        let stat = match LowerStat::at(dir_fd, name.as_os_str()) {
            Err(FsError::Os { errno: Errno::NOENT, .. }) => return Ok(()),
            stat => stat?,
        };
        if let Some(inode) = self.lower.inodes.find(self.lower.identity(&stat)) {
            let knowledge = self.knowledge(&inode);
            if knowledge.doubts == 0 && self.lower.is_heard(&inode) {
                return Ok(());
            }
            // Its owner may be in an attribute of it.
            let now = self.shown(Of::Inode(&inode), &stat)?;
            if is_sure(caller, knowledge, &now, 0) {
                return Ok(());
            }
            return self.may_remove_now(caller, dir_fd, &now);
        }
        let fd = crate::lower::open_path_at(dir_fd, name.as_os_str())?;
        let now = self.shown(Of::Fd(fd.as_fd()), &LowerStat::of(&fd)?)?;
        self.may_remove_now(caller, dir_fd, &now)
    }

    fn may_remove_now(
        &self,
        caller: Caller,
        dir_fd: BorrowedFd<'_>,
        now: &Attr,
    ) -> Result<(), FsError> {
        if now.uid == INVALID || now.gid == INVALID {
            return Err(FsError::UnmappedOwner);
        }
        let dir = self.shown(Of::Fd(dir_fd), &LowerStat::of(dir_fd)?)?;
        let mut judged = self.judged(caller, None);
        if !caller.is_told() {
            return if dir.mode & S_ISVTX == 0 {
                Ok(())
            } else {
                judged.by_name(Capability::Fowner, now)
            };
        }
        let held = dir.mode & S_ISVTX != 0 && !judged.owns(now) && !judged.owns(&dir);
        if held && !judged.has_over(Capability::Fowner, now) {
            return Err(FsError::NotOwner);
        }
        Ok(())
    }

    /// Whether mode, ACL or capabilities give these rights on a file.
    fn may_use(
        &self,
        judged: &mut Judged<'_>,
        inode: &Inode,
        now: &Attr,
        wanted: u32,
        refusal: FsError,
    ) -> Result<(), FsError> {
        let acl = match self.getxattr(inode.nodeid, OsStr::new(ACCESS_ACL), u32::MAX) {
            Ok(XattrReply::Data(value)) => Some(value),
            _ => None,
        };
        let Caller { uid, gid, .. } = judged.caller;
        let Some(uid) = uid.map(Id::raw) else {
            return if judged.has_over(Capability::DacOverride, now) {
                Ok(())
            } else {
                Err(refusal)
            };
        };
        let own = gid.map(Id::raw);
        let groups = own.into_iter().chain(judged.process().groups.iter().copied());
        let groups = groups.filter(|gid| *gid != INVALID).collect();
        let person = Person { uid, groups };
        let shown = Shown { mode: now.mode, uid: now.uid, gid: now.gid, acl };
        let judgement = judge(&person, &shown, wanted);
        let granted = judgement.granted && judgement.by != By::Root;
        if granted || judged.has_over(Capability::DacOverride, now) { Ok(()) } else { Err(refusal) }
    }
}

const ACCESS_ACL: &str = "system.posix_acl_access";

/// Whether the kernel surely has what is stored. A caller who is not told cannot be judged well, so for
/// one it is enough that the kernel was told last what is stored.
fn is_sure(caller: Caller, knowledge: Knowledge, now: &Attr, bits: u32) -> bool {
    let of = |told: Told| (told.uid, told.gid, told.mode & bits);
    (knowledge.doubts == 0 || !caller.is_told()) && knowledge.told.map(of) == Some(of(told(now)))
}

/// What these calls are judged by.
fn told(attr: &Attr) -> Told {
    let mode = attr.mode & BITS;
    Told { uid: attr.uid, gid: attr.gid, mode }
}
