//! What /proc tells of a caller beyond the ids that a request carries: asked only in the rare
//! cases where the kernel above has left a decision to the server.

use std::fs;

/// `CAP_FSETID` and `CAP_SYS_ADMIN` (capabilities(7)), as bit numbers.
const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

/// A process that made a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcCaller {
    capabilities: u64,
    /// Whether it is in the server's user namespace: only there do its capabilities count for
    /// files of this mount.
    same_user_namespace: bool,
    /// Supplementary groups, as the server's user namespace numbers them.
    pub groups: Vec<u32>,
}

impl ProcCaller {
    /// Reads `/proc/TID`. Whoever has gone meanwhile, or cannot be seen, counts as having nothing.
    pub fn read(tid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
        let namespace = |who: &str| fs::read_link(format!("/proc/{who}/ns/user")).ok();
        let theirs = namespace(&tid.to_string());
        Self {
            same_user_namespace: theirs.is_some() && theirs == namespace("self"),
            ..Self::parse(&status)
        }
    }

    fn parse(status: &str) -> Self {
        let field = |key: &str| {
            status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        Self {
            capabilities: field("CapEff")
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .unwrap_or(0),
            same_user_namespace: false,
            groups: field("Groups")
                .map(|list| list.split_whitespace().filter_map(|g| g.parse().ok()).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether set-user-ID and set-group-ID bits survive what it does.
    pub fn has_fsetid(&self) -> bool {
        self.has(CAP_FSETID)
    }

    /// Whether `trusted.*` attributes are for it to see.
    pub fn has_sys_admin(&self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }

    fn has(&self, capability: u32) -> bool {
        self.same_user_namespace && self.capabilities >> capability & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let caller =
            ProcCaller::parse("Name:\tx\nGroups:\t4 24 1000 \nCapEff:\t0000000000200010\n");
        assert_eq!(caller.groups, [4, 24, 1000]);
        assert_eq!(caller.capabilities, 1 << CAP_FSETID | 1 << CAP_SYS_ADMIN);
        assert!(!caller.has_fsetid(), "not seen to be in the same namespace");
        let here = ProcCaller { same_user_namespace: true, ..caller };
        assert!(here.has_fsetid() && here.has_sys_admin());
    }

    #[test]
    fn whoever_has_gone_has_nothing() {
        assert_eq!(ProcCaller::read(u32::MAX), ProcCaller::default());
    }

    #[test]
    fn this_process_is_in_its_own_namespace() {
        assert!(ProcCaller::read(std::process::id()).same_user_namespace);
    }
}
