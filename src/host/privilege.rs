//! What this process may do, as far as making mounts goes.

use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

/// Who this process is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// `CAP_SYS_ADMIN` in the initial user namespace.
    Root,
    /// `CAP_SYS_ADMIN` in a user namespace of its own.
    NamespaceRoot,
    /// No `CAP_SYS_ADMIN`: mounts go through `fusermount3`.
    Ordinary,
}

impl Standing {
    /// What this process is.
    pub fn of_this_process() -> Self {
        let admin = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        match (admin, in_initial_namespace()) {
            (false, _) => Standing::Ordinary,
            (true, true) => Standing::Root,
            (true, false) => Standing::NamespaceRoot,
        }
    }

    /// Whether it makes mounts itself, without `fusermount3`.
    pub fn mounts_itself(self) -> bool {
        self != Standing::Ordinary
    }
}

/// Whether this is the initial user namespace, whose number is fixed (`PROC_USER_INIT_INO` in the
/// kernel's `include/linux/proc_ns.h`). A map of all ids is no proof: a child namespace may have it.
pub fn in_initial_namespace() -> bool {
    match std::fs::read_link("/proc/self/ns/user") {
        Ok(link) => link.as_os_str() == "user:[4026531837]",
        Err(_) => true,
    }
}

/// The path of `fusermount3` (or of fuse 2's `fusermount`), if one is in `PATH`.
pub fn fusermount() -> Option<PathBuf> {
    ["fusermount3", "fusermount"].into_iter().find_map(in_path)
}

/// The path of `program`, if it is in `PATH`.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Whether `/etc/fuse.conf` lets ordinary users give `allow_other` (fusermount3(1)).
pub fn user_allow_other() -> bool {
    allows_other(&std::fs::read_to_string(Path::new("/etc/fuse.conf")).unwrap_or_default())
}

fn allows_other(conf: &str) -> bool {
    conf.lines().any(|line| {
        line.split('#').next().is_some_and(|setting| setting.trim() == "user_allow_other")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_comment_in_fuse_conf_allows_nothing() {
        assert!(!allows_other("#user_allow_other\nmount_max = 5\n"));
        assert!(allows_other("mount_max = 5\n  user_allow_other # yes\n"));
    }
}
