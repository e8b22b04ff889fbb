//! `deny_groups=`: whoever leaves a group gains nothing. Every mode and every kind of caller, through
//! the calls that the kernel judges by mode and ACL, against the formula.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::raw::try_exec;
use crate::common::runner::{needs_idshift, needs_program};
use crate::common::{
    self, ACL_ACCESS, Caller, Errno, GROUP, GROUP_OBJ, MAP, MASK, Mount, NO_ID, OFlags, OTHER,
    USER, USER_OBJ, acl, assert_errno, get_xattr, kernel, lo, mode, open, parse_acl, put_dir,
    put_file, set_mode, set_xattr,
};
use rustix::fs::{Access, access};

crate::common::tests!(
    every_mode_and_caller,
    acls_with_named_groups,
    leaving_a_group_gains_nothing,
    leaving_a_group_in_a_user_namespace,
    changing_the_mode_stores_what_was_asked,
    setting_an_acl_stores_what_was_asked,
    the_lower_file_is_untouched,
    tools_keep_what_they_see,
);

const OWNER: u32 = 1000;
const FILE_GROUP: u32 = 3000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    Off,
    Group,
    All,
}

const POLICIES: [Policy; 3] = [Policy::Off, Policy::Group, Policy::All];

impl Policy {
    fn options(self) -> String {
        let value = match self {
            Policy::Off => "off",
            Policy::Group => "group",
            Policy::All => "all",
        };
        format!("{MAP},deny_groups={value}")
    }

    /// For many questions about a tree that nobody changes.
    fn remembering(self) -> String {
        self.options() + ",cache=exclusive"
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Owner,
    Member,
    Supplementary,
    Stranger,
}

const EVERYONE: [Who; 4] = [Who::Owner, Who::Member, Who::Supplementary, Who::Stranger];

impl Who {
    fn caller(self) -> Caller {
        match self {
            Who::Owner => Caller::user(OWNER),
            Who::Member => Caller::user(1001).gid(FILE_GROUP),
            Who::Supplementary => Caller::user(1002).groups(&[17, FILE_GROUP]),
            Who::Stranger => Caller::user(1003),
        }
    }

    /// The rights of a file with this mode, as the specification has them.
    fn rights(self, policy: Policy, mode: u32) -> u32 {
        let other = match policy {
            Policy::Off => mode & 7,
            Policy::Group => (mode >> 3) & mode & 7,
            Policy::All => (mode >> 6) & (mode >> 3) & mode & 7,
        };
        match self {
            Who::Owner => mode >> 6 & 7,
            Who::Member | Who::Supplementary => mode >> 3 & 7,
            Who::Stranger => other,
        }
    }
}

const READ: u32 = 4;
const WRITE: u32 = 2;
const EXECUTE: u32 = 1;

/// Asserts that what succeeds is exactly what these rights allow.
fn judge(what: &str, path: &Path, allowed: bool, outcome: Result<(), Errno>) {
    let expected = if allowed { Ok(()) } else { Err(Errno::ACCESS) };
    assert_eq!(outcome, expected, "{what} {}", path.display());
}

fn check_access(path: &Path, rights: u32) {
    for (bit, right) in
        [(READ, Access::READ_OK), (WRITE, Access::WRITE_OK), (EXECUTE, Access::EXEC_OK)]
    {
        judge("access", path, rights & bit != 0, access(path, right));
    }
}

fn check_file(path: &Path, rights: u32) {
    check_access(path, rights);
    let opens = |flags| open(path, flags, 0).map(drop);
    judge("open for reading", path, rights & READ != 0, opens(OFlags::RDONLY));
    judge("open for writing", path, rights & WRITE != 0, opens(OFlags::WRONLY));
    let both = rights & (READ | WRITE) == READ | WRITE;
    judge("open for both", path, both, opens(OFlags::RDWR));
    let runs = match try_exec(path) {
        Errno::NOEXEC => Ok(()),
        other => Err(other),
    };
    judge("exec", path, rights & EXECUTE != 0, runs);
}

fn check_dir(path: &Path, rights: u32) {
    check_access(path, rights);
    let inside = path.join("inside");
    judge("search", path, rights & EXECUTE != 0, access(&inside, Access::EXISTS));
    let list = open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0).map(drop);
    judge("list", path, rights & READ != 0, list);
    let may_create = rights & (WRITE | EXECUTE) == WRITE | EXECUTE;
    let new = path.join("new");
    let made = open(&new, OFlags::WRONLY | OFlags::CREATE, 0o600).map(drop);
    judge("create in", path, may_create, made);
    if may_create {
        judge("remove from", path, true, rustix::fs::unlink(&new));
    }
}

