//! `unmapped=`: what is shown of files whose owner or group is outside the map, and who may do what
//! with them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::program::idshift;
use crate::common::raw::{mknod, try_exec};
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{
    self, ACL_ACCESS, Caller, Errno, GROUP_OBJ, MAP, MASK, Mount, NO_ID, OFlags, OTHER, UNMAPPED,
    USER, USER_OBJ, acl, assert_errno, chown, get_xattr, list_xattr, lo, mode, open, owner,
    parse_acl, put_dir, put_file, set_mode, set_xattr, stat,
};
use rustix::fs::{Access, AtFlags, CWD, access, linkat, makedev, rename, unlink};

crate::common::tests!(
    restrict_leaves_what_everyone_has,
    restrict_and_acls,
    restrict_with_deny_groups,
    owner_is_shown_and_may_change_nothing,
    owner_of_a_directory_may_change_nothing_in_it,
    owner_runs_nothing_as_himself,
    squash_owns_what_nobody_else_does,
    squash_leaves_no_set_id_program_of_others,
    deny_shows_names_alone,
    deny_refuses_before_anything_is_done,
    devices_stay_nobodys,
    squash_gives_set_id_programs_of_others_no_more_names,
    auto_takes_fuse,
    mistakes_are_named,
);

/// Who stands in for the unmapped.
const UID: u32 = 1000;
const GID: u32 = 1001;

/// Three files: with an unmapped owner, an unmapped group, and both.
const FILES: [(&str, u32, u32); 3] = [
    ("owner", UNMAPPED, 20_000 + GID),
    ("group", 20_000 + UID, UNMAPPED),
    ("both", UNMAPPED, UNMAPPED),
];

fn mount(value: &str, fill: impl FnOnce(&Path)) -> Mount {
    needs_idshift();
    Mount::with(&format!("{MAP},unmapped={value}"), fill)
}

fn three_files(lower: &Path, mode: u32) {
    for (name, uid, gid) in FILES {
        put_file(&lower.join(name), b"content", mode, uid, gid);
    }
}

fn restrict_leaves_what_everyone_has() {
    let mount = mount("restrict", |lower| {
        for mode in 0..0o1000 {
            let file = lower.join(format!("{mode:03o}"));
            put_file(&file, b"no program", mode, UNMAPPED, lo(GID));
        }
        put_file(&lower.join("mapped"), b"", 0o640, lo(UID), lo(GID));
    });
    let common = |mode: u32| (mode >> 6) & (mode >> 3) & mode & 7;
    for stored in 0..0o1000 {
        let file = mount.up(format!("{stored:03o}"));
        assert_eq!(mode(&file), common(stored) * 0o111);
        assert_eq!(owner(&file), (65_534, GID));
    }
    for caller in [Caller::user(UID), Caller::user(7).gid(GID), Caller::user(65_534)] {
        caller.run(|| {
            for mode in 0..0o1000 {
                let file = mount.up(format!("{mode:03o}"));
                let has = |right: u32| common(mode) & right != 0;
                assert_eq!(open(&file, OFlags::RDONLY, 0).is_ok(), has(4), "{mode:03o}");
                assert_eq!(access(&file, Access::READ_OK).is_ok(), has(4), "{mode:03o}");
                // As without the policy, nobody writes to a file of an unmapped owner.
                assert_errno!(open(&file, OFlags::WRONLY, 0), Errno::ACCESS);
                assert_eq!(try_exec(&file) == Errno::NOEXEC, has(1), "{mode:03o}");
            }
        });
    }
    assert_eq!(mode(&mount.up("mapped")), 0o640, "what is mapped is shown as it is");
}

