//! What may have changed in the stored tree by one call.

use std::collections::BTreeMap;

use super::judge::{S_ISGID, S_ISUID, Trial};
use super::policy::SetId;
use super::shown::Shown;
use super::step::Call;
use super::tree::{CAPABILITY, KEPT, MARK, Object, RECORD, S_IFREG, Stored, capability};
use crate::common::{
    ACL_ACCESS, ACL_DEFAULT, AclEntry, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, parse_acl,
};

pub(super) const SET_ID: u32 = S_ISUID | S_ISGID;
const S_IXGRP: u32 = 0o0010;
pub(super) const PROGRAM: u32 = S_ISGID | S_IXGRP;

pub(super) type Verdict = Result<(), String>;

/// What a name leads to after a call.
#[derive(Debug, PartialEq, Eq)]
enum Leads {
    To(u64),
    ToNew,
    Nowhere,
}

/// Judges what is stored after a call; `succeeded` says how that ended.
pub(super) fn judge(trial: &Trial<'_>, after: &Stored, succeeded: bool) -> Verdict {
    if matches!(trial.step.call, Call::Below) {
        return Ok(());
    }
    if trial.policy.read_only {
        let same = trial.before.names == after.names && trial.before.objects == after.objects;
        return if same { Ok(()) } else { Err("changed through a read-only mount".into()) };
    }
    // Where fs.protected_regular is on, the kernel refuses a sticky directory's file that is another's,
    // which it has just had made (docs/semantics.md).
    let squashed = trial.policy.born(trial.step.who).is_some_and(|(.., squashed)| squashed);
    let refused_late = squashed && trial.step.call == Call::Create && trial.may_succeed().is_ok();
    names(trial, after, succeeded || refused_late)?;
    for (number, object) in &after.objects {
        let verdict = match trial.before.objects.get(number) {
            Some(before) => {
                let target = trial.target() == Some(*number);
                Change { trial, before, after: object, target, succeeded }.judge()
            }
            None => super::birth::judge(trial, after, *number, object),
        };
        verdict.map_err(|what| {
            let before = trial.before.objects.get(number);
            format!("file {number}: {what}\nbefore: {before:?}\nafter:  {object:?}")
        })?;
    }
    Ok(())
}

fn names(trial: &Trial<'_>, after: &Stored, succeeded: bool) -> Verdict {
    let step = trial.step;
    let mut may: BTreeMap<(u64, String), Leads> = BTreeMap::new();
    if succeeded && changes_names(step.call) {
        let exclusive = step.number.is_multiple_of(2);
        let from = trial.find(step.path, step.call == Call::Create && !exclusive)?;
        let to = || trial.find(step.to, false);
        let key = |found: &super::judge::Found| (found.dir, found.name.clone());
        match step.call {
            Call::Create if from.number.is_some() => {}
            Call::Tmpfile => {
                may.insert(key(&to()?), Leads::ToNew);
            }
            Call::Link => {
                may.insert(key(&to()?), Leads::To(from.number.unwrap_or_default()));
            }
            Call::Unlink | Call::Rmdir => {
                may.insert(key(&from), Leads::Nowhere);
            }
            Call::Rename | Call::Exchange | Call::Whiteout => {
                let to = to()?;
                let rest = match step.call {
                    Call::Exchange => Leads::To(to.number.unwrap_or_default()),
                    Call::Whiteout => Leads::ToNew,
                    _ => Leads::Nowhere,
                };
                may.insert(key(&from), rest);
                may.insert(key(&to), Leads::To(from.number.unwrap_or_default()));
            }
            _ => {
                may.insert(key(&from), Leads::ToNew);
            }
        }
    }
    for key in trial.before.names.keys().chain(after.names.keys()) {
        let (was, is) = (trial.before.names.get(key), after.names.get(key));
        let leads = match is {
            None => Leads::Nowhere,
            Some(number) if trial.before.objects.contains_key(number) => Leads::To(*number),
            Some(_) => Leads::ToNew,
        };
        if was != is && may.get(key) != Some(&leads) {
            return Err(format!("the name {key:?} led to {was:?}, and leads to {is:?}"));
        }
    }
    Ok(())
}

fn changes_names(call: Call) -> bool {
    matches!(
        call,
        Call::Create
            | Call::Tmpfile
            | Call::Mkdir
            | Call::Mknod
            | Call::Symlink
            | Call::Link
            | Call::Rename
            | Call::Exchange
            | Call::Whiteout
            | Call::Unlink
            | Call::Rmdir
    )
}

/// A file before and after a call.
struct Change<'t> {
    trial: &'t Trial<'t>,
    before: &'t Object,
    after: &'t Object,
    /// Whether the call is about this file.
    target: bool,
    succeeded: bool,
}

