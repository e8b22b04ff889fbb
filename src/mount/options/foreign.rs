//! Options of other programs, which people will paste: what to write here instead. None of them is
//! taken without an effect; what needs no option here is in the table of options, as a row that says so.

use super::split::Word;

/// Options of another program, and the advice for each.
struct Program {
    /// Whose options they are.
    name: &'static str,
    /// Names that mean the same, and what to write instead.
    options: &'static [(&'static [&'static str], &'static str)],
}

const OWNED_BY: &str = "write owned-by=USER[:GROUP]: LOWER's owner and everybody else is shown as USER, and what is made is \
     stored as LOWER's owner; for single ids, map=u:STORED:SHOWN:1";
const CHOWN_IGNORE: &str = "write chown=ignore (owned-by= includes it): changes to ids outside the map succeed and change nothing";
const CHOWN_NORMAL: &str = "leave it out: owners inside the map are changed as ever";
const MODES: &str = "modes are shown and stored as they are; leave it out, and cut what is shown by \
                     deny_groups=, unmapped=restrict, or the mount's own ro, noexec and nosuid";
const XATTR: &str = "extended attributes are shown and stored as LOWER has them; leave it out";
const ALWAYS: &str = "it is always so here; leave it out";
const NO_LIMIT: &str = "there is no such limit here; limit the server's control group";
const LOCKS: &str = "write locks=lower for locks that processes on LOWER see too, or leave it out";
const SIZES: &str =
    "sizes are agreed on with the kernel, up to 1 MiB for one request; leave it out";
const SPLICE: &str =
    "the kernel reads and writes LOWER itself where it can (io=passthrough); leave it out";
const OVERLAY: &str = "idshift shows one directory; make an overlay (mount -t overlay) with a mount of \
                       idshift as its lower layer, as contrib/overlayfs does, and leave it out here";

