//! Id maps of all shapes, and ids that are not in them.

use crate::common::{
    self, BASE, Caller, Errno, Mount, OFlags, UNMAPPED, assert_errno, chown, create, exists, lo,
    open, owner, put_dir, put_file, set_mode,
};

crate::common::tests!(
    offset_map,
    single_id,
    extents_with_holes,
    swapped_ids,
    users_and_groups_differ,
    identity,
    map_from_a_file,
    unmapped_owners_show_as_nobody,
    nobody_gains_nothing,
    lower_ids_mean_nothing_above,
    groups_count_wherever_they_stand,
    two_mounts_of_one_tree,
    namespace_of_one_id,
);

fn offset_map() {
    let mount = Mount::with("map=offset:30000:1000", |lower| {
        put_dir(&lower.join("dir"), 0o777, 0, 0);
        put_file(&lower.join("dir/zero"), b"", 0o644, 0, 0);
        put_file(&lower.join("dir/last"), b"", 0o644, 999, 999);
        put_file(&lower.join("dir/beyond"), b"", 0o644, 1000, 1000);
    });
    assert_eq!(owner(&mount.up("dir/zero")), (30_000, 30_000));
    assert_eq!(owner(&mount.up("dir/last")), (30_999, 30_999));
    assert_eq!(owner(&mount.up("dir/beyond")), (65_534, 65_534));
    Caller::user(30_007).run(|| create(&mount.up("dir/new"), 0o600)).unwrap();
    assert_eq!(owner(&mount.low("dir/new")), (7, 7));
    // Root of this machine is in no map here.
    assert_errno!(create(&mount.up("dir/by-root"), 0o600), Errno::OVERFLOW);
    assert!(!exists(&mount.low("dir/by-root")));
}

fn single_id() {
    let mount = Mount::with("map=b:20000:1000:1", |lower| {
        put_file(&lower.join("mine"), b"x", 0o600, BASE, BASE);
        put_file(&lower.join("next"), b"x", 0o666, BASE + 1, BASE + 1);
    });
    assert_eq!(owner(&mount.up("mine")), (1000, 1000));
    assert_eq!(owner(&mount.up("next")), (65_534, 65_534));
    Caller::user(1000).run(|| {
        assert_eq!(std::fs::read(mount.up("mine")).unwrap(), b"x");
        create(&mount.up("new"), 0o600).unwrap();
    });
    assert_eq!(owner(&mount.low("new")), (BASE, BASE));
    assert_errno!(Caller::user(1001).run(|| create(&mount.up("x"), 0o600)), Errno::OVERFLOW);
}

fn extents_with_holes() {
    let maps = "map=b:20000:0:10,map=b:21000:100:10,map=b:20500:500:1";
    let mount = Mount::with(maps, |lower| {
        for (name, id) in [("a", 20_009), ("b", 21_000), ("c", 20_500), ("hole", 20_010)] {
            put_file(&lower.join(name), b"", 0o644, id, id);
        }
    });
    assert_eq!(owner(&mount.up("a")), (9, 9));
    assert_eq!(owner(&mount.up("b")), (100, 100));
    assert_eq!(owner(&mount.up("c")), (500, 500));
    assert_eq!(owner(&mount.up("hole")), (65_534, 65_534));
    for (upper, lower) in [(9, 20_009), (109, 21_009), (500, 20_500)] {
        let name = format!("by-{upper}");
        Caller::user(upper).run(|| create(&mount.up(&name), 0o600)).unwrap();
        assert_eq!(owner(&mount.low(&name)), (lower, lower));
    }
    for upper in [10, 99, 110, 499, 501] {
        let made = Caller::user(upper).run(|| create(&mount.up("hole-2"), 0o600));
        assert_errno!(made, Errno::OVERFLOW);
        assert_errno!(chown(&mount.up("a"), Some(upper), None), Errno::OVERFLOW);
    }
}