fn restrict_and_acls() {
    let mount = mount("restrict", |lower| {
        let file = lower.join("file");
        put_file(&file, b"", 0o600, UNMAPPED, lo(GID));
        let entries = [
            (USER_OBJ, 7, NO_ID),
            (USER, 5, lo(UID)),
            (GROUP_OBJ, 7, NO_ID),
            (MASK, 6, NO_ID),
            (OTHER, 5, NO_ID),
        ];
        set_xattr(&file, ACL_ACCESS, &acl(&entries)).unwrap();
    });
    let shown = parse_acl(&get_xattr(&mount.up("file"), ACL_ACCESS).unwrap());
    // Execution is masked for the named user, so nobody has it; writing is not for others.
    assert!(shown.iter().all(|(_, rights, _)| *rights == 4), "{shown:?}");
    for caller in [Caller::user(UID), Caller::user(7).gid(GID), Caller::user(8)] {
        caller.run(|| {
            access(mount.up("file"), Access::READ_OK).unwrap();
            assert_errno!(access(mount.up("file"), Access::EXEC_OK), Errno::ACCESS);
        });
    }
}

fn restrict_with_deny_groups() {
    needs_idshift();
    let mount = Mount::with(&format!("{MAP},unmapped=restrict,deny_groups=all"), |lower| {
        put_file(&lower.join("mapped"), b"", 0o604, lo(UID), lo(GID));
        put_file(&lower.join("unmapped"), b"", 0o704, UNMAPPED, lo(GID));
    });
    assert_eq!(mode(&mount.up("mapped")), 0o600);
    assert_eq!(mode(&mount.up("unmapped")), 0);
}

/// Every change of a file, and the errno that it is refused with.
fn assert_unchangeable(file: &Path, beside: &Path, refused: Errno) {
    let chmod = rustix::fs::chmod(file, rustix::fs::Mode::from_raw_mode(0o777));
    assert_eq!(chmod, Err(refused), "chmod");
    assert_eq!(chown(file, Some(UID), Some(GID)), Err(refused), "chown");
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    let times = rustix::fs::utimensat(CWD, file, &times, AtFlags::empty());
    assert_eq!(times, Err(refused), "utimes");
    assert_errno!(open(file, OFlags::WRONLY, 0), Errno::ACCESS);
    assert_errno!(open(file, OFlags::RDONLY | OFlags::TRUNC, 0), Errno::ACCESS);
    assert!(common::raw::truncate(file, 0).is_err(), "truncate");
    assert_errno!(linkat(CWD, file, CWD, beside, AtFlags::empty()), Errno::OVERFLOW);
    assert_errno!(rename(file, beside), Errno::OVERFLOW);
    assert_errno!(unlink(file), Errno::OVERFLOW);
    let refused = set_xattr(file, "user.x", b"y");
    assert!(matches!(refused, Err(Errno::PERM | Errno::ACCESS)), "{refused:?}");
}

fn owner_is_shown_and_may_change_nothing() {
    for io in ["passthrough", "cached"] {
        check_owner(&format!("owner:{UID}:{GID},io={io}"));
    }
}

fn check_owner(value: &str) {
    let mount = mount(value, |lower| three_files(lower, 0o666));
    let whole = |name: &str| {
        let stat = stat(&mount.low(name));
        (stat.st_uid, stat.st_gid, stat.st_mode, stat.st_size, stat.st_mtime)
    };
    let before = FILES.map(|(name, ..)| whole(name));
    for (name, ..) in FILES {
        let file = mount.up(name);
        assert_eq!(owner(&file), (UID, GID), "{name}");
        assert_eq!(mode(&file), 0o444, "{name}: nobody may write");
        for caller in [Caller::user(UID).gid(GID), Caller::user(0)] {
            caller.run(|| {
                assert_eq!(fs::read(&file).unwrap(), b"content");
                assert_unchangeable(&file, &mount.up("beside"), Errno::OVERFLOW);
            });
        }
        let stranger = || assert_errno!(open(&file, OFlags::WRONLY, 0), Errno::ACCESS);
        Caller::user(7).run(stranger);
    }
    assert_eq!(FILES.map(|(name, ..)| whole(name)), before);
    // Who stands in is somebody of his own as well.
    Caller::user(UID).gid(GID).run(|| fs::write(mount.up("own"), "x").unwrap());
    assert_eq!(owner(&mount.low("own")), (lo(UID), lo(GID)));
}

