//! Changing modes, owners, sizes and times, and what that does to set-user-ID bits.

use std::path::Path;

use crate::common::{
    self, AtFlags, CWD, Caller, Errno, Mode, Mount, OFlags, UNMAPPED, assert_errno, chown, lo,
    mode, open, owner, put_dir, put_file, set_mode, stat,
};
use rustix::fs::{
    Gid, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, fchmod, fchown, ftruncate, futimens,
    utimensat,
};

crate::common::tests!(
    chmod_by_the_owner_only,
    chmod_on_an_open_file,
    chmod_setgid_by_a_stranger_to_the_group,
    root_changes_owners,
    chown_on_an_open_file,
    chown_of_a_symlink,
    owner_gives_to_his_groups_only,
    chown_to_the_same_ids,
    chown_to_unmapped_ids,
    chown_leaves_what_is_not_named,
    unmapped_owner_cannot_be_changed,
    chown_clears_suid_and_sgid,
    chown_of_nothing_clears_suid_and_sgid,
    truncate_by_path_and_descriptor,
    truncate_needs_the_right_to_write,
    times_now_omit_and_exact,
    times_of_symlinks,
    times_by_others,
    change_time_moves,
    write_clears_suid_and_sgid,
    truncate_clears_suid_and_sgid,
    fallocate_clears_suid_and_sgid,
    open_with_truncation_clears_suid_and_sgid,
    exec_after_a_clearing_write_is_not_set_user_id,
);

fn one_file(permissions: u32, uid: u32, gid: u32) -> Mount {
    Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"0123456789", permissions, lo(uid), lo(gid));
    })
}

fn chmod_by_the_owner_only() {
    let mount = one_file(0o644, 1000, 1000);
    let chmod = |caller: Caller, to: u32| caller.run(|| set_mode(&mount.up("file"), to));
    chmod(Caller::user(1000), 0o4751).unwrap();
    assert_eq!(mode(&mount.low("file")), 0o4751);
    assert_eq!(mode(&mount.up("file")), 0o4751);
    assert_errno!(chmod(Caller::user(1001), 0o777), Errno::PERM);
    assert_errno!(chmod(Caller::user(1001).groups(&[1000]), 0o777), Errno::PERM);
    assert_errno!(chmod(Caller::user(lo(1000)), 0o777), Errno::PERM);
    assert_errno!(chmod(Caller::user(UNMAPPED), 0o777), Errno::PERM);
    assert_eq!(mode(&mount.low("file")), 0o4751);
    chmod(Caller::user(0), 0o1600).unwrap();
    assert_eq!(mode(&mount.low("file")), 0o1600);
}

fn chmod_on_an_open_file() {
    let mount = one_file(0o644, 1000, 1000);
    Caller::user(1000).run(|| {
        let fd = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
        fchmod(&fd, Mode::from_raw_mode(0o400)).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o7777, 0o400);
    });
    assert_eq!(mode(&mount.low("file")), 0o400);
}

fn chmod_setgid_by_a_stranger_to_the_group() {
    let mount = one_file(0o644, 1000, 500);
    let chmod = |caller: Caller, to: u32| {
        caller.run(|| set_mode(&mount.up("file"), to)).unwrap();
        mode(&mount.low("file"))
    };
    assert_eq!(chmod(Caller::user(1000), 0o2755), 0o755, "not a member");
    assert_eq!(chmod(Caller::user(1000).groups(&[500]), 0o2755), 0o2755);
    assert_eq!(chmod(Caller::user(1000).gid(500), 0o2711), 0o2711);
    assert_eq!(chmod(Caller::user(0), 0o6755), 0o6755);
}

fn root_changes_owners() {
    let mount = one_file(0o644, 1000, 1000);
    chown(&mount.up("file"), Some(7), Some(8)).unwrap();
    assert_eq!(owner(&mount.up("file")), (7, 8));
    assert_eq!(owner(&mount.low("file")), (lo(7), lo(8)));
    chown(&mount.up("file"), Some(0), Some(19_999)).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(0), lo(19_999)));
}