const PROGRAMS: &[Program] = &[
    Program {
        name: "mount(8)",
        options: &[
            (
                &["X-mount.subdir", "x-mount.subdir"],
                "give that directory itself: 'idshift mount … LOWER/DIR MOUNTPOINT'",
            ),
            (
                &["X-mount.owner", "X-mount.group", "X-mount.mode"],
                "the root of the mount has the owner and the mode of LOWER: change LOWER, or what is \
                 shown of its owner by map= or owned-by=",
            ),
            (
                &["X-mount.auto-fstypes", "X-mount.noloop", "X-mount.nocanonicalize"],
                "it means something to mount(8) alone; leave it out",
            ),
        ],
    },
    Program {
        name: "bindfs",
        options: &[
            (&["force-user", "force-group", "owner", "group", "user"], OWNED_BY),
            (
                &["mirror", "mirror-only"],
                "views that differ by who looks are not offered: everybody sees the same owners. \
                 Make one mount for each user, with owned-by=USER",
            ),
            (&["uid-offset", "gid-offset"], "write map=offset:N (map=u:0:N:65536 for users alone)"),
            (
                &["map-passwd", "map-passwd-rev", "map-group", "map-group-rev"],
                "write the ids as map=b:STORED:SHOWN:COUNT, or one user by name as \
                 map=name:u:STORED=SHOWN; map=file:PATH reads lines of ids",
            ),
            (
                &["create-for-user", "create-for-group"],
                "write owned-by=USER[:GROUP], or map=u:STORED:SHOWN:1 with unmapped=squash:SHOWN and \
                 creators=squash: what others make is then stored as STORED",
            ),
            (&["create-as-user"], "new files are their creator's, through the map; leave it out"),
            (&["create-as-mounter"], "write owned-by=USER, or ownership=xattr"),
            (
                &["create-with-perms"],
                "the creator's umask and LOWER's default ACLs (setfacl -d) decide; leave it out",
            ),
            (&["chown-normal", "chgrp-normal"], CHOWN_NORMAL),
            (&["chown-ignore", "chgrp-ignore"], CHOWN_IGNORE),
            (
                &["chown-deny", "chgrp-deny"],
                "who may change owners is decided as everywhere, and ids outside the map are always \
                 refused; leave it out",
            ),
            (
                &[
                    "chmod-normal",
                    "chmod-ignore",
                    "chmod-deny",
                    "chmod-filter",
                    "chmod-allow-x",
                    "perms",
                    "p",
                ],
                MODES,
            ),
            (&["xattr-none", "xattr-ro", "xattr-rw"], XATTR),
            (
                &["delete-deny", "rename-deny"],
                "names are protected by the modes of their directories, or by ro; leave it out",
            ),
            (
                &["resolve-symlinks", "resolved-symlink-deletion"],
                "symbolic links are shown as they are; mount what they lead to",
            ),
            (&["realistic-permissions"], ALWAYS),
            (&["read-rate", "write-rate"], NO_LIMIT),
            (&["ctime-from-mtime"], "times are LOWER's own; leave it out"),
            (&["enable-lock-forwarding", "disable-lock-forwarding"], LOCKS),
            (
                &["enable-ioctl"],
                "the ioctls of lsattr and chattr work always, others never; leave it out",
            ),
            (&["block-devices-as-files"], "devices stay devices; use a loop device below"),
            (&["hide-hard-links"], "links are counted as LOWER does; leave it out"),
            (&["multithreaded"], "it always is; threads=N says with how many workers at most"),
            (&["no-allow-other"], "an ordinary user's mount is that user's alone; leave it out"),
            (
                &["direct-io", "no-direct-io", "forward-odirect"],
                "O_DIRECT reaches LOWER where the kernel passes it through; leave it out",
            ),
        ],
    },
    Program {
        name: "fuse-overlayfs",
        options: &[
            (&["lowerdir", "upperdir", "workdir", "volatile", "redirect_dir"], OVERLAY),
            (
                &["uidmapping", "gidmapping"],
                "its three numbers are shown, stored, count: write them as \
                 map=u:STORED:SHOWN:COUNT, and g: for groups",
            ),
            (
                &["squash_to_uid", "squash_to_gid", "squash_to_root"],
                "write owned-by=USER[:GROUP] (owned-by=0 for root)",
            ),
            (&["static_nlink"], "links are counted as LOWER does; leave it out"),
            (&["noacl"], "ACLs are shifted and hold; leave it out"),
            (&["noxattrs"], XATTR),
            (&["xattr_permissions"], "write ownership=xattr, which reads and writes that format"),
            (
                &["plugins", "fast_ino_check", "fsync"],
                "there is nothing like it here; leave it out",
            ),
            (&["timeout"], "write cache=ttl:SECONDS"),
            (&["threaded"], "it always is; threads=N says with how many workers at most"),
            (&["mountopt"], "write those options themselves, separated by commas"),
        ],
    },
    Program {
        name: "virtiofsd",
        options: &[
            (&["source", "shared_dir", "shared-dir"], "give the directory as LOWER"),
            (
                &["translate-uid", "translate-gid", "uid-map", "gid-map"],
                "write map=u:STORED:SHOWN:COUNT, and g: for groups",
            ),
            (&["xattr", "no_xattr", "xattrmap"], XATTR),
            (
                &["posix_acl", "no_posix_acl", "security_label"],
                "ACLs are shifted and hold; leave it out",
            ),
            (&["posix_lock", "no_posix_lock", "flock", "no_flock"], LOCKS),
            (
                &["writeback", "no_writeback", "allow_direct_io", "no_allow_direct_io"],
                "write io=cached,cache=exclusive for gathered writes, where nobody else changes LOWER",
            ),
            (
                &["announce_submounts", "announce-submounts"],
                "write submounts, to show what is mounted below LOWER",
            ),
            (
                &["modcaps", "inode-file-handles", "inode_file_handles", "rlimit-nofile"],
                "the server keeps what it needs and no more (sandbox=on); leave it out",
            ),
            (&["readdirplus", "no_readdirplus", "killpriv_v2", "no_killpriv_v2"], ALWAYS),
            (&["thread-pool-size", "thread_pool_size"], "write threads=N"),
            (
                &["socket-path", "socket", "fd"],
                "idshift mounts on this host; for a guest, give virtiofsd a mount of idshift",
            ),
        ],
    },
    Program {
        name: "shiftfs",
        options: &[
            (
                &["mark"],
                "there are two mounts there and one here: write map=userns:PID, or map=b:STORED:SHOWN:COUNT; \
                 guard=hide or guard=nosuid is what marking is for",
            ),
            (
                &["passthrough"],
                "ioctls of lsattr and chattr work always, and contents are passed through by io=passthrough \
                 (default); leave it out",
            ),
        ],
    },
    Program {
        name: "libfuse",
        options: &[
            (
                &["attr_timeout", "entry_timeout", "negative_timeout", "ac_attr_timeout"],
                "write cache=ttl:SECONDS, which is for all of them, or cache=coherent",
            ),
            (
                &["kernel_cache"],
                "write cache=exclusive where nobody else changes LOWER, or cache=coherent; both keep contents \
                 while they are true",
            ),
            (
                &["auto_cache", "noauto_cache", "remember", "noforget"],
                "what is remembered is said by cache=; leave it out",
            ),
            (&["direct_io"], "contents are LOWER's own by io=passthrough (default); leave it out"),
            (&["hard_remove"], ALWAYS),
            (
                &[
                    "max_read",
                    "max_write",
                    "max_readahead",
                    "max_background",
                    "congestion_threshold",
                    "blksize",
                ],
                SIZES,
            ),
            (&["sync_read", "async_dio"], "reads go in parallel; leave it out"),
            (
                &["atomic_o_trunc"],
                "truncation is a request of its own, as the kernel checks it; leave it out",
            ),
            (
                &["writeback_cache"],
                "write io=cached,cache=exclusive, where nobody else changes LOWER",
            ),
            (&["umask"], MODES),
            (
                &["intr", "intr_signal", "nointr"],
                "callers that wait can always be killed; leave it out",
            ),
            (
                &["modules", "subdir", "iconv", "from_code", "to_code"],
                "there are no modules; give the directory itself as LOWER",
            ),
            (
                &[
                    "splice_read",
                    "splice_write",
                    "splice_move",
                    "no_splice_read",
                    "no_splice_write",
                    "no_splice_move",
                    "large_read",
                ],
                SPLICE,
            ),
            (&["clone_fd", "max_threads", "max_idle_threads"], "write threads=N"),
            (&["no_remote_lock", "no_remote_flock", "no_remote_posix_lock"], LOCKS),
            (&["blkdev"], "LOWER is a directory; mount the device first"),
            (&["debug"], "write log=debug, or log=trace for each request"),
        ],
    },
];