fn owner_of_a_directory_may_change_nothing_in_it() {
    let mount = mount(&format!("owner:{UID}:{GID}"), |lower| {
        put_dir(&lower.join("dir"), 0o777, UNMAPPED, UNMAPPED);
        put_file(&lower.join("dir/file"), b"", 0o666, lo(UID), lo(GID));
        put_file(&lower.join("file"), b"", 0o666, lo(UID), lo(GID));
    });
    let (dir, inside) = (mount.up("dir"), mount.up("dir/file"));
    for caller in [Caller::user(UID).gid(GID), Caller::user(0)] {
        caller.run(|| {
            assert_errno!(common::create(&dir.join("new"), 0o600), Errno::ACCESS);
            assert_errno!(common::mkdir(&dir.join("new"), 0o700), Errno::ACCESS);
            assert!(std::os::unix::fs::symlink("x", dir.join("new")).is_err());
            assert_errno!(unlink(&inside), Errno::ACCESS);
            assert_errno!(rename(&inside, mount.up("moved")), Errno::ACCESS);
            assert_errno!(rename(mount.up("file"), dir.join("moved")), Errno::ACCESS);
            let link = linkat(CWD, mount.up("file"), CWD, dir.join("link"), AtFlags::empty());
            assert_errno!(link, Errno::ACCESS);
            assert_errno!(open(&dir, OFlags::TMPFILE | OFlags::RDWR, 0o600), Errno::ACCESS);
            // The file in it is his own.
            fs::write(&inside, "x").unwrap();
        });
    }
    assert_eq!(fs::read_dir(mount.low("dir")).unwrap().count(), 1);
}

/// A copy of `id` that belongs to an unmapped owner and is set-user-ID.
fn put_program(lower: &Path) -> PathBuf {
    let program = lower.join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    chown(&program, Some(UNMAPPED), Some(UNMAPPED)).unwrap();
    set_mode(&program, 0o6755).unwrap();
    program
}

