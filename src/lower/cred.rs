//! Acting as the caller: fsuid, fsgid and umask of the calling thread, and `CAP_FSETID`.
//!
//! New files are born with the caller's lower ids because the one call that creates them runs
//! with these as fsuid and fsgid. Capabilities stay ([`keep_capabilities`]), so that the switch
//! changes who owns, never what may be done: the kernel above has already decided that.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::error::{CallExt, FsError};
use crate::shift::id::{LowerGid, LowerUid};
use crate::sys::cred;

/// The ids that a new lower file gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creator {
    /// Its owner.
    pub uid: LowerUid,
    /// Its group, unless the directory's set-group-ID bit decides.
    pub gid: LowerGid,
    /// The bits that the caller's umask takes away, unless a default ACL decides.
    pub umask: u32,
}

/// For how long a thread keeps the ids that a call was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Until a call is made with others: a local file system looks at them in no other call.
    #[default]
    UntilOthers,
    /// For one call. For a lower file system that judges every call by the ids of whoever makes it,
    /// capabilities or not, as the servers of network file systems do.
    OneCall,
}

/// Puts the thread back to the ids that the request has, also when the call panics.
struct GoingBack;

impl Drop for GoingBack {
    fn drop(&mut self) {
        if BASE.with_borrow(|base| go_to(base.as_ref())).is_err() {
            std::process::abort(); // as `Restore`
        }
    }
}

/// Whose ids a request's calls have, where those decide what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The fsuid.
    pub uid: LowerUid,
    /// The fsgid.
    pub gid: LowerGid,
    /// The supplementary groups.
    pub groups: Arc<[LowerGid]>,
}

/// From now on this thread makes its calls with these ids and groups, and goes back to them after
/// those that it makes with others; `None` stands for the server's own. Costs nothing while they
/// stay the same.
pub fn act_as(actor: Option<&Actor>) -> Result<(), FsError> {
    go_to(actor)?;
    let same = BASE.with_borrow(|base| base.as_ref() == actor);
    if same {
        return Ok(());
    }
    let groups: Vec<u32> = raw(actor.map_or(&[], |actor| &actor.groups));
    if base_groups() != groups {
        cred::set_groups(&groups).call("setgroups")?;
    }
    BASE.set(actor.cloned());
    Ok(())
}

/// Whether the thread's calls have this creator's ids and groups anyway.
pub fn acts_as(creator: Creator) -> bool {
    let same = |actor: &Actor| (actor.uid, actor.gid) == (creator.uid, creator.gid);
    BASE.with_borrow(|base| base.as_ref().is_some_and(same))
}

fn go_to(actor: Option<&Actor>) -> Result<(), FsError> {
    let now = NOW.get();
    let ids = match actor {
        Some(actor) => Some((actor.uid, actor.gid)),
        None => own_uid().zip(LowerGid::new(rustix::process::getegid().as_raw())),
    };
    let (uid, gid) = ids.ok_or(FsError::UnmappedCaller)?;
    let wanted = Creator { uid, gid, umask: now.map_or(0, |now| now.umask) };
    if now != Some(wanted) {
        switch(now, wanted)?;
        NOW.set(Some(wanted));
    }
    Ok(())
}

/// The supplementary groups that the request has.
fn base_groups() -> Vec<u32> {
    BASE.with_borrow(|base| raw(base.as_ref().map_or(&[], |base| &base.groups)))
}

fn raw(groups: &[LowerGid]) -> Vec<u32> {
    groups.iter().map(|gid| gid.raw()).collect()
}

thread_local! {
    /// What this thread has now, so that a switch costs nothing while callers repeat.
    static NOW: Cell<Option<Creator>> = const { Cell::new(None) };
    /// The ids and groups that the request has; `None` for the server's own.
    static BASE: RefCell<Option<Actor>> = const { RefCell::new(None) };
    /// The thread's capabilities as it started.
    static FULL: Cell<Option<CapabilitySets>> = const { Cell::new(None) };
}

/// Keeps the effective capabilities through changes of fsuid, for threads started from now on.
pub fn keep_capabilities() -> Result<(), FsError> {
    let bits = rustix::thread::capabilities_secure_bits().call("prctl")?;
    let bits = bits | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    rustix::thread::set_capabilities_secure_bits(bits).call("prctl")
}

/// Whether this thread can take any fsuid and keep its capabilities.
pub fn can_be_anybody() -> bool {
    let holds = |set: CapabilitySet| {
        rustix::thread::capabilities(None).is_ok_and(|now| now.effective.contains(set))
    };
    holds(CapabilitySet::SETUID | CapabilitySet::SETGID)
        && rustix::thread::capabilities_secure_bits()
            .is_ok_and(|bits| bits.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP))
}