fn swapped_ids() {
    let maps = "map=b:20000:0:1000,map=b:1000:1001:1,map=b:1001:1000:1";
    let mount = Mount::with(maps, |lower| {
        put_file(&lower.join("of-1000"), b"", 0o600, 1000, 1000);
        put_file(&lower.join("of-1001"), b"", 0o600, 1001, 1001);
    });
    assert_eq!(owner(&mount.up("of-1000")), (1001, 1001));
    assert_eq!(owner(&mount.up("of-1001")), (1000, 1000));
    let can =
        |uid, name: &str| Caller::user(uid).run(|| open(&mount.up(name), OFlags::RDWR, 0).is_ok());
    assert!(can(1001, "of-1000") && can(1000, "of-1001"));
    assert!(!can(1000, "of-1000") && !can(1001, "of-1001"));
    Caller::user(1000).run(|| create(&mount.up("new"), 0o600)).unwrap();
    assert_eq!(owner(&mount.low("new")), (1001, 1001));
    assert_eq!(owner(&mount.up("new")), (1000, 1000));
    chown(&mount.up("new"), Some(1001), Some(1001)).unwrap();
    assert_eq!(owner(&mount.low("new")), (1000, 1000));
}

fn users_and_groups_differ() {
    let mount = Mount::with("map=u:20000:0:2000,map=g:30000:0:2000", |lower| {
        set_mode(lower, 0o777).unwrap();
        chown(lower, Some(20_000), Some(30_000)).unwrap();
        put_file(&lower.join("file"), b"", 0o640, 20_005, 30_006);
        put_file(&lower.join("crossed"), b"", 0o640, 30_005, 20_006);
    });
    assert_eq!(owner(&mount.up("file")), (5, 6));
    assert_eq!(owner(&mount.up("crossed")), (65_534, 65_534));
    Caller::user(7).gid(8).run(|| create(&mount.up("new"), 0o600)).unwrap();
    assert_eq!(owner(&mount.low("new")), (20_007, 30_008));
    chown(&mount.up("new"), Some(10), Some(20)).unwrap();
    assert_eq!(owner(&mount.low("new")), (20_010, 30_020));
}

fn identity() {
    // The kernel's fixture has no such map.
    common::runner::needs_idshift();
    let mount = Mount::with("map=identity", |lower| {
        put_file(&lower.join("file"), b"", 0o600, 1234, 4321);
    });
    assert_eq!(owner(&mount.up("file")), (1234, 4321));
    Caller::user(77).run(|| create(&mount.up("new"), 0o600)).unwrap();
    assert_eq!(owner(&mount.low("new")), (77, 77));
    chown(&mount.up("new"), Some(UNMAPPED), None).unwrap();
    assert_eq!(owner(&mount.low("new")), (UNMAPPED, 77));
}

fn map_from_a_file() {
    common::runner::needs_idshift();
    let dir = common::mount::temp_dir();
    let file = dir.path().join("the map");
    std::fs::write(&file, "# comment\nu 20000 0 100\ng 20000 50 100\n").ok();
    let mount = Mount::with(&format!("map=file:{}", file.display()), |lower| {
        put_file(&lower.join("file"), b"", 0o600, 20_003, 20_003);
    });
    assert_eq!(owner(&mount.up("file")), (3, 53));
}

fn unmapped_owners_show_as_nobody() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("user"), b"x", 0o644, UNMAPPED, lo(3));
        put_file(&lower.join("group"), b"x", 0o644, lo(3), UNMAPPED);
        put_file(&lower.join("host-root"), b"x", 0o4755, 0, 0);
        put_dir(&lower.join("dir"), 0o755, UNMAPPED, UNMAPPED);
        put_file(&lower.join("dir/inside"), b"x", 0o644, lo(3), lo(3));
    });
    assert_eq!(owner(&mount.up("user")), (65_534, 3));
    assert_eq!(owner(&mount.up("group")), (3, 65_534));
    assert_eq!(owner(&mount.up("host-root")), (65_534, 65_534));
    assert_eq!(owner(&mount.up("dir")), (65_534, 65_534));
    assert_eq!(owner(&mount.up("dir/inside")), (3, 3));
    // Others may read what the mode lets them read.
    Caller::user(5).run(|| assert_eq!(std::fs::read(mount.up("user")).unwrap(), b"x"));
}

