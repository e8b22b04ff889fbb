//! The flags that the kernel keeps on a mount: one row for each, with its name in every interface that
//! makes or changes a mount. A new flag is a row here, a field of [`MountFlags`], and its words in
//! `options::generic`.

use rustix::mount::{MountAttrFlags as Attr, MountFlags as Ms};

use crate::config::MountFlags;

/// A flag.
pub(crate) struct Flag {
    /// The option that sets it.
    pub(crate) name: &'static str,
    /// The options that clear it.
    pub(crate) cleared_by: &'static [&'static str],
    field: fn(&mut MountFlags) -> &mut bool,
    /// For mount(2).
    pub(crate) ms: Ms,
    /// For fsmount(2) and mount_setattr(2); `None` where only the file system has the flag.
    pub(crate) attr: Option<Attr>,
    /// Whether the file system has it too: a key without a value, of the same name, for fsconfig(2).
    pub(crate) of_file_system: bool,
    /// Whether a remount changes it (`MS_RMT_MASK` of linux/fs.h, and all that are the mount's own).
    pub(crate) changes_at_remount: bool,
    /// What `fusermount3` does with it.
    pub(crate) helper: Helper,
}

/// What `fusermount3`, which mounts for ordinary users, does with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Helper {
    /// It takes the option.
    Takes,
    /// It always sets the flag.
    Always,
    /// Its mounts are so without being told.
    Usual,
    /// It does not know the flag: it is left out, and that is said.
    LeftOut,
    /// It does not know the flag, which protects: the mount is refused.
    Refused,
}

/// All flags.
pub(crate) const FLAGS: &[Flag] = &[
    Flag {
        name: "ro",
        cleared_by: &["rw"],
        field: |flags| &mut flags.read_only,
        ms: Ms::RDONLY,
        attr: Some(Attr::MOUNT_ATTR_RDONLY),
        of_file_system: true,
        changes_at_remount: true,
        helper: Helper::Takes,
    },
    Flag {
        name: "nosuid",
        cleared_by: &["suid"],
        field: |flags| &mut flags.nosuid,
        ms: Ms::NOSUID,
        attr: Some(Attr::MOUNT_ATTR_NOSUID),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Always,
    },
    Flag {
        name: "nodev",
        cleared_by: &["dev"],
        field: |flags| &mut flags.nodev,
        ms: Ms::NODEV,
        attr: Some(Attr::MOUNT_ATTR_NODEV),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Always,
    },
    Flag {
        name: "noexec",
        cleared_by: &["exec"],
        field: |flags| &mut flags.noexec,
        ms: Ms::NOEXEC,
        attr: Some(Attr::MOUNT_ATTR_NOEXEC),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Takes,
    },
    Flag {
        name: "nosymfollow",
        cleared_by: &["symfollow"],
        field: |flags| &mut flags.nosymfollow,
        ms: Ms::NOSYMFOLLOW,
        attr: Some(Attr::MOUNT_ATTR_NOSYMFOLLOW),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Refused,
    },
    // The kernel has one field for when access times move, with these three values, of which relatime is
    // the default.
    Flag {
        name: "noatime",
        cleared_by: &["atime", "relatime", "strictatime"],
        field: |flags| &mut flags.noatime,
        ms: Ms::NOATIME,
        attr: Some(Attr::MOUNT_ATTR_NOATIME),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Takes,
    },
    Flag {
        name: "strictatime",
        cleared_by: &["noatime", "relatime", "norelatime", "nostrictatime"],
        field: |flags| &mut flags.strictatime,
        ms: Ms::STRICTATIME,
        attr: Some(Attr::MOUNT_ATTR_STRICTATIME),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::LeftOut,
    },
    Flag {
        name: "relatime",
        cleared_by: &["noatime", "strictatime"],
        field: |flags| &mut flags.relatime,
        ms: Ms::RELATIME,
        attr: Some(Attr::MOUNT_ATTR_RELATIME),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::Usual,
    },
    Flag {
        name: "nodiratime",
        cleared_by: &["diratime"],
        field: |flags| &mut flags.nodiratime,
        ms: Ms::NODIRATIME,
        attr: Some(Attr::MOUNT_ATTR_NODIRATIME),
        of_file_system: false,
        changes_at_remount: true,
        helper: Helper::LeftOut,
    },
    Flag {
        name: "lazytime",
        cleared_by: &["nolazytime"],
        field: |flags| &mut flags.lazytime,
        ms: Ms::LAZYTIME,
        attr: None,
        of_file_system: true,
        changes_at_remount: true,
        helper: Helper::LeftOut,
    },
    Flag {
        name: "sync",
        cleared_by: &["async"],
        field: |flags| &mut flags.sync,
        ms: Ms::SYNCHRONOUS,
        attr: None,
        of_file_system: true,
        changes_at_remount: true,
        helper: Helper::Takes,
    },
    Flag {
        name: "dirsync",
        cleared_by: &[],
        field: |flags| &mut flags.dirsync,
        ms: Ms::DIRSYNC,
        attr: None,
        of_file_system: true,
        changes_at_remount: false,
        helper: Helper::Takes,
    },
];

impl Flag {
    /// Whether it is set.
    pub(crate) fn is_set(&self, mut flags: MountFlags) -> bool {
        *(self.field)(&mut flags)
    }

    /// Whether it is a value of the kernel's field for when access times move.
    pub(crate) fn is_of_times(&self) -> bool {
        matches!(self.name, "noatime" | "strictatime" | "relatime")
    }

    /// What an option does to it: `Some(true)` sets it, `Some(false)` clears it.
    pub(crate) fn told_by(&self, option: &str) -> Option<bool> {
        if option == self.name {
            Some(true)
        } else {
            self.cleared_by.contains(&option).then_some(false)
        }
    }
}

/// Sets and clears what an option says. `false` if it says nothing of any flag.
pub(crate) fn apply(flags: &mut MountFlags, option: &str) -> bool {
    let mut known = false;
    for flag in FLAGS {
        if let Some(on) = flag.told_by(option) {
            *(flag.field)(flags) = on;
            known = true;
        }
    }
    known
}

/// The rows of the flags that are set.
pub(crate) fn set(flags: MountFlags) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(move |flag| flag.is_set(flags))
}

/// The flags for mount(2).
pub(crate) fn for_mount(flags: MountFlags) -> Ms {
    set(flags).fold(Ms::empty(), |all, flag| all | flag.ms)
}

/// The attributes for fsmount(2).
pub(crate) fn attributes(flags: MountFlags) -> Attr {
    set(flags).filter_map(|flag| flag.attr).fold(Attr::empty(), |all, attr| all | attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_set_by_its_name_alone_and_cleared_by_its_opposites() {
        for flag in FLAGS {
            let mut flags = MountFlags::default();
            assert!(apply(&mut flags, flag.name));
            assert_eq!(set(flags).map(|set| set.name).collect::<Vec<_>>(), [flag.name]);
            for opposite in flag.cleared_by {
                let mut flags = flags;
                assert!(apply(&mut flags, opposite));
                assert!(!flag.is_set(flags), "{opposite} leaves {}", flag.name);
            }
        }
        assert!(!apply(&mut MountFlags::default(), "map"));
    }
}
