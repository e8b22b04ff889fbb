//! Whether somebody may use a file, decided from what the mount shows of it as the kernel decides
//! (`acl_permission_check` and `generic_permission` in fs/namei.c, `posix_acl_permission` in
//! fs/posix_acl.c). Requests do not come here: the kernel has decided before it sends them. This is
//! for explaining what it decides.

use std::fmt;

use super::acl::{self, Tag};
use super::id::INVALID;

/// To read, or to list a directory.
pub const READ: u32 = 4;
/// To write, or to change the names in a directory.
pub const WRITE: u32 = 2;
/// To execute, or to walk through a directory.
pub const EXECUTE: u32 = 1;

const DIRECTORY: u32 = 0o040_000;
const TYPE: u32 = 0o170_000;
const STICKY: u32 = 0o1000;

/// Somebody, with the ids that the mount shows. Only the user 0 has capabilities, and all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The user.
    pub uid: u32,
    /// The groups, the primary one first.
    pub groups: Vec<u32>,
}

/// What is shown of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// Type and permissions.
    pub mode: u32,
    /// The owner, or [`INVALID`].
    pub uid: u32,
    /// The group, or [`INVALID`].
    pub gid: u32,
    /// The access ACL as the mount gives it, if there is one.
    pub acl: Option<Vec<u8>>,
}

/// As what somebody has the rights that he has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The file is his.
    Owner,
    /// The ACL names him.
    NamedUser,
    /// He is in the file's group.
    Group,
    /// He is in one or more groups that the ACL gives rights.
    AclGroups,
    /// None of these.
    Others,
    /// Root may all the same.
    Root,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Owner => "the owner",
            By::NamedUser => "a user named in the ACL",
            By::Group => "a member of its group",
            By::AclGroups => "a member of groups in the ACL",
            By::Others => "everybody else",
            By::Root => "root",
        })
    }
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Whether all that was wanted is granted.
    pub granted: bool,
    /// As what.
    pub by: By,
    /// The rights that he has as that: bits of [`READ`], [`WRITE`] and [`EXECUTE`].
    pub has: u32,
}

impl Person {
    fn is_in(&self, gid: u32) -> bool {
        gid != INVALID && self.groups.contains(&gid)
    }

    fn owns(&self, shown: &Shown) -> bool {
        shown.uid != INVALID && shown.uid == self.uid
    }

    /// Whether capabilities count for the file: both ids must have a value here
    /// (`privileged_wrt_inode_uidgid`).
    pub fn is_root_over(&self, shown: &Shown) -> bool {
        self.uid == 0 && shown.is_mapped()
    }

    /// Whether he may do what is the owner's business (`inode_owner_or_capable`).
    pub fn may_act_as_owner(&self, shown: &Shown) -> bool {
        self.owns(shown) || self.is_root_over(shown)
    }

    /// Whether the sticky bit of the directory keeps him from removing the file (`__check_sticky`).
    pub fn is_held_by_sticky(&self, directory: &Shown, file: &Shown) -> bool {
        directory.mode & STICKY != 0
            && !self.owns(file)
            && !self.owns(directory)
            && !self.is_root_over(file)
    }
}

impl Shown {
    /// Whether owner and group both have a value here.
    pub fn is_mapped(&self) -> bool {
        self.uid != INVALID && self.gid != INVALID
    }
}

/// Whether the mode and the ACL, or root's capabilities, grant what is wanted.
pub fn judge(person: &Person, shown: &Shown, wanted: u32) -> Judgement {
    let (by, has) = rights(person, shown, wanted);
    if has & wanted == wanted {
        return Judgement { granted: true, by, has };
    }
    if person.is_root_over(shown) {
        let directory = shown.mode & TYPE == DIRECTORY;
        // CAP_DAC_OVERRIDE does not make a program of a file that is none for anybody.
        let can_run = directory || shown.mode & 0o111 != 0;
        let has = if can_run { READ | WRITE | EXECUTE } else { READ | WRITE };
        return Judgement { granted: has & wanted == wanted, by: By::Root, has };
    }
    Judgement { granted: false, by, has }
}

fn rights(person: &Person, shown: &Shown, wanted: u32) -> (By, u32) {
    let mode = shown.mode;
    if person.owns(shown) {
        return (By::Owner, mode >> 6 & 7);
    }
    // The group's bits are the mask: without any, the kernel does not look at the ACL.
    let entries = shown.acl.as_ref().filter(|_| mode & 0o070 != 0);
    if let Some(entries) = entries.and_then(|value| acl::decode(value).ok()) {
        return by_acl(person, shown, &entries, wanted);
    }
    if person.is_in(shown.gid) { (By::Group, mode >> 3 & 7) } else { (By::Others, mode & 7) }
}

