//! What `idshift explain` says, against what the calls do.

use std::fs;
use std::path::Path;

use crate::common::program::{Called, idshift};
use crate::common::{
    self, AtFlags, CWD, Caller, Errno, Mount, NO_ID, OFlags, UNMAPPED, chown, lo, open, put_dir,
    put_file, set_mode, set_xattr,
};
use rustix::fs::{Access, accessat};

crate::common::tests!(
    verdicts_are_what_the_calls_return,
    under_deny_groups,
    under_unmapped_owner,
    under_unmapped_restrict,
    under_unmapped_deny,
    read_only_and_noexec,
    words_name_map_acl_and_policy,
    mistakes_are_named,
    only_root_and_the_servers_user_may_ask,
);

/// Name, mode, owner and group as the map shows them (or [`UNMAPPED`]), and whether it has an ACL.
type Spec = (&'static str, u32, u32, u32, bool);

const FILES: &[Spec] = &[
    ("open", 0o777, 0, 0, false),
    ("open/f644", 0o644, 1000, 1000, false),
    ("open/f604", 0o604, 1000, 1001, false),
    ("open/f060", 0o060, 1000, 1001, false),
    ("open/f755", 0o755, 0, 0, false),
    ("open/f000", 0o000, 0, 0, false),
    ("open/nobodys", 0o666, UNMAPPED, 1000, false),
    ("open/nogroups", 0o667, 1000, UNMAPPED, false),
    ("open/shut", 0o600, UNMAPPED, UNMAPPED, false),
    ("open/acl", 0o664, 1000, 1000, true),
    ("open/unmappedacl", 0o674, 1000, UNMAPPED, true),
    ("sticky", 0o1777, 0, 0, false),
    ("sticky/f666", 0o666, 1000, 1000, false),
    ("closed", 0o700, 1000, 1000, false),
    ("closed/f666", 0o666, 1001, 1001, false),
    ("narrow", 0o755, 1000, 1001, false),
    ("narrow/f666", 0o666, 1001, 1001, false),
    ("group", 0o705, 1000, 1001, false),
    ("group/f666", 0o666, 1001, 1001, false),
    ("unmapped", 0o777, UNMAPPED, UNMAPPED, false),
    ("unmapped/f666", 0o666, 1000, 1000, false),
];

fn callers() -> Vec<(&'static str, Caller)> {
    vec![
        ("0:0", Caller::user(0)),
        ("1000:1000", Caller::user(1000)),
        ("1001:1001", Caller::user(1001)),
        ("1002:1002,1001", Caller::user(1002).groups(&[1001])),
        ("1003:1000", Caller::user(1003).gid(1000)),
        ("45000:45000", Caller::user(UNMAPPED)),
    ]
}

fn put(lower: &Path, (name, mode, uid, gid, acl): Spec) {
    let path = lower.join(name);
    let id = |id| if id == UNMAPPED { id } else { lo(id) };
    if name.contains('/') {
        put_file(&path, b"#!/bin/true\n", mode, id(uid), id(gid));
    } else {
        put_dir(&path, mode, id(uid), id(gid));
    }
    if acl {
        let entries = [
            (common::USER_OBJ, 6, NO_ID),
            (common::USER, 7, lo(1002)),
            (common::GROUP_OBJ, 4, NO_ID),
            (common::GROUP, 2, lo(1001)),
            (common::MASK, 6, NO_ID),
            (common::OTHER, 4, NO_ID),
        ];
        set_xattr(&path, common::ACL_ACCESS, &common::acl(&entries)).unwrap();
    }
    // put_file and put_dir have a umask to get by, and setting an ACL changes the mode.
    if !acl {
        set_mode(&path, mode).unwrap();
    }
}

fn mounted(options: &str) -> Mount {
    let mount = Mount::with(&format!("{},cache=none{options}", common::MAP), |lower| {
        for spec in FILES {
            put(lower, *spec);
        }
    });
    mount.server_pid();
    mount
}

fn explain(arguments: &[&str], path: &Path) -> Called {
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"explain"];
    all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>));
    all.push(&path);
    idshift(&all)
}

/// What it says of one thing: `yes` or an errno.
fn verdict(text: &str, want: &str) -> String {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(want));
    let line = line.unwrap_or_else(|| panic!("nothing about {want} in\n{text}"));
    line[want.len()..].trim_start().split(':').next().unwrap().to_owned()
}

/// What the call itself comes to, in the same words. What it has changed is put back.
fn reality(mount: &Mount, spec: Spec, want: &str, caller: &Caller) -> String {
    let (path, below) = (mount.up(spec.0), mount.low(spec.0));
    let directory = !spec.0.contains('/');
    let access = |mode| accessat(CWD, &path, mode, AtFlags::empty());
    let result = caller.run(|| match want {
        "r" => open(&path, OFlags::RDONLY, 0).map(drop),
        "w" if directory => access(Access::WRITE_OK),
        "w" => open(&path, OFlags::WRONLY, 0).map(drop),
        "x" => access(Access::EXEC_OK),
        "create" => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            open(&path.join("new"), flags, 0o600).map(drop)
        }
        "delete" => rustix::fs::unlink(&path),
        "chmod" => set_mode(&path, spec.1),
        "chown" => chown(&path, Some(2000), None),
        other => panic!("no such want: {other}"),
    });
    if result.is_ok() {
        match want {
            "create" => fs::remove_file(below.join("new")).unwrap(),
            "delete" => put(&mount.low(""), spec),
            "chown" | "chmod" => {
                if !directory {
                    fs::remove_file(&below).unwrap();
                }
                put_back(mount, spec, directory);
            }
            _ => {}
        }
    }
    match result {
        Ok(()) => "yes".to_owned(),
        Err(errno) => name(errno).to_owned(),
    }
}

