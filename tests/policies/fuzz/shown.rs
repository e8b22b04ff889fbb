//! What a mount shows of a file under its policies, and what rights that gives to whom. Written from
//! docs/semantics.md and the kernel's rules (fs/namei.c, `fs/posix_acl.c`), not from the server's code.

use super::policy::{DenyGroups, Policy, SetId, Unmapped};
use super::step::Who;
use super::tree::{Object, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO};
use crate::common::{ACL_ACCESS, AclEntry, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ};

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const SEARCH: u32 = 1;

const STICKY: u32 = 0o1000;

/// What is shown of a file.
pub(super) struct Shown {
    /// `None`: nobody's.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mode: u32,
    kind: u32,
    acl: Option<Vec<AclEntry>>,
    /// Owner or group have no id of the map.
    pub(super) unmapped: bool,
    /// Nothing is shown, or nothing may be changed.
    pub(super) hidden: bool,
    pub(super) fixed: bool,
}

impl Shown {
    pub(super) fn of(policy: &Policy, object: &Object) -> Self {
        let (uid, gid) = (policy.shown_user(object.uid), policy.shown_group(object.gid));
        let unmapped = uid.is_none() || gid.is_none();
        let mut shown = Self {
            uid,
            gid,
            mode: object.mode,
            kind: object.kind,
            acl: object.acl(ACL_ACCESS),
            unmapped,
            hidden: false,
            fixed: unmapped,
        };
        for entry in shown.acl.iter_mut().flatten() {
            let mapped = match entry.0 {
                USER => policy.shown_user(entry.2),
                GROUP => policy.shown_group(entry.2),
                _ => Some(entry.2),
            };
            entry.2 = mapped.unwrap_or(u32::MAX - 1);
        }
        let device = object.kind == S_IFBLK || (object.kind == S_IFCHR && object.device != 0);
        if unmapped {
            shown.stand_in(policy, device);
        }
        shown.cut_others(policy.deny_groups);
        shown
    }

    fn stand_in(&mut self, policy: &Policy, device: bool) {
        match policy.unmapped {
            Unmapped::Owner(..) | Unmapped::Squash(..) if device => {}
            Unmapped::Overflow => {}
            Unmapped::Deny => self.hidden = true,
            Unmapped::Restrict => {
                let all = self.mode >> 6 & self.mode >> 3 & self.mode & 7;
                self.mode = self.mode & 0o7000 | (all * 0o111);
                if let Some(acl) = &mut self.acl {
                    let all = acl.iter().fold(7, |all, entry| all & effective(*entry, acl));
                    for entry in acl {
                        entry.1 &= all;
                    }
                }
            }
            Unmapped::Owner(uid, gid) => {
                (self.uid, self.gid) = (self.uid.or(Some(uid)), self.gid.or(Some(gid)));
                self.mode &= !0o222;
                self.acl.iter_mut().flatten().for_each(|entry| entry.1 &= 5);
            }
            Unmapped::Squash(uid, gid) => {
                (self.uid, self.gid) = (self.uid.or(Some(uid)), self.gid.or(Some(gid)));
                self.fixed = false;
            }
        }
    }

    fn cut_others(&mut self, deny: DenyGroups) {
        let (owner, group) = (self.mode >> 6, self.mode >> 3);
        let cut = match deny {
            DenyGroups::Off => return,
            DenyGroups::Group => group,
            DenyGroups::All => owner & group,
        };
        self.mode &= !7 | cut;
        let Some(acl) = &mut self.acl else { return };
        let counts = |tag| match tag {
            GROUP | GROUP_OBJ => true,
            USER | USER_OBJ => deny == DenyGroups::All,
            _ => false,
        };
        let counted = acl.iter().filter(|entry| counts(entry.0));
        let cut = counted.fold(7, |cut, entry| cut & effective(*entry, acl));
        acl.iter_mut().filter(|entry| entry.0 == OTHER).for_each(|entry| entry.1 &= cut);
    }

