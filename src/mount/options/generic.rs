//! The options of every mount, and those that other programs give. `table` says how one is added; what a flag
//! is called elsewhere is in `mount::flags`.

use super::table::{Kernel, Remount, Row};
use super::values::{bad, needed};
use super::{Origin, SUBTYPE};
use crate::config::MountFlags;

/// The rows.
pub const ROWS: &[Row] = &[
    Row {
        names: &["ro", "rw"],
        form: "ro, rw",
        text: "read-only, or not (default)",
        ..Row::GENERIC
    },
    Row {
        names: &["nosuid", "suid"],
        form: "nosuid, suid",
        text: "set-user-ID programs and file capabilities have no effect in the mount, or have it",
        ..Row::GENERIC
    },
    Row {
        names: &["nodev", "dev"],
        form: "nodev, dev",
        text: "device nodes do not open in the mount, or do",
        ..Row::GENERIC
    },
    Row {
        names: &["noexec", "exec"],
        form: "noexec, exec",
        text: "programs do not start from the mount, or do",
        ..Row::GENERIC
    },
    Row {
        names: &[
            "noatime",
            "atime",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "nodiratime",
            "diratime",
            "lazytime",
            "nolazytime",
        ],
        form: "noatime, relatime, strictatime, nodiratime, lazytime",
        text: "when reading moves a file's access time, as in mount(8)",
        ..Row::GENERIC
    },
    Row {
        names: &["nosymfollow", "symfollow"],
        form: "nosymfollow, symfollow",
        text: "symbolic links are not followed, or are",
        ..Row::GENERIC
    },
    Row {
        names: &["sync", "async", "dirsync"],
        form: "sync, dirsync",
        text: "changes wait until they are on disk",
        ..Row::GENERIC
    },
    Row {
        names: &["remount"],
        form: "remount",
        text: "change the flags of a mount that is there; idshift's own options stay as they were",
        read: |options, _, _| {
            options.remount = true;
            Ok(())
        },
        ..Row::GENERIC
    },
    Row {
        names: &["user", "users", "owner", "group"],
        form: "user, users, owner, group",
        text: "in /etc/fstab: who may mount; implies nosuid and nodev, and the first two noexec",
        read: |options, word, origin| {
            // mount(8) has expanded them already.
            if origin == Origin::Command {
                let flags = &mut options.flags;
                (flags.nosuid, flags.nodev) = (true, true);
                flags.noexec |= matches!(&*word.name, "user" | "users");
            }
            Ok(())
        },
        ..Row::GENERIC
    },
    Row {
        names: &["defaults"],
        form: "defaults",
        text: "without the flags that were given before it",
        read: |options, _, origin| {
            if origin == Origin::Command {
                options.flags = MountFlags::default();
            }
            Ok(())
        },
        ..Row::GENERIC
    },
    Row {
        names: &[
            "auto", "noauto", "nofail", "_netdev", "_rnetdev", "comment", "nouser", "nousers",
            "noowner", "nogroup",
        ],
        form: "noauto, nofail, _netdev, nouser, x-…, X-…, comment=…",
        text: "for /etc/fstab and its readers, as in mount(8) and systemd.mount(5)",
        read: |_, _, _| Ok(()),
        remount: Remount::Nothing,
        ..Row::GENERIC
    },
    Row {
        names: &[
            "default_permissions",
            "use_ino",
            "readdir_ino",
            "nonempty",
            "big_writes",
            "async_read",
            "silent",
            "loud",
            "iversion",
            "noiversion",
            "nomand",
        ],
        form: "default_permissions, use_ino, nonempty, big_writes, silent, iversion, …",
        text: "accepted for compatibility with other programs; no effect",
        read: |_, _, _| Ok(()),
        remount: Remount::Nothing,
        ..Row::GENERIC
    },
    Row {
        names: &["subtype"],
        form: "subtype=idshift",
        text: "the same",
        has_value: true,
        read: |_, word, _| match needed(word, "subtype=idshift")? {
            SUBTYPE => Ok(()),
            _ => Err(bad(word, "the type of this mount is always 'fuse.idshift'")),
        },
        kernel: Kernel::HasOnly(&[]),
        remount: Remount::Nothing,
        ..Row::GENERIC
    },
];