fn chown_on_an_open_file() {
    let mount = one_file(0o644, 1000, 1000);
    let fd = open(&mount.up("file"), OFlags::RDONLY, 0).unwrap();
    fchown(&fd, Some(Uid::from_raw(5)), Some(Gid::from_raw(6))).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(5), lo(6)));
    assert_errno!(fchown(&fd, Some(Uid::from_raw(UNMAPPED)), None), Errno::OVERFLOW);
    std::fs::remove_file(mount.up("file")).unwrap();
    fchown(&fd, Some(Uid::from_raw(9)), None).unwrap();
    let stat = rustix::fs::fstat(&fd).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_nlink), (9, 6, 0));
}

fn chown_of_a_symlink() {
    let mount = one_file(0o644, 1000, 1000);
    rustix::fs::symlink("file", mount.up("link")).unwrap();
    chown(&mount.up("link"), Some(3), Some(4)).unwrap();
    assert_eq!(owner(&mount.low("link")), (lo(3), lo(4)));
    assert_eq!(owner(&mount.low("file")), (lo(1000), lo(1000)), "not what it points to");
    rustix::fs::chown(mount.up("link"), Some(Uid::from_raw(5)), None).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(5), lo(1000)));
}

fn owner_gives_to_his_groups_only() {
    let mount = one_file(0o644, 1000, 1000);
    let caller = Caller::user(1000).groups(&[50]);
    let change = |uid, gid| caller.run(|| chown(&mount.up("file"), uid, gid));
    change(None, Some(50)).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(1000), lo(50)));
    assert_errno!(change(None, Some(51)), Errno::PERM);
    assert_errno!(change(Some(1001), None), Errno::PERM);
    change(Some(1000), Some(1000)).unwrap();
    assert_errno!(
        Caller::user(1001).groups(&[50]).run(|| chown(&mount.up("file"), None, Some(50))),
        Errno::PERM
    );
}

fn chown_to_the_same_ids() {
    let mount = one_file(0o644, 1000, 77);
    let change = |uid, gid| Caller::user(1000).run(|| chown(&mount.up("file"), uid, gid));
    change(Some(1000), Some(77)).unwrap();
    change(None, None).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(1000), lo(77)));
}

fn chown_to_unmapped_ids() {
    let mount = one_file(0o644, 1000, 1000);
    let before = stat(&mount.low("file"));
    for id in [UNMAPPED, 65_534, lo(1)] {
        assert_errno!(chown(&mount.up("file"), Some(id), None), Errno::OVERFLOW);
        assert_errno!(chown(&mount.up("file"), None, Some(id)), Errno::OVERFLOW);
        assert_errno!(chown(&mount.up("file"), Some(5), Some(id)), Errno::OVERFLOW);
    }
    let after = stat(&mount.low("file"));
    assert_eq!(owner(&mount.low("file")), (lo(1000), lo(1000)));
    assert_eq!(before.st_ctime_nsec, after.st_ctime_nsec, "the lower file was not touched");
}

fn chown_leaves_what_is_not_named() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o644, lo(1000), lo(1001));
    });
    chown(&mount.up("file"), Some(2), None).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(2), lo(1001)));
    chown(&mount.up("file"), None, Some(3)).unwrap();
    assert_eq!(owner(&mount.low("file")), (lo(2), lo(3)));
}