/// What to say of an option of another program; `None` if it is nobody's.
pub fn advice(word: &Word) -> Option<String> {
    if let Some(value) = idmap_of_mount(word) {
        return Some(format!(
            "it is for mount(8). Write map={value} (the numbers have the same order), or let mount(8) \
             put a second map on top of idshift's: mount -t fuse.idshift -o map=…,X-mount.idmap={value}"
        ));
    }
    let programs = PROGRAMS.iter().filter_map(|program| {
        let (_, advice) =
            program.options.iter().find(|(names, _)| names.contains(&word.name.as_str()))?;
        Some(format!("it is an option of {}: {advice}", program.name))
    });
    programs.reduce(|one, other| format!("{one}; or {other}"))
}

fn idmap_of_mount(word: &Word) -> Option<&str> {
    let is_it = word.name.eq_ignore_ascii_case("x-mount.idmap");
    is_it.then(|| word.value.as_deref().unwrap_or("SPEC"))
}

/// All names that [`advice`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS
        .iter()
        .flat_map(|program| program.options)
        .flat_map(|(names, _)| *names)
        .copied()
        .chain(["X-mount.idmap"])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::super::{Options, Origin, table};
    use super::*;
    use crate::config::MountFlags;

    fn error(text: &str) -> String {
        let parsed = Options::parse(&[text], Origin::Command, MountFlags::default());
        parsed.map(|_| panic!("{text} is accepted")).unwrap_err().to_string()
    }

    /// With a value and without: some of these names are options here too, of the other form.
    #[test]
    fn each_name_is_answered_with_advice() {
        let mut tried = 0;
        for name in names() {
            for text in [name.to_owned(), format!("{name}=5")] {
                let known = table::rows()
                    .any(|row| row.names.contains(&name) && row.has_value == text.contains('='));
                if known {
                    continue;
                }
                tried += 1;
                let message = error(&text);
                assert!(message.contains(&format!("'{text}'")), "{message}");
                let advises = ["it is an option of", "it is for mount(8)"];
                assert!(advises.iter().any(|word| message.contains(word)), "{message}");
            }
        }
        assert!(tried > 250, "{tried}");
    }

    #[test]
    fn no_name_stands_twice_in_one_program() {
        for program in PROGRAMS {
            let mut names: Vec<_> = program.options.iter().flat_map(|(names, _)| *names).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{}", program.name);
        }
    }

    /// What the advice says to write can be written.
    #[test]
    fn advice_names_options_that_are_there() {
        for (text, part) in [
            ("force-user=www-data", "owned-by=USER"),
            ("owner=ann", "owned-by=USER"),
            ("mirror=ann", "not offered"),
            ("create-for-user=ann", "creators=squash"),
            ("chgrp-ignore", "chown=ignore"),
            ("uidmapping=0:10:100", "map=u:"),
            ("squash_to_root", "owned-by=0"),
            ("translate-uid=map:0:1:2", "map=u:"),
            ("mark", "map=userns:"),
            ("attr_timeout=5", "cache=ttl:SECONDS"),
            ("max_read=131072", "1 MiB"),
            ("kernel_cache", "cache=exclusive"),
            ("X-mount.idmap=b:0:100000:65536", "map=b:0:100000:65536"),
            ("x-mount.idmap=u:1:2:3", "map=u:1:2:3"),
            ("map=identity,X-mount.idmap=u:1:2:3", "map=u:1:2:3"),
            ("X-mount.subdir=a/b", "LOWER/DIR"),
            ("X-mount.owner=ann", "owned-by="),
            ("X-mount.frobnicate", "X-mount.frobnicate"),
            ("idmap=uids=0-1000-1", "podman run"),
            ("cache=always", "exclusive"),
        ] {
            assert!(error(text).contains(part), "{}", error(text));
        }
    }

    #[test]
    fn what_mount_carries_out_itself_is_left_to_it() {
        for text in ["X-mount.idmap=b:0:1:2", "X-mount.subdir=a", "X-mount.mkdir=0700"] {
            Options::parse(&[text], Origin::MountProgram, MountFlags::default()).unwrap();
        }
        let options =
            |text| Options::parse(&[text], Origin::Command, MountFlags::default()).unwrap();
        assert_eq!(options("X-mount.mkdir").make_mountpoint, Some(0o755));
        assert_eq!(options("X-mount.mkdir=0700").make_mountpoint, Some(0o700));
        assert!(error("X-mount.mkdir=rwx").contains("octal"));
    }
}