fn every_mode_and_caller() {
    for policy in POLICIES {
        if policy != Policy::Off {
            needs_idshift();
        }
        let mount = Mount::with(&policy.remembering(), |lower| {
            for mode in 0..0o1000 {
                let file = lower.join(format!("f{mode:03o}"));
                put_file(&file, b"no program", mode, lo(OWNER), lo(FILE_GROUP));
                let dir = lower.join(format!("d{mode:03o}"));
                put_dir(&dir, 0o700, lo(OWNER), lo(FILE_GROUP));
                fs::write(dir.join("inside"), "").unwrap();
                set_mode(&dir, mode).unwrap();
            }
        });
        for who in EVERYONE {
            who.caller().run(|| {
                for mode in 0..0o1000 {
                    let rights = who.rights(policy, mode);
                    check_file(&mount.up(format!("f{mode:03o}")), rights);
                    check_dir(&mount.up(format!("d{mode:03o}")), rights);
                }
            });
        }
        for stored in 0..0o1000 {
            let shown = (stored & 0o770) | Who::Stranger.rights(policy, stored);
            assert_eq!(mode(&mount.up(format!("f{stored:03o}"))), shown, "{policy:?}");
        }
    }
}

/// An ACL in the model: rights as in a mode.
#[derive(Debug, Clone)]
struct Model {
    owner: u32,
    user: Option<u32>,
    group: u32,
    groups: Vec<u32>,
    mask: u32,
    other: u32,
}

const NAMED_USER: u32 = 1500;
const NAMED_GROUPS: [u32; 3] = [4001, 4002, 4003];

impl Model {
    /// One of many, chosen by a number.
    fn pick(number: u32) -> Self {
        let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state >> 33).unwrap() % below
        };
        Self {
            owner: next(8),
            user: (next(2) == 0).then(|| next(8)),
            group: next(8),
            groups: (0..next(4)).map(|_| next(8)).collect(),
            mask: next(8),
            other: next(8),
        }
    }

    fn value(&self) -> Vec<u8> {
        let right = |rights: u32| u16::try_from(rights).unwrap();
        let mut entries = vec![(USER_OBJ, right(self.owner), NO_ID)];
        entries.extend(self.user.map(|rights| (USER, right(rights), lo(NAMED_USER))));
        entries.push((GROUP_OBJ, right(self.group), NO_ID));
        for (rights, group) in self.groups.iter().zip(NAMED_GROUPS) {
            entries.push((GROUP, right(*rights), lo(group)));
        }
        entries.push((MASK, right(self.mask), NO_ID));
        entries.push((OTHER, right(self.other), NO_ID));
        acl(&entries)
    }

    /// Whether a caller gets all the wanted rights: acl(5), with the entry for others cut.
    fn grants(&self, policy: Policy, uid: u32, groups: &[u32], wanted: u32) -> bool {
        let has = |rights: u32| rights & wanted == wanted;
        let cut_by_groups =
            self.groups.iter().fold(self.group, |cut, rights| cut & rights) & self.mask;
        let cut_by_users = self.owner & self.user.map_or(7, |rights| rights & self.mask);
        let cut = match policy {
            Policy::Off => 7,
            Policy::Group => cut_by_groups,
            Policy::All => cut_by_groups & cut_by_users,
        };
        if uid == OWNER {
            return has(self.owner);
        }
        // Linux looks at an ACL only if its mask is not empty (`acl_permission_check`, fs/namei.c).
        if self.mask == 0 {
            return has(if groups.contains(&FILE_GROUP) { 0 } else { self.other & cut });
        }
        if let (NAMED_USER, Some(rights)) = (uid, self.user) {
            return has(rights & self.mask);
        }
        let own = groups.contains(&FILE_GROUP).then_some(self.group);
        let named = self.groups.iter().zip(NAMED_GROUPS);
        let named = named.filter(|(_, group)| groups.contains(group)).map(|(rights, _)| *rights);
        let matching: Vec<u32> = own.into_iter().chain(named).collect();
        if matching.is_empty() {
            return has(self.other & cut);
        }
        matching.iter().any(|rights| has(rights & self.mask))
    }
}