fn put_back(mount: &Mount, spec: Spec, directory: bool) {
    if directory {
        let id = |id| if id == UNMAPPED { id } else { lo(id) };
        chown(&mount.low(spec.0), Some(id(spec.2)), Some(id(spec.3))).unwrap();
        set_mode(&mount.low(spec.0), spec.1).unwrap();
    } else {
        put(&mount.low(""), spec);
    }
}

fn name(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "EACCES",
        Errno::PERM => "EPERM",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::ROFS => "EROFS",
        other => panic!("unexpected: {other}"),
    }
}

fn compare(mount: &Mount, few: bool) {
    let few = few || !common::machine().real_root;
    let mut differences = Vec::new();
    let mut count = 0;
    for (number, spec) in FILES.iter().enumerate() {
        let directory = !spec.0.contains('/');
        for (user, caller) in callers() {
            // Each file meets a third of the callers, if few will do.
            if few && (number + user.len()) % 3 != 0 && user != "1001:1001" {
                continue;
            }
            let called = explain(&["--user", user], &mount.up(spec.0));
            assert_eq!(called.code, 0, "{}", called.err);
            let wants = ["r", "w", "x", "chmod", "chown"];
            let more = if directory { "create" } else { "delete" };
            for want in wants.into_iter().chain([more]) {
                let (says, does) =
                    (verdict(&called.out, want), reality(mount, *spec, want, &caller));
                count += 1;
                if says != does {
                    differences.push(format!(
                        "{} {want} by {user}: says {says}, does {does}\n{}",
                        spec.0, called.out
                    ));
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {count}:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(count > 100);
}

fn verdicts_are_what_the_calls_return() {
    compare(&mounted(""), false);
}

fn under_deny_groups() {
    compare(&mounted(",deny_groups=group"), true);
    compare(&mounted(",deny_groups=all"), true);
}

fn under_unmapped_owner() {
    compare(&mounted(",unmapped=owner:1001:1001"), true);
    compare(&mounted(",unmapped=squash:1001:1001"), true);
}

fn under_unmapped_restrict() {
    compare(&mounted(",unmapped=restrict"), true);
}

fn under_unmapped_deny() {
    compare(&mounted(",unmapped=deny"), true);
}

fn read_only_and_noexec() {
    compare(&mounted(",ro"), true);
    compare(&mounted(",noexec"), true);
}

fn words_name_map_acl_and_policy() {
    let mount = mounted(",deny_groups=group");
    let says = |user: &str, want: &str, path: &str| {
        explain(&["--user", user, "--want", want], &mount.up(path))
    };
    let called = says("1003:1003", "r", "open/f604");
    assert_eq!(called.code, 32, "{}", called.err);
    let wanted = [
        "stored  a file of 21000:21001, mode 0604",
        "shown   of 1000:1001, mode 0600",
        "map     uid 21000 ⇒ 1000, by lower 20000–39999 ⇒ 0–19999",
        "policy  deny_groups=group: it changes what is shown here",
        "EACCES: as everybody else only ---; the stored mode 0604 has it, deny_groups=group takes",
    ];
    for line in wanted {
        assert!(called.out.contains(line), "{line}\n{}", called.out);
    }
    let lower = format!("lower   {}", mount.low("open/f604").display());
    assert!(called.out.contains(&lower), "{lower}\n{}", called.out);
    let called = says("1000:1000", "r", "open/acl");
    assert_eq!(called.code, 0);
    assert!(called.out.contains("ACL     stored u::rw-,u:21002:rwx,g::r--"), "{}", called.out);
    assert!(called.out.contains("u:1002:"), "{}", called.out);
    let called = says("1001:1001", "w", "closed/f666");
    assert!(called.out.contains("may not walk through 'closed'"), "{}", called.out);
    let called = says("45000:45000", "create", "open/not-there-yet");
    assert_eq!(called.code, 32);
    assert!(called.out.contains("EOVERFLOW: the user or the primary group"), "{}", called.out);
    let called = says("0:0", "delete", "open/nobodys");
    assert!(called.out.contains("uid 45000 is in no extent: unmapped"), "{}", called.out);
    assert!(called.out.contains("EOVERFLOW: owner or group are outside the map"), "{}", called.out);
    assert_eq!(says("1000:1000", "r", "open/none").code, 32);
}

fn mistakes_are_named() {
    let mount = mounted("");
    let wrong = |arguments: &[&str], path: &Path, part: &str, code: i32| {
        let called = explain(arguments, path);
        assert_eq!(called.code, code, "{}", called.err);
        assert!(called.err.contains(part), "{}", called.err);
    };
    wrong(&["--want", "read"], &mount.up("open"), "r, w, x", 1);
    wrong(&["--user", "nobody-of-that-name"], &mount.up("open"), "give a number", 1);
    wrong(&[], &mount.low("open"), "in no idshift mount", 32);
    wrong(&[], &mount.up("no/such/path"), "No such file", 32);
}

fn only_root_and_the_servers_user_may_ask() {
    let mount = mounted("");
    let called = Caller::user(1000).run(|| explain(&[], &mount.up("open/f644")));
    assert_eq!(called.code, 32);
    assert!(called.err.contains("only root and the user"), "{}", called.err);
}