fn by_acl(person: &Person, shown: &Shown, entries: &[acl::Entry], wanted: u32) -> (By, u32) {
    let effective = |entry: &acl::Entry| u32::from(acl::effective(*entry, entries));
    let named = entries.iter().find(|entry| entry.tag == Tag::User && entry.id == person.uid);
    if let Some(entry) = named {
        return (By::NamedUser, effective(entry));
    }
    let mut groups = entries.iter().filter(|entry| match entry.tag {
        Tag::GroupObj => person.is_in(shown.gid),
        Tag::Group => person.is_in(entry.id),
        _ => false,
    });
    let Some(first) = groups.clone().next() else {
        let others = entries.iter().find(|entry| entry.tag == Tag::Other);
        return (By::Others, others.map_or(0, |entry| u32::from(entry.permissions)));
    };
    // One of them must grant everything by itself.
    let granting = groups.find(|entry| u32::from(entry.permissions) & wanted == wanted);
    let by = if granting.unwrap_or(first).tag == Tag::GroupObj { By::Group } else { By::AclGroups };
    (by, effective(granting.unwrap_or(first)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shift::acl::Entry;

    fn person(uid: u32, groups: &[u32]) -> Person {
        Person { uid, groups: groups.to_vec() }
    }

    fn file(mode: u32, uid: u32, gid: u32) -> Shown {
        Shown { mode: 0o100_000 | mode, uid, gid, acl: None }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let shown = file(0o247, 5, 6);
        let by = |uid, groups: &[u32]| {
            let judged = judge(&person(uid, groups), &shown, READ);
            (judged.by, judged.has, judged.granted)
        };
        assert_eq!(by(5, &[6]), (By::Owner, 2, false));
        assert_eq!(by(7, &[9, 6]), (By::Group, 4, true));
        assert_eq!(by(7, &[9]), (By::Others, 7, true));
        assert_eq!(by(0, &[0]), (By::Others, 7, true));
    }

    #[test]
    fn root_may_all_but_run_what_is_no_program() {
        let root = person(0, &[0]);
        assert!(judge(&root, &file(0, 5, 6), READ | WRITE).granted);
        assert!(!judge(&root, &file(0o600, 5, 6), EXECUTE).granted);
        assert!(judge(&root, &file(0o010, 5, 6), EXECUTE).granted);
        let directory = Shown { mode: DIRECTORY, ..file(0, 5, 6) };
        assert!(judge(&root, &directory, EXECUTE | WRITE).granted);
    }

    #[test]
    fn nobody_is_root_over_or_owns_what_is_unmapped() {
        let shown = file(0o700, INVALID, 6);
        assert!(!judge(&person(0, &[0]), &shown, READ).granted);
        assert!(!judge(&person(INVALID, &[0]), &shown, READ).granted);
        assert!(!person(0, &[0]).may_act_as_owner(&shown));
        assert!(!judge(&person(0, &[INVALID]), &file(0o070, 5, INVALID), READ).granted);
    }

    #[test]
    fn an_acl_counts_below_its_mask() {
        let one = |tag, permissions, id| Entry { tag, permissions, id };
        let entries = [
            one(Tag::UserObj, 7, 0),
            one(Tag::User, 6, 10),
            one(Tag::GroupObj, 4, 0),
            one(Tag::Group, 6, 20),
            one(Tag::Group, 1, 21),
            one(Tag::Mask, 5, 0),
            one(Tag::Other, 7, 0),
        ];
        let shown = Shown { acl: Some(acl::encode(&entries)), ..file(0o757, 5, 6) };
        let may = |uid, groups: &[u32], wanted| judge(&person(uid, groups), &shown, wanted);
        assert!(may(10, &[], READ).granted && !may(10, &[], WRITE).granted);
        assert_eq!(may(10, &[20], READ).by, By::NamedUser);
        assert!(!may(11, &[20], WRITE).granted, "the mask");
        assert!(may(11, &[20, 21], EXECUTE).granted);
        assert!(!may(11, &[20, 21], READ | EXECUTE).granted, "none has both");
        assert_eq!(may(11, &[6, 21], EXECUTE).by, By::AclGroups);
        assert!(may(11, &[99], WRITE).granted, "others are not masked");
        assert_eq!(may(11, &[6], READ).by, By::Group);
        // Without rights for the group the kernel does not look at it.
        let shut = Shown { mode: 0o100_707, ..shown.clone() };
        assert!(judge(&person(10, &[]), &shut, WRITE).granted);
    }

    #[test]
    fn sticky_directories_keep_what_is_anothers() {
        let directory = Shown { mode: DIRECTORY | 0o1777, ..file(0, 1, 1) };
        let held = |uid, file: &Shown| person(uid, &[]).is_held_by_sticky(&directory, file);
        assert!(held(7, &file(0o666, 5, 5)) && !held(5, &file(0o666, 5, 5)));
        assert!(!held(1, &file(0o666, 5, 5)) && !held(0, &file(0o666, 5, 5)));
        assert!(held(0, &file(0o666, INVALID, 5)));
    }
}