/// The effective uid and gid with which the program runs.
fn effective(program: &Path) -> (String, String) {
    let run = |what: &str| {
        let out = std::process::Command::new(program).arg(what).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    (run("-u"), run("-g"))
}

fn owner_runs_nothing_as_himself() {
    for policy in ["owner", "squash"] {
        let mount = mount(&format!("{policy}:{UID}:{GID}"), |lower| {
            put_program(lower);
        });
        assert_eq!(mode(&mount.up("id")) & 0o6000, 0);
        let ran = Caller::user(7).run(|| effective(&mount.up("id")));
        assert_eq!(ran, ("7".into(), "7".into()), "{policy}");
    }
}

fn squash_owns_what_nobody_else_does() {
    let mount = mount(&format!("squash:{UID}:{GID}"), |lower| {
        three_files(lower, 0o600);
        put_dir(&lower.join("dir"), 0o700, UNMAPPED, UNMAPPED);
        put_file(&lower.join("dir/file"), b"content", 0o600, UNMAPPED, UNMAPPED);
        put_file(&lower.join("strangers"), b"", 0o600, lo(7), lo(7));
    });
    Caller::user(UID).gid(GID).run(|| {
        for (name, ..) in FILES {
            let file = mount.up(name);
            assert_eq!(owner(&file), (UID, GID));
            assert_eq!(fs::read(&file).unwrap(), b"content");
            fs::write(&file, "changed").unwrap();
            set_mode(&file, 0o640).unwrap();
            set_xattr(&file, "user.x", b"y").unwrap();
        }
        let dir = mount.up("dir");
        fs::write(dir.join("new"), "x").unwrap();
        fs::remove_file(dir.join("file")).unwrap();
        fs::rename(mount.up("both"), dir.join("moved")).unwrap();
        assert_errno!(open(&mount.up("strangers"), OFlags::RDONLY, 0), Errno::ACCESS);
    });
    // What was there keeps its owner; what is new is stored as the one id.
    assert_eq!(owner(&mount.low("owner")), (UNMAPPED, lo(GID)));
    assert_eq!(owner(&mount.low("dir/moved")), (UNMAPPED, UNMAPPED));
    assert_eq!(owner(&mount.low("dir/new")), (lo(UID), lo(GID)));
    assert_eq!(mode(&mount.low("owner")), 0o640);
    assert_eq!(fs::read(mount.low("group")).unwrap(), b"changed");
    // Nobody else gains, and an unmapped caller still creates nothing.
    Caller::user(7).run(|| {
        assert_errno!(open(&mount.up("owner"), OFlags::RDONLY, 0), Errno::ACCESS);
    });
    Caller::user(UNMAPPED).run(|| {
        assert_errno!(common::create(&mount.up("new"), 0o600), Errno::OVERFLOW);
    });
    // Root gives such a file to somebody, and then it is his.
    chown(&mount.up("owner"), Some(7), Some(7)).unwrap();
    assert_eq!(owner(&mount.low("owner")), (lo(7), lo(7)));
}

fn squash_leaves_no_set_id_program_of_others() {
    for io in ["passthrough", "cached", "cached,cache=exclusive"] {
        check_squash(&format!("squash:{UID}:{GID},io={io}"));
    }
}

fn check_squash(value: &str) {
    let mount = mount(value, |lower| {
        put_program(lower);
        put_file(&lower.join("plain"), b"", 0o755, UNMAPPED, UNMAPPED);
        put_file(&lower.join("cut"), b"xxx", 0o6755, UNMAPPED, UNMAPPED);
        put_file(&lower.join("own"), b"", 0o755, lo(UID), lo(GID));
    });
    Caller::user(UID).gid(GID).run(|| {
        // With contents of his own it would run with the owner's rights from the lower path.
        drop(open(&mount.up("id"), OFlags::WRONLY, 0).unwrap());
        common::raw::truncate(&mount.up("cut"), 1).unwrap();
        let set = rustix::fs::chmod(mount.up("plain"), rustix::fs::Mode::from_raw_mode(0o4755));
        assert_eq!(set, Err(Errno::PERM));
        set_mode(&mount.up("own"), 0o4755).unwrap();
    });
    assert_eq!(mode(&mount.low("id")), 0o755);
    assert_eq!(mode(&mount.low("cut")), 0o755);
    assert_eq!(mode(&mount.low("plain")), 0o755);
    assert_eq!(mode(&mount.low("own")), 0o4755);
}

fn deny_shows_names_alone() {
    let mount = mount("deny", |lower| {
        three_files(lower, 0o666);
        put_dir(&lower.join("dir"), 0o777, UNMAPPED, lo(0));
        put_file(&lower.join("dir/file"), b"", 0o666, lo(UID), lo(GID));
        put_file(&lower.join("mapped"), b"", 0o666, lo(UID), lo(GID));
    });
    for caller in [Caller::user(0), Caller::user(UID).gid(GID), Caller::user(7)] {
        caller.run(|| {
            let names: Vec<_> =
                fs::read_dir(mount.up("")).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names.len(), 5, "{names:?}");
            for name in ["owner", "group", "both", "dir", "dir/file"] {
                let path = mount.up(name);
                assert_errno!(rustix::fs::lstat(&path), Errno::ACCESS);
                assert_errno!(open(&path, OFlags::RDONLY, 0), Errno::ACCESS);
                assert_errno!(unlink(&path), Errno::ACCESS);
                assert_errno!(rename(&path, mount.up("new")), Errno::ACCESS);
                assert_errno!(rename(mount.up("mapped"), &path), Errno::ACCESS);
                assert!(list_xattr(&path).is_err());
            }
            stat(&mount.up("mapped"));
        });
    }
    let create = open(&mount.up("owner"), OFlags::CREATE | OFlags::WRONLY, 0o600);
    assert_errno!(create, Errno::ACCESS);
}

/// What the kernel cannot do, `backend=auto` leaves to FUSE, and says why.
fn deny_refuses_before_anything_is_done() {
    for options in ["deny,cache=none", "deny,cache=none,io=cached"] {
        let mount = mount(options, |lower| {
            put_file(&lower.join("file"), b"content", 0o666, lo(UID), lo(GID));
        });
        let [shown, stored] = [mount.up("file"), mount.low("file")];
        let file = Caller::user(UID).run(|| open(&shown, OFlags::RDWR, 0)).unwrap();
        chown(&stored, Some(UNMAPPED), None).unwrap();
        let truncated = Caller::user(UID).run(|| rustix::fs::ftruncate(&file, 3));
        assert_errno!(truncated, Errno::ACCESS);
        assert_eq!(fs::read(&stored).unwrap(), b"content", "{options}");
    }
}

