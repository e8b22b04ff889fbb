//! All options of a mount in words. `idshift mount --help`, the man pages and the list of names that a
//! slip of the finger is compared with are made from these tables; `options::tests` checks that the
//! parser takes each of them.

/// An option, or a few that belong together, as a person would type it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// The names, without values.
    pub names: &'static [&'static str],
    /// How it is written: `cache=coherent | ttl:SECONDS | none | exclusive`. Words in capitals stand for
    /// something else.
    pub form: &'static str,
    /// What it does.
    pub text: &'static str,
}

/// A way to write a map, as a person would type it.
#[derive(Debug, Clone, Copy)]
pub struct MapForm {
    /// How it is written; words in capitals stand for something else.
    pub form: &'static str,
    /// What it means.
    pub text: &'static str,
}

/// The names of all options.
pub fn names() -> impl Iterator<Item = &'static str> {
    OWN.iter().chain(GENERIC).flat_map(|option| option.names).copied()
}

const fn own(names: &'static [&'static str], form: &'static str, text: &'static str) -> Described {
    Described { names, form, text }
}

const fn map(form: &'static str, text: &'static str) -> MapForm {
    MapForm { form, text }
}

/// The ways to write a map.
pub const MAPS: &[MapForm] = &[
    map(
        "b:STORED:SHOWN:COUNT",
        "stored ids from STORED on are shown from SHOWN on, users and groups",
    ),
    map("u:STORED:SHOWN:COUNT", "the same for users alone"),
    map("g:STORED:SHOWN:COUNT", "the same for groups alone"),
    map("offset:N[:COUNT]", "b:0:N:COUNT; COUNT is 65536 if left out"),
    map("identity", "ids as they are"),
    map("file:PATH", "lines 'u|g|b STORED SHOWN COUNT' from a file"),
    map(
        "userns:PID, userns:/PATH",
        "the map of a user namespace, named by a process or by its file: its ids are stored, this \
         side's are shown",
    ),
    map(
        "subuid:NAME[:COUNT]",
        "the user NAME is shown as root, and NAME's ranges of /etc/subuid and /etc/subgid as \
         1, 2, 3, …; COUNT ids in all",
    ),
    map("name:u:STORED=SHOWN", "one user by name; name:g: for a group, name:b: for both"),
];