fn acls_with_named_groups() {
    const FILES: u32 = 400;
    let callers: [(u32, &[u32]); 8] = [
        (OWNER, &[]),
        (NAMED_USER, &[]),
        (NAMED_USER, &[FILE_GROUP, 4001]),
        (1600, &[]),
        (1600, &[FILE_GROUP]),
        (1600, &[4001]),
        (1600, &[4002, 4003]),
        (1600, &[FILE_GROUP, 4001, 4002, 4003]),
    ];
    for policy in POLICIES {
        if policy != Policy::Off {
            needs_idshift();
        }
        let mount = Mount::with(&policy.remembering(), |lower| {
            for number in 0..FILES {
                let file = lower.join(number.to_string());
                put_file(&file, b"no program", 0o600, lo(OWNER), lo(FILE_GROUP));
                set_xattr(&file, ACL_ACCESS, &Model::pick(number).value()).unwrap();
            }
        });
        for (uid, groups) in callers {
            Caller::user(uid).groups(groups).run(|| {
                for number in 0..FILES {
                    let model = Model::pick(number);
                    let rights = [READ, WRITE, EXECUTE]
                        .into_iter()
                        .filter(|right| model.grants(policy, uid, groups, *right))
                        .sum();
                    let path = mount.up(number.to_string());
                    check_access(&path, rights);
                    let opens = open(&path, OFlags::RDWR, 0).map(drop);
                    let both = model.grants(policy, uid, groups, READ | WRITE);
                    let context = format!("{policy:?} {model:?} {uid} {groups:?}: open");
                    judge(&context, &path, both, opens);
                }
            });
        }
    }
}

fn leaving_a_group_gains_nothing() {
    needs_idshift();
    let mount = Mount::with(&Policy::Group.options(), |lower| {
        put_file(&lower.join("plain"), b"secret", 0o604, lo(OWNER), lo(FILE_GROUP));
        let file = lower.join("with-acl");
        put_file(&file, b"secret", 0o600, lo(OWNER), lo(OWNER));
        let entries = [
            (USER_OBJ, 6, NO_ID),
            (GROUP_OBJ, 4, NO_ID),
            (GROUP, 0, lo(FILE_GROUP)),
            (MASK, 4, NO_ID),
            (OTHER, 4, NO_ID),
        ];
        set_xattr(&file, ACL_ACCESS, &acl(&entries)).unwrap();
        // A group that the map does not hold takes rights away all the same.
        let unmapped = lower.join("unmapped-group");
        put_file(&unmapped, b"secret", 0o600, lo(OWNER), lo(OWNER));
        let entries = entries.map(|(tag, rights, id)| {
            (tag, rights, if tag == GROUP { common::UNMAPPED } else { id })
        });
        set_xattr(&unmapped, ACL_ACCESS, &acl(&entries)).unwrap();
    });
    for name in ["plain", "with-acl", "unmapped-group"] {
        let file = mount.up(name);
        let read = || open(&file, OFlags::RDONLY, 0).map(drop);
        if name != "unmapped-group" {
            assert_errno!(Caller::user(1001).groups(&[FILE_GROUP]).run(read), Errno::ACCESS);
        }
        assert_errno!(Caller::user(1001).run(read), Errno::ACCESS);
        assert_eq!(Caller::user(OWNER).run(|| fs::read(&file).unwrap()), b"secret");
    }
}

/// A user who may call setgroups(2) in a namespace of his own leaves the group that keeps him out.
/// Without the policy that is a way in.
fn leaving_a_group_in_a_user_namespace() {
    needs_idshift();
    for (policy, reads) in [(Policy::Off, true), (Policy::Group, false), (Policy::All, false)] {
        let mount = Mount::with(&policy.options(), |lower| {
            put_file(&lower.join("file"), b"secret", 0o604, lo(OWNER), lo(FILE_GROUP));
        });
        let file = mount.up("file");
        let member = Caller::user(1001).gid(1001).groups(&[FILE_GROUP]);
        member.run(|| assert_errno!(open(&file, OFlags::RDONLY, 0), Errno::ACCESS));
        let (mut helper, _namespace) = kernel::user_namespace("0 1001 1\n", "0 1001 1\n1 3000 1\n");
        // nsenter --setgid leaves all supplementary groups, as root of that namespace may.
        let out = Command::new("nsenter")
            .arg(format!("--user=/proc/{}/ns/user", helper.id()))
            .args(["--setuid", "0", "--setgid", "0", "--", "sh", "-c", "id -G; exec cat \"$0\""])
            .arg(&file)
            .output()
            .unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(said.starts_with("0\n"), "in no other group: {said}");
        assert_eq!(said.ends_with("secret"), reads, "{policy:?}: {said}");
    }
}

