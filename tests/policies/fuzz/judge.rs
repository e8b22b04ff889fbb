//! The invariant: whether a call may succeed, and whether what is stored afterwards gives no more than
//! the caller could have given through the kernel's idmapped mount, or by the policy's own table.
//!
//! It says what may be at most. What is refused beyond that is for the oracle.

use super::policy::{Policy, SetId, Unmapped};
use super::shown::{READ, SEARCH, Shown, WRITE};
use super::step::{Call, Slot, Step};
use super::tree::{
    KEPT, MARK, Object, RECORD, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Stored,
    TARGET,
};
use crate::common::{ACL_ACCESS, ACL_DEFAULT, machine};

pub(super) const S_ISUID: u32 = 0o4000;
pub(super) const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// A call, and the state that it is judged by.
pub(super) struct Trial<'t> {
    pub(super) policy: &'t Policy,
    pub(super) before: &'t Stored,
    pub(super) step: &'t Step,
    pub(super) slot: Option<&'t Slot>,
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) dir: u64,
    pub(super) name: String,
    pub(super) number: Option<u64>,
}

type Verdict = Result<(), String>;

fn must(is_so: bool, what: &str) -> Verdict {
    if is_so { Ok(()) } else { Err(format!("without {what}")) }
}

impl Trial<'_> {
    pub(super) fn shown(&self, number: u64) -> Shown {
        Shown::of(self.policy, &self.before.objects[&number])
    }

    /// Where a path leads for the caller.
    pub(super) fn find(&self, path: &str, follow: bool) -> Result<Found, String> {
        let mut dir = self.before.root;
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        for part in parts {
            must(self.shown(dir).may(self.step.who, SEARCH), "the right to search")?;
            let part = self.followed(dir, part);
            let next = self.before.names.get(&(dir, part.to_owned()));
            dir = *next.ok_or("without such a directory")?;
            must(self.before.objects[&dir].is_dir(), "a directory")?;
        }
        must(self.shown(dir).may(self.step.who, SEARCH), "the right to search")?;
        let name = if follow { self.followed(dir, name) } else { name }.to_owned();
        let number = |name: &String| self.before.names.get(&(dir, name.clone())).copied();
        Ok(Found { number: number(&name), dir, name })
    }

    /// The name itself, or the one beside it that a symbolic link leads to.
    fn followed<'n>(&self, dir: u64, name: &'n str) -> &'n str {
        let number = self.before.names.get(&(dir, name.to_owned()));
        let is_link = number.is_some_and(|number| self.before.objects[number].kind == S_IFLNK);
        if is_link { TARGET } else { name }
    }

    fn existing(&self, path: &str, follow: bool) -> Result<(u64, Shown), String> {
        let number = self.find(path, follow)?.number.ok_or("without such a file")?;
        Ok((number, self.shown(number)))
    }

    /// The file that a call is about, for those that change one.
    pub(super) fn target(&self) -> Option<u64> {
        let step = self.step;
        if is_by_descriptor(step.call) {
            return self.slot.map(|slot| slot.number);
        }
        let path = if step.call == Call::Copy { step.to } else { step.path };
        self.find(path, follows(step.call)).ok()?.number
    }

    /// Whether the call may succeed.
    pub(super) fn may_succeed(&self) -> Verdict {
        let (step, who) = (self.step, self.step.who);
        match step.call {
            Call::Kill | Call::Below => Ok(()),
            Call::Read | Call::List => {
                must(self.existing(step.path, true)?.1.may(who, READ), "the right to read")
            }
            Call::Write | Call::Empty | Call::Truncate | Call::Allocate => {
                must(self.existing(step.path, true)?.1.may(who, WRITE), "the right to write")
            }
            Call::Copy => {
                must(self.existing(step.path, true)?.1.may(who, READ), "the right to read")?;
                must(self.existing(step.to, true)?.1.may(who, WRITE), "the right to write")
            }
            Call::Hold => {
                let rights = if step.holds_to_write() { READ | WRITE } else { READ };
                must(self.existing(step.path, false)?.1.may(who, rights), "the right to open")
            }
            Call::Create => {
                let found = self.find(step.path, step.number % 2 != 0)?;
                match found.number {
                    Some(_) if step.number % 2 == 0 => Err("of a name that is there".into()),
                    Some(number) => must(self.shown(number).may(who, WRITE), "the right to write"),
                    None => self.may_make(found.dir),
                }
            }
            Call::Tmpfile => {
                let dir = self.existing(step.path, true)?.0;
                self.may_make(dir)?;
                self.may_change_names(self.find(step.to, false)?.dir)
            }
            Call::Mkdir | Call::Mknod | Call::Symlink => {
                self.may_make(self.find(step.path, false)?.dir)
            }
            Call::Link => self.may_link(),
            Call::Rename | Call::Exchange | Call::Whiteout => self.may_rename(),
            Call::Unlink | Call::Rmdir => self.may_remove(&self.find(step.path, false)?),
            Call::Chmod => must(self.existing(step.path, true)?.1.may_own(who), "being the owner"),
            Call::Flags => {
                let shown = self.existing(step.path, true)?.1;
                let owns = shown.is_owned_by(who) || (who.is_root() && shown.uid.is_some());
                // The kernel asks for no group here.
                let fixed = matches!(self.policy.unmapped, Unmapped::Owner(..)) && shown.fixed;
                must(shown.may(who, READ) && owns && !fixed, "being the owner")
            }
            Call::Times => must(self.existing(step.path, false)?.1.may_own(who), "being the owner"),
            Call::Now => {
                let shown = self.existing(step.path, false)?.1;
                must(shown.may_own(who) || shown.may(who, WRITE), "the right to write")
            }
            Call::Chown => self.may_give(&self.existing(step.path, false)?.1),
            Call::Attribute | Call::Remove => {
                let (number, shown) = self.existing(step.path, false)?;
                self.may_set_attribute(&self.before.objects[&number], &shown)
            }
            Call::HeldRead => must(self.slot.is_some(), "a descriptor"),
            Call::HeldWrite | Call::HeldTruncate | Call::HeldAllocate => {
                must(self.slot.is_some_and(|slot| slot.writes), "a descriptor that may write")
            }
            Call::HeldChmod => {
                let slot = self.slot.ok_or("without a descriptor")?;
                must(self.shown(slot.number).may_own(who), "being the owner")
            }
            Call::HeldChown => {
                let slot = self.slot.ok_or("without a descriptor")?;
                self.may_give(&self.shown(slot.number))
            }
        }
    }

    fn may_change_names(&self, dir: u64) -> Verdict {
        must(self.shown(dir).may(self.step.who, WRITE | SEARCH), "the right to change names")
    }

    fn may_make(&self, dir: u64) -> Verdict {
        self.may_change_names(dir)?;
        must(self.policy.born(self.step.who).is_some(), "ids of the map")
    }

    fn may_link(&self) -> Verdict {
        let who = self.step.who;
        let (number, shown) = self.existing(self.step.path, false)?;
        self.may_change_names(self.find(self.step.to, false)?.dir)?;
        must(!shown.hidden && !shown.fixed, "an owner of the map")?;
        let object = &self.before.objects[&number];
        let program = S_ISGID | S_IXGRP;
        let safe = object.kind == S_IFREG
            && object.mode & S_ISUID == 0
            && object.mode & program != program
            && shown.may(who, READ | WRITE);
        must(!protects_links() || safe || shown.may_own(who), "a file that may be linked")
    }

    fn may_remove(&self, found: &Found) -> Verdict {
        self.may_change_names(found.dir)?;
        let number = found.number.ok_or("without such a file")?;
        let (shown, dir) = (self.shown(number), self.shown(found.dir));
        must(!shown.hidden && !shown.fixed, "an owner of the map")?;
        must(!shown.is_held_by(&dir, self.step.who), "the right to remove it")
    }

    fn may_rename(&self) -> Verdict {
        let [from, to] = [self.find(self.step.path, false)?, self.find(self.step.to, false)?];
        if from.number.is_some() && from.number == to.number {
            return Ok(()); // nothing happens
        }
        self.may_remove(&from)?;
        self.may_change_names(to.dir)?;
        if to.number.is_some() {
            self.may_remove(&to)?;
        }
        let moved = from.number.into_iter().chain(to.number.filter(|_| self.exchanges()));
        for number in moved {
            if self.before.objects[&number].is_dir() && from.dir != to.dir {
                must(self.shown(number).may(self.step.who, WRITE), "the right to its `..`")?;
            }
        }
        // The kernel's own mount stores whiteouts of no owner (docs/semantics.md).
        let makes = self.step.call == Call::Whiteout && !machine().kernel_backend;
        must(!makes || self.policy.born(self.step.who).is_some(), "ids of the map")
    }

    pub(super) fn exchanges(&self) -> bool {
        self.step.call == Call::Exchange
    }

    /// A change of owner (`setattr_prepare`, fs/attr.c).
    fn may_give(&self, shown: &Shown) -> Verdict {
        let (step, who) = (self.step, self.step.who);
        must(!shown.hidden, "seeing it")?;
        // Nobody's file may be given to somebody, by all ids that it lacks.
        let completes = !matches!(self.policy.unmapped, Unmapped::Owner(..) | Unmapped::Deny)
            && (shown.uid.is_some() || step.uid.is_some())
            && (shown.gid.is_some() || step.gid.is_some());
        must(!shown.fixed || completes, "an owner of the map")?;
        let any = |id: Option<u32>| shown.has_root(who) || (who.is_root() && id.is_none());
        if let Some(uid) = step.uid {
            let own = shown.is_owned_by(who) && uid == who.id;
            must(any(shown.uid) || own, "the right to give it away")?;
            let stored = self.policy.stored_user(uid).is_some();
            must(stored || self.policy.chown_ignore, "a user of the map")?;
        }
        if let Some(gid) = step.gid {
            let own = shown.is_owned_by(who) && (who.is_in(gid) || shown.gid == Some(gid));
            must(any(shown.gid) || own, "the right to give it to a group")?;
            let stored = self.policy.stored_group(gid).is_some();
            must(stored || self.policy.chown_ignore, "a group of the map")?;
        }
        Ok(())
    }

    fn may_set_attribute(&self, object: &Object, shown: &Shown) -> Verdict {
        let (step, who) = (self.step, self.step.who);
        if step.call == Call::Remove && step.attribute == ACL_DEFAULT && !object.is_dir() {
            return Ok(()); // nothing happens
        }
        must(!shown.hidden && !shown.fixed, "an owner of the map")?;
        match step.attribute {
            ACL_ACCESS | ACL_DEFAULT => must(shown.may_own(who), "being the owner"),
            KEPT => must(who.is_root() && self.policy.set_id != SetId::Shadow, "being root"),
            RECORD if self.policy.recorded => Err("of the server's own attribute".into()),
            MARK | RECORD => {
                let sticky = object.kind == S_IFDIR && shown.mode & 0o1000 != 0;
                must(shown.may(who, WRITE), "the right to write")?;
                must(!sticky || shown.may_own(who), "being the owner")
            }
            _ => must(shown.has_root(who), "capabilities"),
        }
    }

    /// What a call that makes something may make.
    pub(super) fn kind_made(&self) -> Option<u32> {
        match self.step.call {
            Call::Create | Call::Tmpfile => Some(S_IFREG),
            Call::Mkdir => Some(S_IFDIR),
            Call::Symlink => Some(S_IFLNK),
            Call::Whiteout => Some(S_IFCHR),
            Call::Mknod => Some(self.step.kind),
            _ => None,
        }
    }

    /// Whether the caller may make such a device.
    pub(super) fn may_make_device(&self, kind: u32, device: u64, squashed: bool) -> Verdict {
        let whiteout = kind == S_IFCHR && device == 0;
        if whiteout || kind == S_IFIFO || !matches!(kind, S_IFCHR | S_IFBLK) {
            return Ok(());
        }
        must(self.step.who.is_root() && machine().real_root, "CAP_MKNOD")?;
        must(!squashed && !self.policy.no_devices, "the right to make devices")
    }
}

pub(super) fn is_by_descriptor(call: Call) -> bool {
    matches!(
        call,
        Call::HeldRead
            | Call::HeldWrite
            | Call::HeldTruncate
            | Call::HeldAllocate
            | Call::HeldChmod
            | Call::HeldChown
    )
}

fn follows(call: Call) -> bool {
    matches!(
        call,
        Call::Read
            | Call::List
            | Call::Write
            | Call::Empty
            | Call::Truncate
            | Call::Allocate
            | Call::Copy
            | Call::Chmod
            | Call::Flags
            | Call::Create
    )
}

fn protects_links() -> bool {
    static PROTECTS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *PROTECTS.get_or_init(|| {
        let value = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks");
        value.is_ok_and(|value| value.trim() != "0")
    })
}
