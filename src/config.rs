//! What the options of a mount choose between.

use std::time::Duration;

use crate::shift::deny_groups::DenyGroups;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

/// Protections beyond what the kernel's idmapped mount offers; the default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policies {
    /// What is shown of files of owners outside the map (`unmapped=`).
    pub unmapped: UnmappedOwners,
    /// Whether being in a group may take rights away (`deny_groups=`).
    pub deny_groups: DenyGroups,
    /// What becomes of set-ID bits that are set through the mount (`suid=`).
    pub set_id: SetIdPolicy,
    /// What callers outside the map make (`creators=`).
    pub creators: Creators,
    /// What a change of owner to an id outside the map does (`chown=`).
    pub foreign_owners: ForeignOwners,
    /// Whether nobody makes devices (`owned-by=`).
    pub no_devices: bool,
}

impl Policies {
    /// Whether opening a file for writing is nothing special.
    pub fn is_default_for_writing(&self) -> bool {
        self.set_id == SetIdPolicy::Pass && self.unmapped.stand_in().is_none()
    }

    /// Whether what is reported of a file may differ from what is stored, ids apart.
    pub fn change_reports(&self) -> bool {
        self.unmapped != UnmappedOwners::Overflow
            || self.deny_groups != DenyGroups::Off
            || self.set_id == SetIdPolicy::Shadow
    }
}

/// Generic mount options that the kernel keeps on the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is one kernel flag of that name
pub struct MountFlags {
    /// No writes through this mount.
    pub read_only: bool,
    /// Set-user-ID bits and file capabilities are ignored.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Access times are not updated.
    pub noatime: bool,
    /// Access times of directories are not updated.
    pub nodiratime: bool,
    /// Access times are always updated.
    pub strictatime: bool,
    /// Access times are updated when the file has changed since, as asked for by name.
    pub relatime: bool,
    /// Every write is synchronous.
    pub sync: bool,
    /// Every directory change is synchronous.
    pub dirsync: bool,
    /// Changed times stay in memory until they have to be written.
    pub lazytime: bool,
    /// Symbolic links are not followed (Linux 5.10).
    pub nosymfollow: bool,
}

/// What makes the mount (`backend=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// A FUSE mount that this program serves.
    #[default]
    Fuse,
    /// The kernel's own idmapped mount: no server, but only where the lower file system can do it.
    Kernel,
    /// The kernel's where lower file system, kernel and options allow, else FUSE.
    Auto,
}

/// How long what the kernel remembers may differ from the lower tree (`cache=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// [`CacheMode::Coherent`] where that is possible, else [`CacheMode::Ttl`] of [`DEFAULT_TTL`].
    #[default]
    Auto,
    /// Nothing is remembered: each call asks the lower tree.
    None,
    /// Remembered for this long; a change made directly below shows after that time.
    Ttl(Duration),
    /// Remembered for long, and forgotten when something changes below.
    Coherent,
    /// Nobody else changes the lower tree: remembered until the kernel forgets.
    Exclusive,
}

/// What FUSE file systems commonly use.
pub const DEFAULT_TTL: Duration = Duration::from_secs(1);

/// How the contents of files are read and written (`io=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// By the kernel itself on the lower file (Linux 6.9, and root's rights); else by the server,
    /// which is asked for each opening. Every call has the lower file's result.
    #[default]
    Passthrough,
    /// In the mount's own page cache, without asking the server who opens what: opening, reading
    /// and closing a known file costs no message.
    Cached,
}

/// Where advisory locks are kept (`locks=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// In the kernel, for this mount only: fast, and unseen by processes on the lower side.
    #[default]
    Mount,
    /// On the lower files, shared with processes on the lower side.
    Lower,
}

/// Whose ids the server's calls have (`act_as=`), those that make a file apart: these have their
/// creator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActAs {
    /// The caller's where another host or program judges them, else the server's.
    #[default]
    Auto,
    /// The server's.
    Server,
    /// The caller's.
    Caller,
    /// Those of the stored owner of what is changed.
    Owner,
}

/// Whether the server gives up what it does not need, once the mount is there (`sandbox=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// It does, as far as kernel and rights allow.
    #[default]
    On,
    /// It keeps everything.
    Off,
}

/// What requests come through (`transport=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// They are read from `/dev/fuse`.
    #[default]
    Dev,
    /// io_uring, a queue for each CPU (Linux 6.14).
    Uring,
}

/// What covers the lower path while it is shown shifted (`guard=`), from weak to strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum GuardMode {
    /// Nothing.
    #[default]
    None,
    /// The directory itself, with nosuid and nodev.
    Nosuid,
    /// The same, with noexec too.
    Noexec,
    /// An empty, read-only directory.
    Hide,
}

impl GuardMode {
    /// All of them, with the words for them.
    pub const NAMES: &[(&str, Self)] = &[
        ("none", Self::None),
        ("nosuid", Self::Nosuid),
        ("noexec", Self::Noexec),
        ("hide", Self::Hide),
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("none", |(name, _)| name)
    }

    /// The mode that a word means.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(word, _)| *word == name).map(|(_, mode)| *mode)
    }
}

/// Where the owner and the mode of a file are kept (`ownership=`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ownership {
    /// In the lower inode.
    #[default]
    Chown,
    /// In an extended attribute of the lower file, which stays the server's.
    Xattr {
        /// The attribute is `user.idshift.LABEL`; without a label, the one that container storage
        /// tools use.
        label: Option<String>,
    },
}