/// The options that only idshift has.
pub const OWN: &[Described] = &[
    own(
        &["map"],
        "map=SPEC",
        "which stored ids are shown as which; may be given several times, and then adds up",
    ),
    own(
        &["cache"],
        "cache=coherent | ttl:SECONDS | none | exclusive",
        "how long the kernel may remember names and attributes: until something changes in LOWER \
         (ext4, xfs, btrfs and tmpfs; there it is root's default), that long (else the default: \
         ttl:1), not at all, or for good, because nobody else changes LOWER",
    ),
    own(
        &["io"],
        "io=passthrough | cached",
        "contents are used by the kernel on the lower file, else through the server (default); or \
         they are kept in the mount's own cache, and opening a file that is known asks nobody",
    ),
    own(
        &["locks"],
        "locks=mount | lower",
        "locks are seen on this mount (default), or also by processes on LOWER",
    ),
    own(
        &["ownership"],
        "ownership=chown | xattr | xattr:LABEL",
        "owners and modes are stored in the files themselves (default), or in an attribute of files \
         that are all the server's: the one that container tools use, or one of its own for LABEL",
    ),
    own(
        &["guard"],
        "guard=none | nosuid | noexec | hide",
        "how the rest of the host sees LOWER meanwhile: as ever (default), without set-user-ID \
         programs and devices, without programs, or not at all",
    ),
    own(
        &["unmapped"],
        "unmapped=overflow | restrict | owner:UID[:GID] | squash:UID[:GID] | deny",
        "files of owners outside the map: shown as 65534 and unchangeable (default); the same, with \
         the rights only that everyone has; shown as UID's but unchangeable; UID's; or listed by \
         name alone",
    ),
    own(
        &["owned-by"],
        "owned-by=USER[:GROUP]",
        "everything is shown as USER's, whoever it is stored as, and what anybody makes is stored as \
         LOWER's owner: nobody gets set-ID programs or devices, and changes of owner are ignored; \
         needs no map=",
    ),
    own(
        &["creators"],
        "creators=refuse | squash",
        "callers outside the map make nothing (default), or what they make is as of the ids of \
         unmapped=squash",
    ),
    own(
        &["chown"],
        "chown=refuse | ignore",
        "giving a file to an id outside the map fails (default), or succeeds and changes nothing; \
         nobody can then set set-ID bits or file capabilities",
    ),
    own(
        &["deny_groups"],
        "deny_groups=off | group | all",
        "whoever is not in a file's group has at most the group's rights (all: and the owner's), so \
         that leaving a group gains nothing",
    ),
    own(
        &["suid"],
        "suid=pass | deny | shadow",
        "set-ID bits and file capabilities that are set here: stored in the lower file (default), \
         refused, or kept beside its mode, so that only this mount honours them ('idshift shadow' \
         moves them)",
    ),
    own(
        &["sandbox"],
        "sandbox=on | off",
        "once the mount answers, the server gives up all files, rights and system calls that it \
         does not need (default), or keeps them",
    ),
    own(&["submounts"], "submounts", "show what is mounted below LOWER too"),
    own(
        &["backend"],
        "backend=fuse | kernel | auto",
        "serve through FUSE (default), make a kernel idmapped mount, or choose",
    ),
    own(
        &["allow_other"],
        "allow_other",
        "others may enter (root's mounts have it always; for ordinary users root has to permit it in \
         /etc/fuse.conf)",
    ),
    own(&["fsname"], "fsname=NAME", "the source that /proc/mounts shows, instead of LOWER"),
    own(
        &["restart"],
        "restart=off | on",
        "should the server be killed the mount is dead (default), or a new server goes on, and open \
         files stay open (root alone)",
    ),
    own(
        &["idmap"],
        "idmap=allow | deny",
        "the mount can be idmapped once more, which is what ':idmap' of container tools asks for \
         (default, Linux 6.12), or cannot",
    ),
    own(&["threads"], "threads=N", "worker threads, 1 to 256"),
    own(
        &["log"],
        "log=LEVEL",
        "off, error, warn, info (default), debug, trace; or set IDSHIFT_LOG",
    ),
];

/// The options of every mount.
pub const GENERIC: &[Described] = &[
    own(&["ro", "rw"], "ro, rw", "read-only, or not (default)"),
    own(
        &["nosuid", "suid"],
        "nosuid, suid",
        "set-user-ID programs and file capabilities have no effect in the mount, or have it",
    ),
    own(&["nodev", "dev"], "nodev, dev", "device nodes do not open in the mount, or do"),
    own(&["noexec", "exec"], "noexec, exec", "programs do not start from the mount, or do"),
    own(
        &[
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
        "noatime, relatime, strictatime, nodiratime, lazytime",
        "when reading moves a file's access time, as in mount(8)",
    ),
    own(
        &["nosymfollow", "symfollow"],
        "nosymfollow, symfollow",
        "symbolic links are not followed, or are",
    ),
    own(&["sync", "async", "dirsync"], "sync, dirsync", "changes wait until they are on disk"),
    own(
        &["remount"],
        "remount",
        "change the flags of a mount that is there; idshift's own options stay as they were",
    ),
    own(
        &["user", "users", "owner", "group", "nouser", "nousers", "noowner", "nogroup"],
        "user, users, owner, group",
        "in /etc/fstab: who may mount; implies nosuid and nodev, and the first two noexec",
    ),
    own(
        &["auto", "noauto", "nofail", "_netdev", "_rnetdev", "comment", "defaults"],
        "noauto, nofail, _netdev, defaults, x-…, X-…, comment=…",
        "for /etc/fstab and its readers, as in mount(8) and systemd.mount(5)",
    ),
    own(
        &["default_permissions", "subtype", "silent", "loud", "iversion", "noiversion", "nomand"],
        "default_permissions, subtype=idshift, silent, loud, iversion, nomand",
        "taken, because other programs give them, and change nothing here",
    ),
];

/// What has to be known about writing options, one sentence each.
pub const NOTES: &[&str] = &[
    "A mount made by an ordinary user always has nosuid and nodev.",
    "Options are separated by commas. A comma inside a value is written '\\,', a blank '\\040'.",
    "Where two options contradict each other, the later one counts.",
];
