//! The capabilities that a server keeps, and why.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::config::Ownership;

/// A capability (capabilities(7)) that a mount needs while it runs.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Which.
    pub capability: CapabilitySet,
    /// What would not work without it.
    pub reason: &'static str,
}

/// What a mount needs while it runs that keeps owners in this way; no other option changes it.
/// `initial` says whether the server is in the initial user namespace: some capabilities count
/// only there.
///
/// Never `CAP_SYS_RESOURCE`, with which quotas and reserved blocks would not hold.
///
/// `CAP_SYS_ADMIN` stays whatever the options: who may use `trusted.*` and `security.*` attributes
/// the kernel above has judged, but the lower file system asks again, and asks the server. What else
/// it would allow, the filter of system calls takes away.
pub fn needs(ownership: &Ownership, initial: bool) -> Vec<Need> {
    let nodes_are_made = initial && *ownership == Ownership::Chown;
    let all = [
        (true, CapabilitySet::CHOWN, "files change owners"),
        (true, CapabilitySet::DAC_OVERRIDE, "the kernel above has judged who may use what"),
        (true, CapabilitySet::DAC_READ_SEARCH, "files are found by their handles"),
        (true, CapabilitySet::FOWNER, "modes, times and ACLs of others' files are changed"),
        (true, CapabilitySet::FSETID, "set-ID bits stay where the caller may keep them"),
        (true, CapabilitySet::SETUID, "files are born with their owner"),
        (true, CapabilitySet::SETGID, "files are born with their group"),
        (true, CapabilitySet::SETFCAP, "file capabilities are set"),
        (nodes_are_made, CapabilitySet::MKNOD, "device nodes are made"),
        (initial, CapabilitySet::LINUX_IMMUTABLE, "files are made immutable"),
        (
            true,
            CapabilitySet::SYS_ADMIN,
            "trusted.* and security.* attributes, and files that the kernel reads by itself",
        ),
    ];
    let needed = all.into_iter().filter(|(needed, ..)| *needed);
    needed.map(|(_, capability, reason)| Need { capability, reason }).collect()
}

/// Gives up, for this thread and those that it starts, everything but `kept`, also as what a
/// program could get by being executed.
pub(super) fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let now = capabilities(None)?;
    // In this order: taking something out of the bounding set needs CAP_SETPCAP.
    let bounded = empty_bounding_set(now);
    // EINVAL: a kernel before Linux 4.3, which has no such set.
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    let held = now.permitted.intersection(kept);
    let reduced =
        CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    set_capabilities(None, reduced)?;
    bounded
}

fn empty_bounding_set(now: CapabilitySets) -> Result<(), Errno> {
    if !now.effective.contains(CapabilitySet::SETPCAP) {
        // Nothing can be had from the set: no program is executed any more.
        return Ok(());
    }
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // the kernel knows no more
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ownership: &Ownership, initial: bool) -> CapabilitySet {
        let needs = needs(ownership, initial);
        assert!(needs.iter().all(|need| !need.reason.is_empty()));
        needs.iter().fold(CapabilitySet::empty(), |set, need| set | need.capability)
    }

    #[test]
    fn rights_follow_from_options_and_namespace() {
        let usual = kept(&Ownership::Chown, true);
        let never = CapabilitySet::SYS_RESOURCE
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::SYS_CHROOT
            | CapabilitySet::SYS_MODULE
            | CapabilitySet::SYS_RAWIO
            | CapabilitySet::SETPCAP
            | CapabilitySet::KILL
            | CapabilitySet::NET_ADMIN;
        assert!(!usual.intersects(never));
        assert!(usual.contains(CapabilitySet::MKNOD | CapabilitySet::LINUX_IMMUTABLE));
        let recorded = kept(&Ownership::Xattr { label: None }, true);
        assert_eq!(usual.difference(recorded), CapabilitySet::MKNOD);
        let inner = kept(&Ownership::Chown, false);
        assert_eq!(
            usual.difference(inner),
            CapabilitySet::MKNOD | CapabilitySet::LINUX_IMMUTABLE,
            "these count in the initial namespace only"
        );
    }
}