/// Else whoever stands in for the owner would read and write the machine's disk.
fn devices_stay_nobodys() {
    needs_real_root("device nodes");
    for policy in ["owner:1000:1001", "squash:1000:1001"] {
        let mount = mount(policy, |lower| {
            for (name, device) in [("null", makedev(1, 3)), ("whiteout", 0)] {
                mknod(&lower.join(name), 0o020_660, device).unwrap();
            }
        });
        // Real root's own node.
        let node = mount.up("null");
        assert_eq!(owner(&node), (65_534, 65_534), "{policy}");
        assert_eq!(owner(&mount.up("whiteout")), (UID, GID), "{policy}");
        let (user, root) = (Caller::user(UID).gid(GID), Caller::user(0));
        for caller in [&user, &root] {
            caller.run(|| {
                assert_errno!(open(&node, OFlags::RDONLY, 0), Errno::ACCESS);
                assert_errno!(open(&node, OFlags::WRONLY, 0), Errno::ACCESS);
                assert_errno!(set_mode(&node, 0o666), Errno::OVERFLOW);
            });
        }
        // Whatever everybody may, everybody still may.
        set_mode(&mount.low("null"), 0o664).unwrap();
        common::eventually("others may read it", || {
            user.run(|| open(&node, OFlags::RDONLY, 0)).is_ok()
        });
    }
}

fn squash_gives_set_id_programs_of_others_no_more_names() {
    let protects = fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap_or_default();
    if protects.trim() != "1" {
        common::skip("fs.protected_hardlinks is off");
    }
    let mount = mount("squash:1000:1001", |lower| {
        for (name, mode) in [("user", 0o4777), ("group", 0o2777), ("plain", 0o777)] {
            put_file(&lower.join(name), b"", mode, UNMAPPED, UNMAPPED);
        }
    });
    let link = |name: &str| {
        let (from, to) = (mount.up(name), mount.up(format!("{name}-linked")));
        Caller::user(7).run(|| linkat(CWD, from, CWD, to, AtFlags::empty()))
    };
    assert_errno!(link("user"), Errno::PERM);
    assert_errno!(link("group"), Errno::PERM);
    link("plain").unwrap();
}

fn auto_takes_fuse() {
    needs_idshift();
    let mount = Mount::with(&format!("{MAP},backend=auto,unmapped=restrict"), |lower| {
        put_file(&lower.join("file"), b"", 0o640, UNMAPPED, lo(0));
    });
    assert_eq!(mode(&mount.up("file")), 0);
    let log = fs::read_to_string(mount.beside().join("server.log")).unwrap();
    assert!(log.contains("backend: fuse") && log.contains("unmapped="), "{log}");
}

fn mistakes_are_named() {
    needs_idshift();
    let mut wrong = vec![
        ("unmapped=hide", 1, ["unmapped=hide", "restrict"]),
        ("unmapped=squash:30000", 1, ["user 30000", "squash:UID:GID"]),
        ("unmapped=squash:1000:30000", 1, ["group 30000", "squash:UID:GID"]),
        ("unmapped=deny", 1, ["unmapped=deny", "45000"]),
        ("unmapped=restrict,backend=kernel", 1, ["unmapped=", "backend=fuse"]),
        ("deny_groups=all,backend=kernel", 1, ["deny_groups=", "backend=fuse"]),
        ("suid=deny,backend=kernel", 1, ["suid=", "backend=fuse"]),
    ];
    if !common::machine().real_root {
        wrong.push(("unmapped=owner:30000:0", 1, ["unmapped=owner:30000:0", "their map"]));
    }
    let dir = common::mount::temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, UNMAPPED, lo(0));
    put_dir(&upper, 0o755, 0, 0);
    for (options, code, parts) in wrong {
        let options = format!("{MAP},{options}");
        let called = idshift(&[&"mount", &"-o", &options, &lower, &upper]);
        assert_eq!(called.code, code, "{options}: {}", called.err);
        for part in parts {
            assert!(called.err.contains(part), "{options}: {}", called.err);
        }
    }
}