fn unmapped_owner_cannot_be_changed() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("both"), b"x", 0o666, UNMAPPED, UNMAPPED);
        put_file(&lower.join("user"), b"x", 0o666, UNMAPPED, lo(5));
        put_file(&lower.join("group"), b"x", 0o666, lo(5), UNMAPPED);
    });
    for name in ["both", "user", "group"] {
        let path = mount.up(name);
        assert_errno!(set_mode(&path, 0o600), Errno::OVERFLOW);
        assert_errno!(open(&path, OFlags::WRONLY, 0), Errno::ACCESS);
        assert_errno!(common::raw::truncate(&path, 0), Errno::ACCESS);
        let now = Timestamps { last_access: NOW, last_modification: NOW };
        // Root owns what has a mapped user, but may not store times beside an unmapped group.
        let expected = if name == "group" { Errno::OVERFLOW } else { Errno::ACCESS };
        assert_errno!(utimensat(CWD, &path, &now, AtFlags::empty()), expected);
        assert_eq!(mode(&mount.low(name)), 0o666);
        assert_eq!(std::fs::read(&path).unwrap(), b"x", "reading is as the mode allows");
    }
    // Giving both ids at once mends an unmapped owner; giving one leaves the other unmapped.
    assert_errno!(chown(&mount.up("both"), Some(7), None), Errno::OVERFLOW);
    assert_errno!(chown(&mount.up("both"), None, Some(7)), Errno::OVERFLOW);
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ };
const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };

fn chown_clears_suid_and_sgid() {
    let mount = Mount::with(common::MAP, |lower| {
        for name in ["a", "b", "c", "d"] {
            put_file(&lower.join(name), b"", 0o6755, lo(1000), lo(1000));
        }
        put_file(&lower.join("noexec"), b"", 0o6745, lo(1000), lo(1000));
        put_dir(&lower.join("dir"), 0o6755, lo(1000), lo(1000));
    });
    let member = Caller::user(1000).groups(&[50]);
    member.run(|| chown(&mount.up("a"), None, Some(50))).unwrap();
    assert_eq!(mode(&mount.low("a")), 0o755);
    assert_eq!(mode(&mount.up("a")), 0o755);
    chown(&mount.up("b"), Some(5), None).unwrap();
    assert_eq!(mode(&mount.low("b")), 0o755, "for root too");
    member.run(|| chown(&mount.up("c"), Some(1000), Some(1000))).unwrap();
    assert_eq!(mode(&mount.low("c")), 0o755, "even when nothing changes");
    member.run(|| chown(&mount.up("noexec"), None, Some(50))).unwrap();
    assert_eq!(mode(&mount.up("noexec")), mode(&mount.low("noexec")));
    chown(&mount.up("dir"), Some(7), Some(7)).unwrap();
    assert_eq!(mode(&mount.low("dir")), 0o6755, "directories keep theirs");
}

fn chown_of_nothing_clears_suid_and_sgid() {
    let fill = |lower: &Path| {
        for name in ["a", "b", "c"] {
            put_file(&lower.join(name), b"", 0o6755, lo(1000), lo(1000));
        }
    };
    let mount = Mount::with(&format!("{},idmap=deny", common::MAP), fill);
    assert_errno!(Caller::user(1001).run(|| chown(&mount.up("a"), None, None)), Errno::PERM);
    assert_eq!(mode(&mount.low("a")), 0o6755);
    Caller::user(1000).run(|| chown(&mount.up("a"), None, None)).unwrap();
    chown(&mount.up("b"), None, None).unwrap();
    assert_eq!([mode(&mount.up("a")), mode(&mount.low("b"))], [0o755; 2]);
}

fn truncate_by_path_and_descriptor() {
    let mount = one_file(0o644, 1000, 1000);
    Caller::user(1000).run(|| {
        let path = mount.up("file");
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0123");
        let fd = open(&path, OFlags::RDWR, 0).unwrap();
        ftruncate(&fd, 6).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0123\0\0");
        assert_eq!(stat(&path).st_size, 6);
        let read_only = open(&path, OFlags::RDONLY, 0).unwrap();
        assert_errno!(ftruncate(&read_only, 0), Errno::INVAL);
        ftruncate(&fd, 5_000_000_000).unwrap();
        assert_eq!(stat(&path).st_size, 5_000_000_000);
    });
    assert_eq!(stat(&mount.low("file")).st_size, 5_000_000_000);
}

