//! What /proc tells of a caller beyond the ids that a request carries: asked only in the rare
//! cases where the kernel above has left a decision to the server.

use std::fs;
use std::sync::OnceLock;

use crate::shift::id::INVALID;

/// A capability (capabilities(7)), by its bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// `CAP_CHOWN`: gives any file away.
    Chown = 0,
    /// `CAP_DAC_OVERRIDE`: no mode keeps it out.
    DacOverride = 1,
    /// `CAP_FOWNER`: acts as the owner of any file.
    Fowner = 3,
    /// `CAP_FSETID`: set-user-ID and set-group-ID bits survive what it does.
    Fsetid = 4,
    /// `CAP_LINUX_IMMUTABLE`: makes files immutable or append-only, and ends that.
    LinuxImmutable = 9,
    /// `CAP_SYS_ADMIN`: sees `trusted.*` attributes.
    SysAdmin = 21,
    /// `CAP_SETFCAP`: gives programs capabilities.
    Setfcap = 31,
}

/// One thing that `/proc` tells of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// `/proc/TID/status`.
    Status,
    /// Nothing more, if it is in the user namespace of whoever looks.
    Namespace,
    /// `/proc/TID/uid_map`.
    UidMap,
    /// `/proc/TID/gid_map`.
    GidMap,
}

/// Looks a caller up in `/proc`. `None` for whoever has gone or cannot be seen, or is in another
/// user namespace where that is asked.
pub fn look_up(tid: u32, fact: Fact) -> Option<String> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{tid}/{file}")).ok();
    let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/user")).ok();
    match fact {
        Fact::Status => read("status"),
        Fact::UidMap => read("uid_map"),
        Fact::GidMap => read("gid_map"),
        Fact::Namespace => {
            let theirs = namespace(&tid.to_string())?;
            (Some(theirs) == namespace("self")).then(String::new)
        }
    }
}

type LookUp = dyn Fn(u32, Fact) -> Option<String> + Send + Sync;

/// Who looks callers up: this process, or another for a server that has no `/proc`.
#[derive(Default)]
pub struct Callers(OnceLock<Box<LookUp>>);

impl Callers {
    /// From now on `look_up` is asked in place of [`look_up`]; the first one stays.
    pub fn look_up_by(
        &self,
        look_up: impl Fn(u32, Fact) -> Option<String> + Send + Sync + 'static,
    ) {
        if self.0.set(Box::new(look_up)).is_err() {
            tracing::debug!("callers are looked up elsewhere already");
        }
    }

    fn ask(&self, tid: u32, fact: Fact) -> Option<String> {
        self.0.get().map_or_else(|| look_up(tid, fact), |elsewhere| elsewhere(tid, fact))
    }

    /// Reads `/proc/TID`. Whoever has gone meanwhile, or cannot be seen, counts as having nothing.
    pub fn read(&self, tid: u32) -> ProcCaller<'_> {
        ProcCaller {
            tid,
            callers: Some(self),
            same_namespace: self.ask(tid, Fact::Namespace).is_some(),
            ..ProcCaller::parse(&self.ask(tid, Fact::Status).unwrap_or_default())
        }
    }
}

/// A process that made a request.
#[derive(Default)]
pub struct ProcCaller<'c> {
    tid: u32,
    callers: Option<&'c Callers>,
    capabilities: u64,
    /// Whether it is in the server's user namespace.
    same_namespace: bool,
    /// Its fsuid, as the server's user namespace numbers it: who it is on the machine, but not
    /// whose files it has, because the mount may be idmapped.
    pub fsuid: Option<u32>,
    /// Its fsgid, likewise.
    pub fsgid: Option<u32>,
    /// Supplementary groups, likewise.
    pub groups: Vec<u32>,
}

impl ProcCaller<'_> {
    fn parse(status: &str) -> Self {
        let field = |key: &str| {
            status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        // Real, effective, saved, file system.
        let acting = |key: &str| field(key)?.split_whitespace().nth(3)?.parse().ok();
        Self {
            fsuid: acting("Uid"),
            fsgid: acting("Gid"),
            capabilities: field("CapEff")
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .unwrap_or(0),
            groups: field("Groups")
                .map(|list| list.split_whitespace().filter_map(|g| g.parse().ok()).collect())
                .unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Whether it has the capability over the mount as a whole: the kernel's `capable()`.
    pub fn has(&self, capability: Capability) -> bool {
        self.same_namespace && self.holds(capability)
    }

    /// Whether it has the capability over a file with these upper ids: the kernel's
    /// `capable_wrt_inode_uidgid()`. In a namespace of its own a caller has it over the files
    /// whose ids that namespace maps; over one with an invalid id nobody has it.
    pub fn has_over(&self, capability: Capability, uid: u32, gid: u32) -> bool {
        self.holds(capability)
            && uid != INVALID
            && gid != INVALID
            && (self.same_namespace
                || (self.maps(Fact::UidMap, uid) && self.maps(Fact::GidMap, gid)))
    }

    /// Whether it may act as the owner of a file with this upper owner by `CAP_FOWNER`: the
    /// kernel's `inode_owner_or_capable()`, which does not ask about the group.
    pub fn may_act_as_owner(&self, uid: u32) -> bool {
        self.holds(Capability::Fowner)
            && uid != INVALID
            && (self.same_namespace || self.maps(Fact::UidMap, uid))
    }

    fn holds(&self, capability: Capability) -> bool {
        self.capabilities >> (capability as u32) & 1 == 1
    }

    /// Whether the caller's namespace has a number for our `id`.
    fn maps(&self, map: Fact, id: u32) -> bool {
        self.callers
            .and_then(|callers| callers.ask(self.tid, map))
            .is_some_and(|map| map_covers(&map, id))
    }
}

/// Whether the second column of a uid_map or gid_map, as read from outside, covers `id`.
fn map_covers(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (Some(_), Some(Ok(first)), Some(Ok(count))) =
            (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let caller = ProcCaller::parse(
            "Name:\tx\nUid:\t0\t1\t2\t3\nGroups:\t4 24 1000 \nCapEff:\t0000000000200010\n",
        );
        assert_eq!((caller.fsuid, caller.fsgid), (Some(3), None));
        assert_eq!(caller.groups, [4, 24, 1000]);
        assert!(!caller.has(Capability::Fsetid), "not seen to be in the same namespace");
        let here = ProcCaller { same_namespace: true, ..caller };
        assert!(here.has(Capability::Fsetid) && here.has(Capability::SysAdmin));
        assert!(!here.has(Capability::Fowner));
    }

    #[test]
    fn whoever_has_gone_has_nothing() {
        let callers = Callers::default();
        let gone = callers.read(u32::MAX);
        assert!(!gone.has_over(Capability::Fsetid, 0, 0) && gone.groups.is_empty());
    }

    #[test]
    fn this_process_is_in_its_own_namespace() {
        assert!(Callers::default().read(std::process::id()).same_namespace);
    }

    #[test]
    fn a_namespace_has_its_own_files() {
        let map = "         0     100000      65536\n     65536       1000          1\n";
        assert!(map_covers(map, 100_000) && map_covers(map, 165_535) && map_covers(map, 1000));
        assert!(!map_covers(map, 0) && !map_covers(map, 165_536) && !map_covers("garbage", 1));
    }
}