/// An unmapped owner must never be the number 65534: a caller with that id would own the file.
fn nobody_gains_nothing() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("unmapped"), b"secret", 0o600, UNMAPPED, UNMAPPED);
        put_file(&lower.join("really-nobody"), b"secret", 0o600, 65_534, 65_534);
        put_file(&lower.join("group"), b"secret", 0o060, lo(1), UNMAPPED);
        put_dir(&lower.join("dir"), 0o700, UNMAPPED, UNMAPPED);
    });
    for caller in [Caller::user(65_534), Caller::user(UNMAPPED), Caller::user(5).groups(&[65_534])]
    {
        caller.run(|| {
            for name in ["unmapped", "really-nobody", "group"] {
                let path = mount.up(name);
                assert_errno!(open(&path, OFlags::RDONLY, 0), Errno::ACCESS);
                assert_errno!(open(&path, OFlags::WRONLY, 0), Errno::ACCESS);
                assert!(set_mode(&path, 0o777).is_err());
                assert!(chown(&path, Some(5), Some(5)).is_err());
            }
            assert_errno!(open(&mount.up("dir"), OFlags::RDONLY, 0), Errno::ACCESS);
        });
    }
    assert_eq!(owner(&mount.low("unmapped")), (UNMAPPED, UNMAPPED));
    // With 65534 in the map it is an id like any other.
    let mount = Mount::with("map=b:20000:0:1,map=b:30000:65534:1", |lower| {
        put_file(&lower.join("file"), b"x", 0o600, 30_000, 30_000);
        put_file(&lower.join("unmapped"), b"x", 0o600, UNMAPPED, UNMAPPED);
    });
    Caller::user(65_534).run(|| {
        assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"x");
        assert_errno!(open(&mount.up("unmapped"), OFlags::RDONLY, 0), Errno::ACCESS);
        create(&mount.up("new"), 0o600).unwrap();
    });
    assert_eq!(owner(&mount.low("new")), (30_000, 30_000));
}

fn lower_ids_mean_nothing_above() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o600, lo(1000), lo(1000));
    });
    // A caller whose own number is the stored one.
    Caller::user(lo(1000)).run(|| {
        assert_errno!(open(&mount.up("file"), OFlags::RDONLY, 0), Errno::ACCESS);
        assert_errno!(create(&mount.up("new"), 0o600), Errno::OVERFLOW);
    });
}

fn groups_count_wherever_they_stand() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o060, lo(1), lo(50));
    });
    let many: Vec<u32> = (100..400).chain([50]).collect();
    let read = |caller: Caller| caller.run(|| open(&mount.up("file"), OFlags::RDONLY, 0).map(drop));
    assert_eq!(read(Caller::user(9).gid(50)), Ok(()));
    assert_eq!(read(Caller::user(9).groups(&[50])), Ok(()));
    assert_eq!(read(Caller::user(9).groups(&many)), Ok(()));
    assert_errno!(read(Caller::user(9).groups(&many[..300])), Errno::ACCESS);
    assert_errno!(read(Caller::user(9).groups(&[lo(50)])), Errno::ACCESS);
}

fn two_mounts_of_one_tree() {
    let first = Mount::with(&format!("{},cache=none", common::MAP), |lower| {
        put_file(&lower.join("file"), b"one", 0o666, lo(5), lo(5));
    });
    let second =
        Mount::of(common::mount::temp_dir(), first.low(""), "map=b:20000:1000:1000,cache=none");
    assert_eq!(owner(&first.up("file")), (5, 5));
    assert_eq!(owner(&second.up("file")), (1_005, 1_005));
    std::fs::write(first.up("file"), "changed by the first").unwrap();
    assert_eq!(std::fs::read(second.up("file")).unwrap(), b"changed by the first");
    Caller::user(1_007).run(|| create(&second.up("new"), 0o640)).unwrap();
    assert_eq!(owner(&first.up("new")), (7, 7));
    let moved = rustix::fs::rename(first.up("new"), second.up("other"));
    assert_errno!(moved, Errno::XDEV);
}

/// As anyone may make it without a range of ids: one id, and setgroups(2) is denied.
fn namespace_of_one_id() {
    common::runner::needs_idshift();
    common::runner::needs_program("unshare");
    let dir = common::mount::temp_dir();
    for name in ["lower", "upper"] {
        put_dir(&dir.path().join(name), 0o755, 0, 0);
    }
    let script = "set -e; cd \"$1\"; echo old >lower/file; \
        \"$2\" mount -o map=b:0:0:1 lower upper; trap 'umount upper' EXIT; \
        echo new >upper/file; chmod 6755 upper/file; chown 0:0 upper/file; \
        echo newer >upper/file; : >upper/other; mkdir upper/dir; truncate -s 3 upper/file; \
        test \"$(cat upper/file)\" = new; test \"$(stat -c %u:%g lower/other)\" = 0:0";
    let out = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([dir.path(), &common::machine().binary])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