fn truncate_needs_the_right_to_write() {
    let mount = one_file(0o464, 1000, 50);
    let shorten = |caller: Caller| caller.run(|| common::raw::truncate(&mount.up("file"), 1));
    assert_errno!(shorten(Caller::user(1000)), Errno::ACCESS);
    assert_errno!(shorten(Caller::user(1001)), Errno::ACCESS);
    assert_eq!(shorten(Caller::user(1001).groups(&[50])), Ok(()));
    assert_eq!(stat(&mount.low("file")).st_size, 1);
}

fn times_now_omit_and_exact() {
    let mount = one_file(0o644, 1000, 1000);
    let path = mount.up("file");
    let low = mount.low("file");
    Caller::user(1000).run(|| {
        let access = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
        let change = Timespec { tv_sec: 2_000_000_002, tv_nsec: 987_654_321 };
        let set = |last_access, last_modification| {
            let times = Timestamps { last_access, last_modification };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        };
        set(access, change);
        let seen = stat(&low);
        assert_eq!((seen.st_atime, seen.st_atime_nsec), (1_000_000_001, 123_456_789));
        assert_eq!((seen.st_mtime, seen.st_mtime_nsec), (2_000_000_002, 987_654_321));
        let shown = stat(&path);
        assert_eq!((shown.st_mtime, shown.st_mtime_nsec), (2_000_000_002, 987_654_321));
        set(OMIT, Timespec { tv_sec: 5, tv_nsec: 6 });
        let seen = stat(&low);
        assert_eq!((seen.st_atime, seen.st_mtime, seen.st_mtime_nsec), (1_000_000_001, 5, 6));
        set(NOW, OMIT);
        let seen = stat(&low);
        assert!(seen.st_atime > 1_700_000_000);
        assert_eq!(seen.st_mtime, 5);
        set(OMIT, OMIT);
        assert_eq!(stat(&low).st_mtime, 5);
        // Before 1970, and on an open file.
        let fd = open(&path, OFlags::RDONLY, 0).unwrap();
        let old = Timespec { tv_sec: -1_000, tv_nsec: 5 };
        futimens(&fd, &Timestamps { last_access: old, last_modification: old }).unwrap();
        assert_eq!((stat(&path).st_mtime, stat(&low).st_mtime), (-1_000, -1_000));
    });
}

