//! The options that only idshift has. `table` says how one is added.

use super::table::{Conflict, Kernel, Remount, Row, Who, set, word_for, written};
use super::values::{self, choice, needed};
use crate::config::{
    ActAs, Backend, CacheMode, GuardMode, IoMode, LockMode, Ownership, Sandbox, Transport,
};
use crate::shift::deny_groups::DenyGroups;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

const IO: &[(&str, IoMode)] = &[("passthrough", IoMode::Passthrough), ("cached", IoMode::Cached)];
const LOCKS: &[(&str, LockMode)] = &[("mount", LockMode::Mount), ("lower", LockMode::Lower)];
const ACT_AS: &[(&str, ActAs)] = &[
    ("auto", ActAs::Auto),
    ("server", ActAs::Server),
    ("caller", ActAs::Caller),
    ("owner", ActAs::Owner),
];
const BACKENDS: &[(&str, Backend)] =
    &[("fuse", Backend::Fuse), ("kernel", Backend::Kernel), ("auto", Backend::Auto)];
const SANDBOX: &[(&str, Sandbox)] = &[("on", Sandbox::On), ("off", Sandbox::Off)];
const TRANSPORTS: &[(&str, Transport)] = &[("dev", Transport::Dev), ("uring", Transport::Uring)];
const RESTART: &[(&str, bool)] = &[("off", false), ("on", true)];
const IDMAP: &[(&str, bool)] = &[("allow", false), ("deny", true)];
const CREATORS: &[(&str, Creators)] = &[("refuse", Creators::Refuse), ("squash", Creators::Squash)];
const FOREIGN_OWNERS: &[(&str, ForeignOwners)] =
    &[("refuse", ForeignOwners::Refuse), ("ignore", ForeignOwners::Ignore)];
const DENY_GROUPS: &[(&str, DenyGroups)] =
    &[("off", DenyGroups::Off), ("group", DenyGroups::Group), ("all", DenyGroups::All)];
const SET_ID: &[(&str, SetIdPolicy)] =
    &[("pass", SetIdPolicy::Pass), ("deny", SetIdPolicy::Deny), ("shadow", SetIdPolicy::Shadow)];