impl Change<'_> {
    fn call(&self) -> Option<Call> {
        (self.target && self.succeeded).then_some(self.trial.step.call)
    }

    fn is(&self, calls: &[Call]) -> bool {
        self.call().is_some_and(|call| calls.contains(&call))
    }

    fn sets(&self, attribute: &str) -> bool {
        self.is(&[Call::Attribute]) && self.trial.step.attribute == attribute
    }

    fn shown(&self) -> Shown {
        Shown::of(self.trial.policy, self.before)
    }

    fn judge(&self) -> Verdict {
        let (before, after) = (self.before, self.after);
        if (before.kind, before.device) != (after.kind, after.device) {
            return Err("another kind of file".into());
        }
        self.owner()?;
        self.mode()?;
        self.real()?;
        if before.content != after.content {
            self.content()?;
        }
        self.attributes()
    }

    fn owner(&self) -> Verdict {
        let (before, after, policy) = (self.before, self.after, self.trial.policy);
        let gives = self.is(&[Call::Chown, Call::HeldChown]);
        let (uid, gid) = (self.trial.step.uid, self.trial.step.gid);
        let asked = |id: Option<u32>| if gives { id } else { None };
        if before.uid != after.uid
            && asked(uid).and_then(|uid| policy.stored_user(uid)) != Some(after.uid)
        {
            return Err("another user".into());
        }
        if before.gid != after.gid
            && asked(gid).and_then(|gid| policy.stored_group(gid)) != Some(after.gid)
        {
            return Err("another group".into());
        }
        if gives && (uid.is_some() || gid.is_some()) && before.kind == S_IFREG {
            if after.mode & S_ISUID != 0 || after.mode & PROGRAM == PROGRAM {
                return Err("set-ID bits stay by a change of owner".into());
            }
            if after.capability().is_some() {
                return Err("capabilities stay by a change of owner".into());
            }
        }
        Ok(())
    }

    fn mode(&self) -> Verdict {
        let (before, after, trial) = (self.before, self.after, self.trial);
        let gained = after.mode & !before.mode;
        if gained == 0 {
            return Ok(());
        }
        let asked = if self.is(&[Call::Chmod, Call::HeldChmod]) {
            trial.step.mode
        } else if self.sets(ACL_ACCESS) {
            mode_of(&parse_acl(&trial.step.value))
        } else {
            return Err(format!("gained {gained:o}"));
        };
        if gained & !asked != 0 {
            return Err(format!("gained {gained:o}, asked for {asked:o}"));
        }
        self.may_gain(gained & SET_ID)
    }

    /// Whether the caller may give the file these set-ID bits.
    fn may_gain(&self, bits: u32) -> Verdict {
        let (before, policy, who) = (self.before, self.trial.policy, self.trial.step.who);
        if bits == 0 {
            return Ok(());
        }
        if before.kind == S_IFREG && !policy.stores_set_id(before.uid, before.gid) {
            return Err(format!("gained {bits:o}, which the policy forbids"));
        }
        let shown = self.shown();
        let member = shown.gid.is_some_and(|gid| who.is_in(gid)) || shown.has_root(who);
        if bits & S_ISGID != 0 && !member {
            return Err("gained S_ISGID from outside of its group".into());
        }
        Ok(())
    }

    /// With `ownership=xattr` the lower file stays the server's, and private.
    fn real(&self) -> Verdict {
        let (before, after) = (self.before.real, self.after.real);
        if !self.trial.policy.recorded {
            return Ok(());
        }
        let gained = after.0 & !before.0 & 0o7777;
        if (before.1, before.2) != (after.1, after.2) || gained & !0o700 != 0 {
            return Err("the lower file gained something".into());
        }
        Ok(())
    }

    fn content(&self) -> Verdict {
        let (after, policy, trial) = (self.after, self.trial.policy, self.trial);
        let writes = [
            Call::Write,
            Call::Empty,
            Call::Truncate,
            Call::Allocate,
            Call::Copy,
            Call::HeldWrite,
            Call::HeldTruncate,
            Call::HeldAllocate,
        ];
        if !self.is(&writes) {
            return Err("other contents".into());
        }
        let keeps = trial.step.who.is_root()
            && policy.stores_set_id(self.before.uid, self.before.gid)
            && !self.shown().unmapped;
        let bits = after.mode & S_ISUID != 0 || after.mode & PROGRAM == PROGRAM;
        if bits && !keeps {
            return Err("set-ID bits stay by a write".into());
        }
        if after.capability().is_some() {
            return Err("capabilities stay by a write".into());
        }
        Ok(())
    }

    fn attributes(&self) -> Verdict {
        let names = self.before.attributes.keys().chain(self.after.attributes.keys());
        for name in names {
            let was = self.before.attributes.get(name);
            let is = self.after.attributes.get(name);
            if was == is {
                continue;
            }
            let removed = self.is(&[Call::Remove]) && self.trial.step.attribute == name;
            match (name.as_str(), is) {
                (ACL_ACCESS | ACL_DEFAULT, Some(is)) => self.acl(name, was, is)?,
                // A mode takes the place of an ACL that says no more than it.
                (ACL_ACCESS, None) if removed || self.sets(name) => {}
                (ACL_DEFAULT | MARK | RECORD, None) if removed => {}
                (CAPABILITY, Some(is)) => self.capability(is)?,
                (MARK, Some(is)) if self.sets(MARK) && *is == self.trial.step.value => {}
                (CAPABILITY | KEPT, None) => {}
                (KEPT, Some(is)) => self.kept(is)?,
                (RECORD, Some(_)) if self.trial.policy.recorded => {} // judged as owner and mode
                (RECORD, Some(_)) if self.sets(RECORD) => {}
                _ => return Err(format!("the attribute {name}: {was:?}, now {is:?}")),
            }
        }
        Ok(())
    }

    fn acl(&self, name: &str, was: Option<&Vec<u8>>, is: &[u8]) -> Verdict {
        let is = parse_acl(is);
        if self.sets(name) {
            let asked = self.stored_acl(&parse_acl(&self.trial.step.value));
            let within = is.iter().all(|entry| {
                asked.iter().any(|asked| {
                    asked.0 == entry.0 && asked.2 == entry.2 && entry.1 & !asked.1 == 0
                })
            });
            return if within {
                Ok(())
            } else {
                Err(format!("an ACL that nobody asked for: {is:?}"))
            };
        }
        // A mode is set in the entries that it is about.
        let Some(was) = was.filter(|_| self.is(&[Call::Chmod, Call::HeldChmod])) else {
            return Err(format!("another ACL: {is:?}"));
        };
        let was = parse_acl(was);
        let named = |acl: &[AclEntry]| {
            acl.iter().filter(|entry| matches!(entry.0, USER | GROUP)).copied().collect::<Vec<_>>()
        };
        if named(&is) != named(&was) || mode_of(&is) & !self.trial.step.mode != 0 {
            return Err(format!("a mode made the ACL {was:?} to {is:?}"));
        }
        Ok(())
    }

    /// With the ids below.
    fn stored_acl(&self, acl: &[AclEntry]) -> Vec<AclEntry> {
        let policy = self.trial.policy;
        let stored = |entry: &AclEntry| {
            let id = match entry.0 {
                USER => policy.stored_user(entry.2)?,
                GROUP => policy.stored_group(entry.2)?,
                _ => entry.2,
            };
            Some((entry.0, entry.1, id))
        };
        acl.iter().filter_map(stored).collect()
    }

    fn capability(&self, is: &[u8]) -> Verdict {
        let policy = self.trial.policy;
        if !self.sets(CAPABILITY) {
            return Err("gained capabilities".into());
        }
        let may_store = policy.stores_set_id(self.before.uid, self.before.gid);
        if self.before.kind == S_IFREG && !may_store {
            return Err("gained capabilities, which the policy forbids".into());
        }
        let asked = &self.trial.step.value;
        let root = asked.get(20..24).map_or(0, |id| u32::from_le_bytes(id.try_into().unwrap()));
        let stored = policy.stored_user(root).map(|root| capability(Some(root)));
        // Without a root id it is for the host's root, if that is the one that is shown as root.
        let for_all = policy.stored_user(root) == Some(0);
        if stored.as_deref() == Some(is) || (for_all && is == capability(None)) {
            return Ok(());
        }
        Err("capabilities for another root".into())
    }

    fn kept(&self, is: &[u8]) -> Verdict {
        let (policy, step) = (self.trial.policy, self.trial.step);
        if policy.set_id != SetId::Shadow {
            return if self.sets(KEPT) { Ok(()) } else { Err("kept bits from nowhere".into()) };
        }
        let bits = |value: &[u8]| kept(value).map_or(0, |(bits, ..)| bits);
        let was = self.before.attributes.get(KEPT).map_or(0, |value| bits(value));
        let gained = bits(is) & !was & !self.before.mode;
        let asked = if self.is(&[Call::Chmod, Call::HeldChmod]) { step.mode } else { 0 };
        if gained & !asked != 0 {
            return Err(format!("kept {gained:o} that nobody asked for"));
        }
        let shown = self.shown();
        if gained != 0 && !shown.may_own(step.who) {
            return Err("kept bits by somebody who is not the owner".into());
        }
        let capable = kept(is).is_some_and(|(_, capable, _)| capable);
        let before = self.before.attributes.get(KEPT).and_then(|value| kept(value));
        let was_capable =
            before.is_some_and(|(_, capable, _)| capable) || self.before.capability().is_some();
        if capable && !was_capable && !(self.sets(CAPABILITY) && shown.has_root(step.who)) {
            return Err("kept capabilities that nobody asked for".into());
        }
        Ok(())
    }
}

/// Bits, whether there are capabilities, and the time for which they count.
fn kept(value: &[u8]) -> Option<(u32, bool, String)> {
    let text = std::str::from_utf8(value).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let bits = u32::from_str_radix(words.get(1)?, 8).ok()?;
    Some((bits, *words.get(3)? != "-", (*words.get(2)?).to_owned()))
}

/// The permission bits that an ACL is shown as.
fn mode_of(acl: &[AclEntry]) -> u32 {
    let of = |tag| acl.iter().find(|entry| entry.0 == tag).map(|entry| u32::from(entry.1));
    let group = of(MASK).or(of(GROUP_OBJ)).unwrap_or(0);
    of(USER_OBJ).unwrap_or(0) << 6 | group << 3 | of(OTHER).unwrap_or(0)
}