fn times_of_symlinks() {
    let mount = one_file(0o644, 1000, 1000);
    rustix::fs::symlink("file", mount.up("link")).unwrap();
    let before = stat(&mount.low("file")).st_mtime;
    let time = Timespec { tv_sec: 77, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, mount.up("link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(stat(&mount.low("link")).st_mtime, 77);
    assert_eq!(stat(&mount.low("file")).st_mtime, before);
}

fn times_by_others() {
    let mount = one_file(0o664, 1000, 50);
    let set = |caller: Caller, time: Timespec| {
        let times = Timestamps { last_access: time, last_modification: time };
        caller.run(|| utimensat(CWD, mount.up("file"), &times, AtFlags::empty()))
    };
    let exact = Timespec { tv_sec: 99, tv_nsec: 0 };
    assert_errno!(set(Caller::user(1001), NOW), Errno::ACCESS);
    assert_errno!(set(Caller::user(1001), exact), Errno::PERM);
    assert_eq!(set(Caller::user(1001).groups(&[50]), NOW), Ok(()));
    assert_errno!(set(Caller::user(1001).groups(&[50]), exact), Errno::PERM);
    assert_eq!(set(Caller::user(0), exact), Ok(()));
    assert_eq!(stat(&mount.low("file")).st_mtime, 99);
}

fn change_time_moves() {
    let mount = one_file(0o644, 1000, 1000);
    let path = mount.up("file");
    let time = |path: &std::path::Path| {
        let stat = stat(path);
        (stat.st_ctime, stat.st_ctime_nsec)
    };
    let mut last = time(&path);
    let mut step = |what: &str, change: &dyn Fn()| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        change();
        let now = time(&path);
        assert!(now > last, "{what}");
        assert_eq!(now, time(&mount.low("file")), "{what}");
        last = now;
    };
    step("chmod", &|| set_mode(&path, 0o600).unwrap());
    step("chown", &|| chown(&path, Some(5), None).unwrap());
    step("link", &|| std::fs::hard_link(&path, mount.up("other")).unwrap());
    step("write", &|| std::fs::write(&path, "x").unwrap());
    step("unlink of the other name", &|| std::fs::remove_file(mount.up("other")).unwrap());
    step("rename", &|| {
        std::fs::rename(&path, mount.up("aside")).unwrap();
        std::fs::rename(mount.up("aside"), &path).unwrap();
    });
}

/// Who changes the file, and what of 06777 is left for a file of 1000:50.
fn callers() -> [(&'static str, Caller, u32); 4] {
    // The kernel asks for CAP_FSETID in the initial namespace (fs/attr.c,
    // setattr_should_drop_suidgid): root of another one is like everybody.
    let by_root = if common::machine().real_root { 0o6777 } else { 0o777 };
    [
        ("owner", Caller::user(1000), 0o777),
        ("member", Caller::user(1001).groups(&[50]), 0o777),
        ("stranger", Caller::user(1002), 0o777),
        ("root", Caller::user(0), by_root),
    ]
}

fn clearing(change: impl Fn(&std::path::Path) + Sync) {
    let mount = Mount::with(common::MAP, |lower| {
        for (name, _, _) in callers() {
            put_file(&lower.join(name), b"0123456789", 0o6777, lo(1000), lo(50));
        }
    });
    for (name, caller, expected) in callers() {
        // The mode is remembered by the kernel when the change comes.
        assert_eq!(mode(&mount.up(name)), 0o6777);
        caller.run(|| change(&mount.up(name)));
        assert_eq!(mode(&mount.up(name)), expected, "shown after a change by the {name}");
        assert_eq!(mode(&mount.low(name)), expected, "stored after a change by the {name}");
    }
}

fn write_clears_suid_and_sgid() {
    clearing(|path| {
        let fd = open(path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
        assert_eq!(rustix::io::write(&fd, b"more").unwrap(), 4);
    });
    clearing(|path| {
        let fd = open(path, OFlags::RDWR, 0).unwrap();
        assert_eq!(rustix::io::pwrite(&fd, b"more", 3).unwrap(), 4);
    });
}

fn truncate_clears_suid_and_sgid() {
    clearing(|path| common::raw::truncate(path, 3).unwrap());
    clearing(|path| ftruncate(open(path, OFlags::RDWR, 0).unwrap(), 3).unwrap());
}

fn fallocate_clears_suid_and_sgid() {
    clearing(|path| {
        let fd = open(path, OFlags::RDWR, 0).unwrap();
        rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, 20_000).unwrap();
    });
}

fn open_with_truncation_clears_suid_and_sgid() {
    clearing(|path| drop(open(path, OFlags::WRONLY | OFlags::TRUNC, 0).unwrap()));
}

/// The kernel above remembers the mode of a file; after a stranger's write it must not run the
/// program set-user-ID, not even at once.
fn exec_after_a_clearing_write_is_not_set_user_id() {
    common::runner::needs_program("id");
    let mount = Mount::with(common::MAP, |lower| {
        let program = std::fs::read("/usr/bin/id").unwrap();
        put_file(&lower.join("id"), &program, 0o4777, lo(5), lo(5));
    });
    let run = || {
        let out = Caller::user(1000)
            .run(|| std::process::Command::new(mount.up("id")).arg("-u").output())
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(run(), "5", "set-user-ID gives the shown owner");
    Caller::user(1000).run(|| {
        let fd = open(&mount.up("id"), OFlags::WRONLY, 0).unwrap();
        rustix::io::pwrite(&fd, b"\x7fELF", 0).unwrap();
    });
    assert_eq!(run(), "1000");
    assert_eq!(mode(&mount.low("id")), 0o777);
}