impl Keep {
    /// Runs `create` with the creator's ids and umask on this thread.
    pub fn as_creator<T>(
        self,
        creator: Creator,
        create: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _back = self.going_back();
        let now = NOW.get();
        if now != Some(creator) {
            switch(now, creator)?;
            NOW.set(Some(creator));
        }
        create()
    }

    /// Runs `call` as a member of these groups and no others, where the server may choose its groups;
    /// else with its own.
    pub fn with_groups<T>(
        self,
        gid: LowerGid,
        supplementary: &[LowerGid],
        call: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _back = self.going_back();
        let now = NOW.get();
        let uid = now.map_or_else(own_uid, |now| Some(now.uid));
        if let Some(uid) = uid {
            let acting = Creator { uid, gid, umask: now.map_or(0, |now| now.umask) };
            if now != Some(acting) && switch(now, acting).is_ok() {
                NOW.set(Some(acting));
            }
        }
        let groups = raw(supplementary);
        // Made only where there is something to restore: a server that may not choose its groups
        // cannot, and must not be ended for it.
        let differ = base_groups() != groups;
        let restore = (differ && cred::set_groups(&groups).is_ok()).then(|| FormerGroups);
        let result = call();
        drop(restore);
        result
    }

    /// What undoes a switch of ids that is still to come, where that is wanted.
    fn going_back(self) -> Option<GoingBack> {
        (self == Self::OneCall).then(|| GoingBack)
    }
}

/// Gives the thread back the supplementary groups that the request has, also when the call panics.
struct FormerGroups;

impl Drop for FormerGroups {
    fn drop(&mut self) {
        let groups = base_groups();
        if cred::set_groups(&groups).is_err() {
            std::process::abort(); // as `Restore`
        }
    }
}

fn own_uid() -> Option<LowerUid> {
    LowerUid::new(rustix::process::geteuid().as_raw())
}

fn switch(now: Option<Creator>, creator: Creator) -> Result<(), FsError> {
    NOW.set(None); // unknown, should one of the steps fail
    if now.is_none() {
        cred::unshare_fs().call("unshare")?;
    }
    if now.is_none_or(|n| n.umask != creator.umask) {
        rustix::process::umask(Mode::from_bits_truncate(creator.umask));
    }
    if now.is_none_or(|n| n.gid != creator.gid) {
        cred::set_fsgid(creator.gid.raw()).call("setfsgid")?;
    }
    if now.is_none_or(|n| n.uid != creator.uid) {
        cred::set_fsuid(creator.uid.raw()).call("setfsuid")?;
    }
    Ok(())
}

/// Runs `call` with an fsuid that owns nothing; it stays until the next call with another.
pub fn as_nobody<T>(call: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    let now = NOW.get();
    let gid = now.map(|now| now.gid).or(LowerGid::new(rustix::process::getegid().as_raw()));
    if let (Some(uid), Some(gid)) = (LowerUid::new(NOBODY), gid)
        && now.is_none_or(|now| now.uid != uid)
    {
        let nobody = Creator { uid, gid, umask: now.map_or(0, |now| now.umask) };
        switch(now, nobody)?;
        NOW.set(Some(nobody));
    }
    call()
}

/// The last id that there is.
const NOBODY: u32 = u32::MAX - 1;

/// Runs `call` without `CAP_FSETID`, so that the lower file system clears set-user-ID and
/// set-group-ID bits just as it would for the unprivileged caller.
pub fn without_fsetid<T>(call: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    let full = if let Some(full) = FULL.get() {
        full
    } else {
        let full = rustix::thread::capabilities(None).call("capget")?;
        FULL.set(Some(full));
        full
    };
    if !full.effective.contains(CapabilitySet::FSETID) {
        return call();
    }
    let restore = Restore(full);
    let reduced =
        CapabilitySets { effective: full.effective.difference(CapabilitySet::FSETID), ..full };
    rustix::thread::set_capabilities(None, reduced).call("capset")?;
    let result = call();
    drop(restore);
    result
}

/// Gives the thread its capabilities back, also when the call panics.
struct Restore(CapabilitySets);

impl Drop for Restore {
    fn drop(&mut self) {
        if rustix::thread::set_capabilities(None, self.0).is_err() {
            // A thread that would go on with other rights than it believes to have must not.
            std::process::abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    /// A switch and its way back cost more than many a creation.
    #[test]
    fn ids_stay_for_the_next_creation_of_the_same_caller() {
        let caller = Creator {
            uid: LowerUid::new(12_345).unwrap(),
            gid: LowerGid::new(12_345).unwrap(),
            umask: 0,
        };
        NOW.set(Some(caller));
        drop(Keep::UntilOthers.going_back());
        assert_eq!(NOW.get(), Some(caller));
    }
}