    fn is_dir(&self) -> bool {
        self.kind == S_IFDIR
    }

    pub(super) fn is_owned_by(&self, who: Who) -> bool {
        self.uid == Some(who.id)
    }

    /// Whether capabilities count for it.
    pub(super) fn has_root(&self, who: Who) -> bool {
        who.is_root() && self.uid.is_some() && self.gid.is_some()
    }

    /// Whether somebody may do what is the owner's business.
    pub(super) fn may_own(&self, who: Who) -> bool {
        !self.hidden && !self.fixed && (self.is_owned_by(who) || self.has_root(who))
    }

    pub(super) fn may(&self, who: Who, wanted: u32) -> bool {
        // Nothing that goes through a fifo of the mount is stored, or reaches the one below.
        let fixed = self.fixed && !(self.kind == S_IFIFO && self.uid.is_some());
        if self.hidden || (fixed && wanted & WRITE != 0) {
            return false;
        }
        if self.has_root(who) && (wanted & SEARCH == 0 || self.is_dir()) {
            return true;
        }
        let group = self.gid.is_some_and(|gid| who.is_in(gid));
        if self.is_owned_by(who) {
            return (self.mode >> 6) & wanted == wanted;
        }
        match self.acl.as_ref().filter(|_| self.mode & 0o070 != 0) {
            Some(acl) => acl_gives(acl, who, group, wanted),
            None if group => (self.mode >> 3) & wanted == wanted,
            None => self.mode & wanted == wanted,
        }
    }

    /// Whether the sticky bit of the directory keeps somebody from removing the file.
    pub(super) fn is_held_by(&self, dir: &Shown, who: Who) -> bool {
        dir.mode & STICKY != 0
            && !self.is_owned_by(who)
            && !dir.is_owned_by(who)
            && !self.has_root(who)
    }
}

fn acl_gives(acl: &[AclEntry], who: Who, group: bool, wanted: u32) -> bool {
    let has = |entry: &AclEntry| u32::from(effective(*entry, acl)) & wanted == wanted;
    if let Some(entry) = acl.iter().find(|entry| entry.0 == USER && entry.2 == who.id) {
        return has(entry);
    }
    let mut groups = acl
        .iter()
        .filter(|entry| (entry.0 == GROUP_OBJ && group) || (entry.0 == GROUP && who.is_in(entry.2)))
        .peekable();
    if groups.peek().is_some() {
        return groups.any(has);
    }
    acl.iter().any(|entry| entry.0 == OTHER && has(entry))
}

/// The rights of an entry after the mask.
pub(super) fn effective(entry: AclEntry, acl: &[AclEntry]) -> u16 {
    let mask = acl.iter().find(|entry| entry.0 == MASK).map_or(7, |mask| mask.1);
    if matches!(entry.0, USER | GROUP | GROUP_OBJ) { entry.1 & mask } else { entry.1 }
}

impl Policy {
    /// Whether set-ID bits and capabilities may be stored for this file.
    pub(super) fn stores_set_id(&self, uid: u32, gid: u32) -> bool {
        self.set_id == SetId::Pass && !(self.squashes() && self.is_unmapped(uid, gid))
    }

    pub(super) fn squashes(&self) -> bool {
        matches!(self.unmapped, Unmapped::Squash(..))
    }

    /// The stored ids of what a caller makes, and whether they are another's than the caller's.
    pub(super) fn born(&self, who: Who) -> Option<(u32, u32, bool)> {
        let (own_user, own_group) = (self.stored_user(who.id), self.stored_group(who.id));
        let (user, group) = match self.unmapped {
            Unmapped::Squash(uid, gid) if self.creators_squash => {
                (self.stored_user(uid), self.stored_group(gid))
            }
            _ => (None, None),
        };
        let squashed = own_user.is_none() || own_group.is_none();
        Some((own_user.or(user)?, own_group.or(group)?, squashed))
    }
}