/// The rows.
pub const ROWS: &[Row] = &[
    Row {
        names: &["map"],
        form: "map=SPEC",
        text: "which stored ids are shown as which; may be given several times, and then adds up",
        read: |options, word, _| {
            options.maps.extend(values::specs(needed(word, "map=b:0:100000:65536")?));
            Ok(())
        },
        kernel: Kernel::Has,
        ..Row::OWN
    },
    Row {
        names: &["cache"],
        form: "cache=coherent | ttl:SECONDS | none | exclusive",
        text: "how long the kernel may remember names and attributes: until something changes in LOWER \
               (ext4, xfs, btrfs and tmpfs; there it is root's default), that long (else the default: \
               ttl:1), not at all, or for good, because nobody else changes LOWER",
        read: |options, word, _| {
            options.cache = values::cache(word)?;
            Ok(())
        },
        shown: |options| match options.cache {
            CacheMode::Auto => None,
            CacheMode::None => Some(written("cache", "none")),
            CacheMode::Coherent => Some(written("cache", "coherent")),
            CacheMode::Exclusive => Some(written("cache", "exclusive")),
            CacheMode::Ttl(time) => {
                Some(written("cache", format_args!("ttl:{}", time.as_secs_f64())))
            }
        },
        kernel: Kernel::HasNoServer(&["coherent"]),
        ..Row::OWN
    },
    Row {
        names: &["io"],
        form: "io=passthrough | cached",
        text: "contents are used by the kernel on the lower file, else through the server (default); or \
               they are kept in the mount's own cache, and opening a file that is known asks nobody",
        read: |options, word, _| {
            options.io = choice(word, IO)?;
            Ok(())
        },
        shown: |options| match options.io {
            IoMode::Passthrough => None,
            IoMode::Cached => Some(written("io", "cached")),
        },
        kernel: Kernel::HasNoServer(&["passthrough"]),
        conflicts: &[Conflict {
            options: ["io=cached", "locks=lower"],
            meet: |options| options.io == IoMode::Cached && options.locks == LockMode::Lower,
            why: "with io=cached nobody says which files are open, so no lock can be held on them below; \
                  leave one of them out",
        }],
        ..Row::OWN
    },
    Row {
        names: &["locks"],
        form: "locks=mount | lower",
        text: "locks are seen on this mount (default), or also by processes on LOWER",
        read: |options, word, _| {
            options.locks = choice(word, LOCKS)?;
            Ok(())
        },
        shown: |options| match options.locks {
            LockMode::Mount => None,
            LockMode::Lower => Some(written("locks", "lower")),
        },
        kernel: Kernel::HasOnly(&["lower"]),
        ..Row::OWN
    },
    Row {
        names: &["ownership"],
        form: "ownership=chown | xattr | xattr:LABEL",
        text: "owners and modes are stored in the files themselves (default), or in an attribute of files \
               that are all the server's: the one that container tools use, or one of its own for LABEL",
        read: |options, word, _| {
            options.ownership = values::ownership(word)?;
            Ok(())
        },
        shown: |options| match &options.ownership {
            Ownership::Chown => None,
            Ownership::Xattr { label: None } => Some(written("ownership", "xattr")),
            Ownership::Xattr { label: Some(label) } => {
                Some(written("ownership", format_args!("xattr:{label}")))
            }
        },
        kernel: Kernel::HasOnly(&["chown"]),
        conflicts: &[
            Conflict {
                options: ["unmapped=", "ownership=xattr"],
                meet: |options| {
                    options.ownership != Ownership::Chown
                        && !matches!(
                            options.policies.unmapped,
                            UnmappedOwners::Overflow | UnmappedOwners::Restrict
                        )
                },
                why: "only overflow and restrict go together with it; an owner outside the map can be \
                      given another one with chown, once the map holds both",
            },
            Conflict {
                options: ["suid=deny", "ownership=xattr"],
                meet: |options| {
                    options.ownership != Ownership::Chown
                        && options.policies.set_id == SetIdPolicy::Deny
                },
                why: "write 'nosuid' for a mount without such programs",
            },
            Conflict {
                options: ["suid=shadow", "ownership=xattr"],
                meet: |options| {
                    options.ownership != Ownership::Chown
                        && options.policies.set_id == SetIdPolicy::Shadow
                },
                why: "leave it out: the bits are kept in the attribute anyway, and never in the lower mode",
            },
        ],
        ..Row::OWN
    },
    Row {
        names: &["act_as"],
        form: "act_as=auto | server | caller | owner",
        text: "whose ids calls on LOWER have: the caller's where another host judges them and does not take \
               root for root (NFS with root_squash), and the server's elsewhere (default); the \
               server's; the caller's; or those of the stored owner of what is changed, for a mount that \
               the kernel idmaps",
        read: |options, word, _| {
            options.act_as = choice(word, ACT_AS)?;
            Ok(())
        },
        shown: |options| match options.act_as {
            ActAs::Auto => None,
            other => Some(written("act_as", word_for(ACT_AS, &other))),
        },
        who: Who::Root("nobody else may act as others"),
        kernel: Kernel::HasNoServer(&[]),
        conflicts: &[Conflict {
            options: ["act_as=", "ownership=xattr"],
            meet: |options| {
                options.ownership != Ownership::Chown
                    && !matches!(options.act_as, ActAs::Auto | ActAs::Server)
            },
            why: "with ownership=xattr all that is stored is the server's; leave one of them out",
        }],
        ..Row::OWN
    },
    Row {
        names: &["guard"],
        form: "guard=none | nosuid | noexec | hide",
        text: "how the rest of the host sees LOWER meanwhile: as ever (default), without set-user-ID \
               programs and devices, without programs, or not at all",
        read: |options, word, _| {
            options.guard = choice(word, GuardMode::NAMES)?;
            Ok(())
        },
        shown: |options| match options.guard {
            GuardMode::None => None,
            guard => Some(written("guard", guard.name())),
        },
        who: Who::Root("nobody else can cover the lower directory for everybody"),
        kernel: Kernel::HasOnly(&["none"]),
        ..Row::OWN
    },
    Row {
        names: &["unmapped"],
        form: "unmapped=overflow | restrict | owner:UID[:GID] | squash:UID[:GID] | deny",
        text: "files of owners outside the map: shown as 65534 and unchangeable (default); the same, with \
               the rights only that everyone has; shown as UID's but unchangeable; UID's; or listed by \
               name alone",
        read: |options, word, _| {
            options.policies.unmapped = values::unmapped(word)?;
            Ok(())
        },
        shown: |options| match options.policies.unmapped {
            UnmappedOwners::Overflow => None,
            UnmappedOwners::Restrict => Some(written("unmapped", "restrict")),
            UnmappedOwners::Deny => Some(written("unmapped", "deny")),
            UnmappedOwners::Owner(uid, gid) => {
                Some(written("unmapped", format_args!("owner:{uid}:{gid}")))
            }
            UnmappedOwners::Squash(uid, gid) => {
                Some(written("unmapped", format_args!("squash:{uid}:{gid}")))
            }
        },
        kernel: Kernel::HasOnly(&["overflow"]),
        ..Row::OWN
    },
    Row {
        names: &["owned-by"],
        form: "owned-by=USER[:GROUP]",
        text: "everything is shown as USER's, whoever it is stored as, and what anybody makes is stored as \
               LOWER's owner: nobody gets set-ID programs or devices, and changes of owner are ignored; \
               needs no map=",
        read: |options, word, _| {
            options.owned_by = Some(needed(word, "owned-by=1000:1000")?.to_owned());
            Ok(())
        },
        shown: |options| options.owned_by.as_ref().map(|who| written("owned-by", who)),
        ..Row::OWN
    },
    Row {
        names: &["creators"],
        form: "creators=refuse | squash",
        text: "callers outside the map make nothing (default), or what they make is as of the ids of \
               unmapped=squash",
        read: |options, word, _| {
            options.policies.creators = choice(word, CREATORS)?;
            Ok(())
        },
        shown: |options| match options.policies.creators {
            Creators::Refuse => None,
            Creators::Squash => Some(written("creators", "squash")),
        },
        kernel: Kernel::HasOnly(&["refuse"]),
        ..Row::OWN
    },
    Row {
        names: &["chown"],
        form: "chown=refuse | ignore",
        text: "giving a file to an id outside the map fails (default), or succeeds and changes nothing; \
               nobody can then set set-ID bits or file capabilities",
        read: |options, word, _| {
            options.policies.foreign_owners = choice(word, FOREIGN_OWNERS)?;
            Ok(())
        },
        shown: |options| match options.policies.foreign_owners {
            ForeignOwners::Refuse => None,
            ForeignOwners::Ignore => Some(written("chown", "ignore")),
        },
        conflicts: &[Conflict {
            options: ["chown=ignore", "suid=pass"],
            meet: |options| {
                let last = options.words.iter().rfind(|word| word.to_string().starts_with("suid="));
                options.policies.foreign_owners == ForeignOwners::Ignore
                    && last.is_some_and(|word| word.value.as_deref() == Some("pass"))
            },
            why: "a program whose change of owner was ignored must not become set-user-ID; owned-by= \
                  includes chown=ignore, and that includes suid=deny; leave suid= out",
        }],
        kernel: Kernel::HasOnly(&["refuse"]),
        ..Row::OWN
    },
    Row {
        names: &["deny_groups"],
        form: "deny_groups=off | group | all",
        text: "whoever is not in a file's group has at most the group's rights (all: and the owner's), so \
               that leaving a group gains nothing",
        read: |options, word, _| {
            options.policies.deny_groups = choice(word, DENY_GROUPS)?;
            Ok(())
        },
        shown: |options| match options.policies.deny_groups {
            DenyGroups::Off => None,
            policy => Some(written("deny_groups", word_for(DENY_GROUPS, &policy))),
        },
        kernel: Kernel::HasOnly(&["off"]),
        ..Row::OWN
    },
    Row {
        names: &["suid"],
        form: "suid=pass | deny | shadow",
        text: "set-ID bits and file capabilities that are set here: stored in the lower file (default), \
               refused, or kept beside its mode, so that only this mount honours them ('idshift shadow' \
               moves them)",
        read: |options, word, _| {
            options.policies.set_id = choice(word, SET_ID)?;
            Ok(())
        },
        shown: |options| match options.policies.set_id {
            SetIdPolicy::Pass => None,
            policy => Some(written("suid", word_for(SET_ID, &policy))),
        },
        kernel: Kernel::HasOnly(&["pass"]),
        ..Row::OWN
    },
    Row {
        names: &["sandbox"],
        form: "sandbox=on | off",
        text: "once the mount answers, the server gives up all files, rights and system calls that it \
               does not need (default), or keeps them",
        read: |options, word, _| {
            options.sandbox = choice(word, SANDBOX)?;
            Ok(())
        },
        shown: |options| match options.sandbox {
            Sandbox::On => None,
            Sandbox::Off => Some(written("sandbox", "off")),
        },
        kernel: Kernel::HasNoServer(&[]),
        ..Row::OWN
    },
    Row {
        names: &["submounts"],
        form: "submounts",
        text: "show what is mounted below LOWER too, each device as a mount of its own (unmount with 'idshift umount' or 'umount -R')",
        has_value: false,
        read: |options, _, _| {
            options.submounts = true;
            Ok(())
        },
        shown: |options| options.submounts.then(|| set("submounts")),
        kernel: Kernel::Has,
        ..Row::OWN
    },
    Row {
        names: &["backend"],
        form: "backend=fuse | kernel | auto",
        text: "serve through FUSE (default), make a kernel idmapped mount, or choose",
        read: |options, word, _| {
            options.backend = choice(word, BACKENDS)?;
            Ok(())
        },
        kernel: Kernel::Has,
        ..Row::OWN
    },
    Row {
        names: &["allow_other"],
        form: "allow_other",
        text: "others may enter (root's mounts have it always; for ordinary users root has to permit it in \
               /etc/fuse.conf)",
        has_value: false,
        read: |options, _, _| {
            options.allow_other = true;
            Ok(())
        },
        shown: |options| options.allow_other.then(|| set("allow_other")),
        kernel: Kernel::Has,
        ..Row::OWN
    },
    Row {
        names: &["fsname"],
        form: "fsname=NAME",
        text: "the source that /proc/mounts shows, instead of LOWER",
        read: |options, word, _| {
            options.fsname = Some(needed(word, "fsname=NAME")?.to_owned());
            Ok(())
        },
        ..Row::OWN
    },
    Row {
        names: &["X-mount.mkdir"],
        form: "X-mount.mkdir=MODE",
        text: "make MOUNTPOINT if it is not there, as mount(8) does; the mode is 0755 if left out",
        read: |options, word, _| {
            options.make_mountpoint = Some(values::mode(word)?);
            Ok(())
        },
        kernel: Kernel::Has,
        ..Row::OWN
    },
    Row {
        names: &["restart"],
        form: "restart=off | on",
        text: "should the server be killed the mount is dead (default), or a new server goes on, and open \
               files stay open (root alone)",
        read: |options, word, _| {
            options.restart = choice(word, RESTART)?;
            Ok(())
        },
        shown: |options| options.restart.then(|| written("restart", "on")),
        who: Who::Root("a new server finds files by handles, which others may not use"),
        kernel: Kernel::HasNoServer(&["off"]),
        ..Row::OWN
    },
    Row {
        names: &["idmap"],
        form: "idmap=allow | deny",
        text: "the mount can be idmapped once more, which is what ':idmap' of container tools asks for \
               (default, Linux 6.12), or cannot",
        read: |options, word, _| {
            options.no_idmap = values::idmap(word, IDMAP)?;
            Ok(())
        },
        shown: |options| options.no_idmap.then(|| written("idmap", "deny")),
        // An idmapped mount cannot be idmapped again.
        kernel: Kernel::HasOnly(&["deny"]),
        ..Row::OWN
    },
    Row {
        names: &["transport"],
        form: "transport=dev | uring",
        text: "requests are read from /dev/fuse (default), or come through io_uring, which has a queue and \
               a thread for each CPU (Linux 6.14, where fuse.enable_uring is on)",
        read: |options, word, _| {
            options.transport = choice(word, TRANSPORTS)?;
            Ok(())
        },
        shown: |options| match options.transport {
            Transport::Dev => None,
            Transport::Uring => Some(written("transport", "uring")),
        },
        kernel: Kernel::HasNoServer(&["dev"]),
        conflicts: &[
            Conflict {
                options: ["transport=uring", "restart=on"],
                meet: |options| options.transport == Transport::Uring && options.restart,
                why: "requests that a killed server has begun cannot be had again from io_uring; leave one \
                      of them out",
            },
            Conflict {
                options: ["transport=uring", "locks=lower"],
                meet: |options| {
                    options.transport == Transport::Uring && options.locks == LockMode::Lower
                },
                why: "who waits for a lock would keep a queue from going on; leave one of them out",
            },
            Conflict {
                options: ["transport=uring", "threads="],
                meet: |options| options.transport == Transport::Uring && options.threads.is_some(),
                why: "with io_uring each CPU that is used has a thread; leave one of them out",
            },
        ],
        ..Row::OWN
    },
    Row {
        names: &["threads"],
        form: "threads=N",
        text: "at most N worker threads, 1 to 256, also when all are stuck",
        read: |options, word, _| {
            options.threads = Some(values::threads(word)?);
            Ok(())
        },
        shown: |options| options.threads.map(|count| written("threads", count)),
        kernel: Kernel::HasNoServer(&[]),
        ..Row::OWN
    },
    Row {
        names: &["log"],
        form: "log=LEVEL",
        text: "off, error, warn, info (default), debug, trace; or set IDSHIFT_LOG",
        read: |options, word, _| {
            options.log = Some(values::log(word)?);
            Ok(())
        },
        shown: |options| options.log.as_ref().map(|level| written("log", level)),
        // What the command itself has to say.
        kernel: Kernel::Has,
        remount: Remount::Stays,
        ..Row::OWN
    },
];