fn changing_the_mode_stores_what_was_asked() {
    needs_idshift();
    needs_program("chmod");
    let mount = Mount::with(&Policy::Group.options(), |lower| {
        put_file(&lower.join("file"), b"", 0o604, lo(0), lo(FILE_GROUP));
    });
    let file = mount.up("file");
    assert_eq!(mode(&file), 0o600);
    // Who sees 0600 and asks for g+r wants 0640: the others' right is not brought back.
    let chmod = |what: &str| {
        assert!(Command::new("chmod").arg(what).arg(&file).status().unwrap().success());
    };
    chmod("g+r");
    assert_eq!((mode(&mount.low("file")), mode(&file)), (0o640, 0o640));
    chmod("604");
    assert_eq!((mode(&mount.low("file")), mode(&file)), (0o604, 0o600));
    chmod("g+r,o+r");
    assert_eq!((mode(&mount.low("file")), mode(&file)), (0o644, 0o644));
}

fn setting_an_acl_stores_what_was_asked() {
    needs_idshift();
    let mount = Mount::with(&Policy::Group.options(), |lower| {
        put_file(&lower.join("file"), b"", 0o600, lo(0), lo(0));
    });
    let (low, up) = (mount.low("file"), mount.up("file"));
    let entries = |id: u32, other: u16| {
        [
            (USER_OBJ, 6, NO_ID),
            (GROUP_OBJ, 4, NO_ID),
            (GROUP, 0, id),
            (MASK, 6, NO_ID),
            (OTHER, other, NO_ID),
        ]
    };
    set_xattr(&up, ACL_ACCESS, &acl(&entries(FILE_GROUP, 4))).unwrap();
    let shown = get_xattr(&up, ACL_ACCESS).unwrap();
    assert_eq!(parse_acl(&get_xattr(&low, ACL_ACCESS).unwrap()), entries(lo(FILE_GROUP), 4));
    assert_eq!(parse_acl(&shown), entries(FILE_GROUP, 0));
    // What is read and written back is what was seen.
    set_xattr(&up, ACL_ACCESS, &shown).unwrap();
    assert_eq!(parse_acl(&get_xattr(&low, ACL_ACCESS).unwrap()), entries(lo(FILE_GROUP), 0));
}

fn the_lower_file_is_untouched() {
    needs_idshift();
    let mount = Mount::with(&Policy::All.options(), |lower| {
        put_file(&lower.join("file"), b"old", 0o406, lo(OWNER), lo(FILE_GROUP));
    });
    let file = mount.up("file");
    assert_eq!(mode(&file), 0o400);
    fs::rename(&file, mount.up("renamed")).unwrap();
    fs::hard_link(mount.up("renamed"), &file).unwrap();
    fs::write(&file, "new").unwrap(); // by root
    assert_eq!((mode(&mount.low("file")), mode(&file)), (0o406, 0o400));
}

/// docs/semantics.md describes what these tools do; this is what it says.
fn tools_keep_what_they_see() {
    needs_idshift();
    for program in ["cp", "tar", "rsync", "install"] {
        needs_program(program);
    }
    let mount = Mount::with(&Policy::Group.options(), |lower| {
        put_file(&lower.join("file"), b"x", 0o604, lo(0), lo(0));
    });
    let script = "\
        cp -p file copied\n\
        mkdir tar rsync\n\
        tar c file | tar xp -C tar\n\
        rsync -a file rsync/\n\
        install -m 604 file installed\n\
        cp -p file \"$0\"\n";
    let outside = mount.beside().join("outside");
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", script]).arg(&outside).current_dir(mount.up(""));
    assert!(shell.status().unwrap().success());
    for (name, stored) in
        [("copied", 0o600), ("tar/file", 0o600), ("rsync/file", 0o600), ("installed", 0o604)]
    {
        assert_eq!(mode(&mount.low(name)), stored, "{name}");
        assert_eq!(mode(&mount.up(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&outside), 0o600, "a copy outside the mount gives nobody more");
    assert_eq!(mode(&mount.low("file")), 0o604);
}
