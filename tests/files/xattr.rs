//! Extended attributes, POSIX ACLs and file capabilities.

use std::path::PathBuf;

use crate::common::mount::temp_dir;
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{
    self, ACL_ACCESS, ACL_DEFAULT, AclEntry, BASE, Caller, Errno, GROUP, GROUP_OBJ, MASK, Mount,
    NO_ID, OFlags, OTHER, UNMAPPED, USER, USER_OBJ, acl, assert_errno, chown, create, get_xattr,
    list_xattr, lo, mkdir, mode, open, owner, parse_acl, put_dir, put_file, set_mode, set_xattr,
};
use rustix::fs::{
    XattrFlags, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query, lremovexattr, lsetxattr,
};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

crate::common::tests!(
    user_attributes,
    replace_and_create_flags,
    short_buffers,
    big_values,
    odd_values_and_names,
    who_may_read_and_write,
    on_other_kinds_of_files,
    trusted_and_security,
    access_acl_shifts_both_ways,
    acl_is_enforced,
    acl_of_several_extents,
    acl_with_an_unmapped_id,
    acl_that_is_only_a_mode,
    acl_and_chmod,
    acl_is_for_the_owner,
    removed_acl,
    lower_without_acls,
    setgid_goes_with_an_acl_of_a_stranger_to_the_group,
    default_acl_is_inherited,
    default_acl_and_umask,
    default_acl_on_a_file,
    broken_acl,
    setfacl_and_getfacl,
    capability_root_id_is_shifted,
    capability_of_version_two,
    capability_goes_with_a_write,
    capability_needs_the_right,
);

fn one_file(permissions: u32, uid: u32, gid: u32) -> Mount {
    Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"content", permissions, lo(uid), lo(gid));
    })
}

fn user_attributes() {
    let mount = one_file(0o644, 1000, 1000);
    let (up, low) = (mount.up("file"), mount.low("file"));
    assert_errno!(get_xattr(&up, "user.missing"), Errno::NODATA);
    set_xattr(&up, "user.one", b"first").unwrap();
    set_xattr(&up, "user.two", b"").unwrap();
    assert_eq!(get_xattr(&up, "user.one").unwrap(), b"first");
    assert_eq!(get_xattr(&low, "user.one").unwrap(), b"first");
    assert_eq!(get_xattr(&up, "user.two").unwrap(), b"");
    assert_eq!(list_xattr(&up).unwrap(), ["user.one", "user.two"]);
    set_xattr(&up, "user.one", b"longer than the first").unwrap();
    assert_eq!(get_xattr(&up, "user.one").unwrap(), b"longer than the first");
    lremovexattr(&up, "user.one").unwrap();
    assert_errno!(lremovexattr(&up, "user.one"), Errno::NODATA);
    assert_eq!(list_xattr(&low).unwrap(), ["user.two"]);
    // On an open file.
    let fd = open(&up, OFlags::RDWR, 0).unwrap();
    rustix::fs::fsetxattr(&fd, "user.fd", b"x", XattrFlags::empty()).unwrap();
    assert_eq!(get_xattr(&low, "user.fd").unwrap(), b"x");
}

fn replace_and_create_flags() {
    let mount = one_file(0o644, 0, 0);
    let up = mount.up("file");
    assert_errno!(lsetxattr(&up, "user.a", b"1", XattrFlags::REPLACE), Errno::NODATA);
    lsetxattr(&up, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_errno!(lsetxattr(&up, "user.a", b"2", XattrFlags::CREATE), Errno::EXIST);
    lsetxattr(&up, "user.a", b"3", XattrFlags::REPLACE).unwrap();
    assert_eq!(get_xattr(&mount.low("file"), "user.a").unwrap(), b"3");
}

fn short_buffers() {
    let mount = one_file(0o644, 0, 0);
    let up = mount.up("file");
    set_xattr(&up, "user.ten", b"0123456789").unwrap();
    assert_errno!(lgetxattr(&up, "user.ten", &mut [0_u8; 9]), Errno::RANGE);
    assert_eq!(lgetxattr(&up, "user.ten", &mut [0_u8; 10]), Ok(10));
    assert_eq!(lgetxattr_query(&up, "user.ten"), Ok(10), "asks for the size");
    assert_errno!(llistxattr(&up, &mut [0_u8; 8]), Errno::RANGE);
    assert_eq!(llistxattr(&up, &mut [0_u8; 9]), Ok(9));
    assert_eq!(llistxattr_query(&up), Ok(9));
}

/// The limits are those of the lower file system: whatever it says below, it says above.
fn big_values() {
    let mount = one_file(0o644, 0, 0);
    put_file(&mount.low("other"), b"", 0o644, lo(0), lo(0));
    for size in [1_000, 3_000, 30_000, 65_536] {
        let value = vec![7; size];
        let below = set_xattr(&mount.low("other"), "user.big", &value);
        assert_eq!(set_xattr(&mount.up("file"), "user.big", &value), below, "{size} bytes");
        if below.is_ok() {
            assert!(get_xattr(&mount.up("file"), "user.big").unwrap() == value);
        }
    }
    let errno = set_xattr(&mount.up("file"), "user.big", &vec![0; 65_537]);
    assert_errno!(errno, Errno::TOOBIG);
}

fn odd_values_and_names() {
    let mount = one_file(0o644, 0, 0);
    let up = mount.up("file");
    let value: Vec<u8> = (0..=255).collect();
    set_xattr(&up, "user.bytes", &value).unwrap();
    assert_eq!(get_xattr(&mount.low("file"), "user.bytes").unwrap(), value);
    let long = format!("user.{}", "n".repeat(250));
    set_xattr(&up, &long, b"x").unwrap();
    assert_eq!(get_xattr(&up, &long).unwrap(), b"x");
    let longer = format!("user.{}", "n".repeat(251));
    assert_errno!(set_xattr(&up, &longer, b"x"), Errno::RANGE);
    assert_errno!(set_xattr(&up, "unknown.space", b"x"), Errno::OPNOTSUPP);
    assert_errno!(set_xattr(&up, "user.", b"x"), Errno::INVAL);
    assert_errno!(get_xattr(&mount.up("missing"), "user.a"), Errno::NOENT);
}

fn who_may_read_and_write() {
    let mount = one_file(0o640, 1000, 50);
    let up = mount.up("file");
    let set = |caller: Caller| caller.run(|| set_xattr(&up, "user.a", b"x"));
    let get = |caller: Caller| caller.run(|| get_xattr(&up, "user.a"));
    assert_eq!(set(Caller::user(1000)), Ok(()));
    assert_errno!(set(Caller::user(7).groups(&[50])), Errno::ACCESS);
    assert_errno!(set(Caller::user(lo(1000))), Errno::ACCESS);
    assert!(get(Caller::user(7).groups(&[50])).is_ok());
    assert_errno!(get(Caller::user(7)), Errno::ACCESS);
    assert_eq!(set(Caller::user(0)), Ok(()));
}

fn on_other_kinds_of_files() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        rustix::fs::symlink("dir", lower.join("link")).unwrap();
        common::chown(&lower.join("link"), Some(lo(0)), Some(lo(0))).unwrap();
        common::raw::mknod(&lower.join("fifo"), 0o010_666, 0).unwrap();
        common::chown(&lower.join("fifo"), Some(lo(0)), Some(lo(0))).unwrap();
    });
    set_xattr(&mount.up("dir"), "user.a", b"x").unwrap();
    assert_eq!(get_xattr(&mount.low("dir"), "user.a").unwrap(), b"x");
    assert_errno!(set_xattr(&mount.up("link"), "user.a", b"x"), Errno::PERM);
    assert_errno!(set_xattr(&mount.up("fifo"), "user.a", b"x"), Errno::PERM);
    assert_errno!(get_xattr(&mount.up("fifo"), "user.a"), Errno::NODATA);
}

fn trusted_and_security() {
    let mount = one_file(0o666, 1000, 1000);
    let up = mount.up("file");
    let user = Caller::user(1000);
    assert_errno!(user.run(|| set_xattr(&up, "trusted.a", b"x")), Errno::PERM);
    assert_errno!(user.run(|| get_xattr(&up, "trusted.a")), Errno::NODATA);
    needs_real_root("trusted attributes");
    set_xattr(&up, "trusted.a", b"x").unwrap();
    assert_eq!(get_xattr(&mount.low("file"), "trusted.a").unwrap(), b"x");
    assert_eq!(list_xattr(&up).unwrap(), ["trusted.a"]);
    assert_eq!(user.run(|| list_xattr(&up)).unwrap(), [""; 0], "hidden from users");
    assert_errno!(user.run(|| get_xattr(&up, "trusted.a")), Errno::NODATA);
    assert_errno!(user.run(|| lremovexattr(&up, "trusted.a")), Errno::PERM);
    // Before that the BPF security module, where it is on, lets whoever may write to the file.
    if common::older::kernel() >= (6, 10) {
        assert_errno!(user.run(|| set_xattr(&up, "security.x", b"x")), Errno::PERM);
    }
    set_xattr(&up, "security.x", b"x").unwrap();
    assert_eq!(get_xattr(&mount.low("file"), "security.x").unwrap(), b"x");
}

/// The owner may read and write, user 7 and group 8 too, all others nothing.
fn named(user: u32, group: u32) -> Vec<AclEntry> {
    vec![
        (USER_OBJ, 6, NO_ID),
        (USER, 6, user),
        (GROUP_OBJ, 0, NO_ID),
        (GROUP, 6, group),
        (MASK, 6, NO_ID),
        (OTHER, 0, NO_ID),
    ]
}

fn access_acl_shifts_both_ways() {
    let mount = one_file(0o600, 1000, 1000);
    let (up, low) = (mount.up("file"), mount.low("file"));
    Caller::user(1000).run(|| set_xattr(&up, ACL_ACCESS, &acl(&named(7, 8)))).unwrap();
    assert_eq!(parse_acl(&get_xattr(&low, ACL_ACCESS).unwrap()), named(lo(7), lo(8)));
    assert_eq!(parse_acl(&get_xattr(&up, ACL_ACCESS).unwrap()), named(7, 8));
    assert_eq!(mode(&up), 0o660, "the mask shows as the group's rights");
    assert_eq!(mode(&low), 0o660);
    assert!(list_xattr(&up).unwrap().contains(&ACL_ACCESS.to_owned()));
    // Stored below, seen above.
    let second = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o600, lo(0), lo(0));
        set_xattr(&lower.join("file"), ACL_ACCESS, &acl(&named(lo(70), lo(80)))).unwrap();
    });
    let seen = get_xattr(&second.up("file"), ACL_ACCESS).unwrap();
    assert_eq!(parse_acl(&seen), named(70, 80));
}

fn acl_is_enforced() {
    let mount = one_file(0o600, 1000, 1000);
    set_xattr(&mount.up("file"), ACL_ACCESS, &acl(&named(7, 8))).unwrap();
    let can = |caller: Caller, flags| caller.run(|| open(&mount.up("file"), flags, 0).map(drop));
    assert_eq!(can(Caller::user(7), OFlags::RDWR), Ok(()));
    assert_eq!(can(Caller::user(9).gid(8), OFlags::RDWR), Ok(()));
    assert_eq!(can(Caller::user(9).groups(&[8]), OFlags::RDWR), Ok(()));
    assert_errno!(can(Caller::user(9), OFlags::RDONLY), Errno::ACCESS);
    assert_errno!(can(Caller::user(8).gid(9), OFlags::RDONLY), Errno::ACCESS);
    assert_errno!(can(Caller::user(lo(7)), OFlags::RDONLY), Errno::ACCESS);
    // An ACL can also take away: user 9 is named with nothing.
    let mut entries = named(9, 8);
    entries[1].1 = 0;
    entries[5].1 = 4;
    set_xattr(&mount.up("file"), ACL_ACCESS, &acl(&entries)).unwrap();
    assert_errno!(can(Caller::user(9), OFlags::RDONLY), Errno::ACCESS);
    assert_eq!(can(Caller::user(10), OFlags::RDONLY), Ok(()));
}

fn acl_of_several_extents() {
    let maps = "map=b:20000:0:10,map=u:30000:10:10,map=g:30100:10:10";
    let mount = Mount::with(maps, |lower| {
        put_file(&lower.join("file"), b"", 0o600, BASE, BASE);
    });
    set_xattr(&mount.up("file"), ACL_ACCESS, &acl(&named(12, 13))).unwrap();
    let stored = get_xattr(&mount.low("file"), ACL_ACCESS).unwrap();
    assert_eq!(parse_acl(&stored), named(30_002, 30_103));
    assert_eq!(parse_acl(&get_xattr(&mount.up("file"), ACL_ACCESS).unwrap()), named(12, 13));
}

fn acl_with_an_unmapped_id() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o600, lo(0), lo(0));
        set_xattr(&lower.join("file"), ACL_ACCESS, &acl(&named(UNMAPPED, lo(8)))).unwrap();
    });
    let up = mount.up("file");
    let seen = parse_acl(&get_xattr(&up, ACL_ACCESS).unwrap());
    if common::machine().kernel_backend {
        assert_eq!(seen, named(NO_ID, 8));
    } else {
        // FUSE takes no ACL with an invalid id: the entry shows as an id that nobody has and has
        // no rights or, where no such id exists, not at all. docs/semantics.md lists it.
        let mut expected = named(NO_ID - 1, 8);
        expected[1].1 = 0;
        let without: Vec<_> = expected.iter().copied().filter(|entry| entry.0 != USER).collect();
        assert!(seen == expected || seen == without, "{seen:?}");
    }
    let read = |caller: Caller| caller.run(|| open(&up, OFlags::RDONLY, 0).map(drop));
    assert_eq!(read(Caller::user(9).gid(8)), Ok(()));
    assert_errno!(read(Caller::user(UNMAPPED)), Errno::ACCESS);
    assert_errno!(read(Caller::user(65_534)), Errno::ACCESS);
    let stored = get_xattr(&mount.low("file"), ACL_ACCESS).unwrap();
    assert_errno!(set_xattr(&up, ACL_ACCESS, &acl(&named(UNMAPPED, 8))), Errno::INVAL);
    assert_errno!(set_xattr(&up, ACL_ACCESS, &acl(&named(7, UNMAPPED))), Errno::INVAL);
    assert_eq!(get_xattr(&mount.low("file"), ACL_ACCESS).unwrap(), stored);
}

fn acl_that_is_only_a_mode() {
    let mount = one_file(0o600, 1000, 1000);
    let minimal = [(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 4, NO_ID)];
    set_xattr(&mount.up("file"), ACL_ACCESS, &acl(&minimal)).unwrap();
    assert_eq!(mode(&mount.up("file")), 0o644);
    assert_eq!(mode(&mount.low("file")), 0o644);
    assert_errno!(get_xattr(&mount.low("file"), ACL_ACCESS), Errno::NODATA);
    assert_errno!(get_xattr(&mount.up("file"), ACL_ACCESS), Errno::NODATA);
}

fn acl_and_chmod() {
    let mount = one_file(0o600, 1000, 1000);
    let up = mount.up("file");
    set_xattr(&up, ACL_ACCESS, &acl(&named(7, 8))).unwrap();
    set_mode(&up, 0o614).unwrap();
    let mut expected = named(7, 8);
    expected[4].1 = 1;
    expected[5].1 = 4;
    assert_eq!(parse_acl(&get_xattr(&up, ACL_ACCESS).unwrap()), expected, "chmod sets the mask");
    let denied = Caller::user(7).run(|| open(&up, OFlags::RDONLY, 0).map(drop));
    assert_errno!(denied, Errno::ACCESS);
    set_mode(&up, 0o660).unwrap();
    Caller::user(7).run(|| open(&up, OFlags::RDWR, 0)).unwrap();
}

fn acl_is_for_the_owner() {
    let mount = one_file(0o666, 1000, 1000);
    let up = mount.up("file");
    let set = |caller: Caller| caller.run(|| set_xattr(&up, ACL_ACCESS, &acl(&named(7, 8))));
    assert_errno!(set(Caller::user(1001)), Errno::PERM);
    assert_errno!(set(Caller::user(lo(1000))), Errno::PERM);
    assert_eq!(set(Caller::user(1000)), Ok(()));
    let removed = Caller::user(1001).run(|| lremovexattr(&up, ACL_ACCESS));
    assert_errno!(removed, Errno::PERM);
    // With an unmapped owner nobody may.
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"", 0o666, UNMAPPED, UNMAPPED);
    });
    let set = set_xattr(&mount.up("file"), ACL_ACCESS, &acl(&named(7, 8)));
    assert_errno!(set, Errno::PERM);
}

fn removed_acl() {
    let mount = one_file(0o600, 1000, 1000);
    let up = mount.up("file");
    set_xattr(&up, ACL_ACCESS, &acl(&named(7, 8))).unwrap();
    Caller::user(7).run(|| open(&up, OFlags::RDONLY, 0)).unwrap();
    lremovexattr(&up, ACL_ACCESS).unwrap();
    assert_errno!(get_xattr(&mount.low("file"), ACL_ACCESS), Errno::NODATA);
    assert_errno!(get_xattr(&up, ACL_ACCESS), Errno::NODATA);
    let denied = Caller::user(7).run(|| open(&up, OFlags::RDONLY, 0).map(drop));
    assert_errno!(denied, Errno::ACCESS);
    assert_eq!(mode(&up), mode(&mount.low("file")));
}

/// A file system without attributes, taken away when this goes out of scope.
struct Ramfs(PathBuf);

impl Ramfs {
    fn at(path: PathBuf) -> Self {
        put_dir(&path, 0o755, 0, 0);
        rustix::mount::mount("ramfs", &path, "ramfs", MountFlags::empty(), None).unwrap();
        chown(&path, Some(BASE), Some(BASE)).unwrap();
        set_mode(&path, 0o777).unwrap();
        Self(path)
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// The kernel above asks for ACLs; where the lower file system has none, modes alone decide.
fn lower_without_acls() {
    needs_idshift();
    needs_real_root("a ramfs");
    let dir = temp_dir();
    let ramfs = Ramfs::at(dir.path().join("ramfs"));
    let lower = &ramfs.0;
    put_file(&lower.join("file"), b"content", 0o640, lo(1000), lo(1000));
    put_dir(&lower.join("dir"), 0o750, lo(1000), lo(1000));
    assert_errno!(get_xattr(&lower.join("file"), ACL_ACCESS), Errno::OPNOTSUPP);
    let mount = Mount::of(dir, lower.clone(), common::MAP);
    let file = mount.up("file");
    assert_errno!(get_xattr(&file, ACL_ACCESS), Errno::OPNOTSUPP);
    Caller::user(1000).run(|| {
        create(&mount.up("dir/new"), 0o644).unwrap();
        open(&file, OFlags::RDWR, 0).unwrap();
        let read_all = acl(&[(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 4, NO_ID)]);
        assert_errno!(set_xattr(&file, ACL_ACCESS, &read_all), Errno::OPNOTSUPP);
    });
    Caller::user(1001).groups(&[1000]).run(|| {
        open(&file, OFlags::RDONLY, 0).unwrap();
        assert_errno!(open(&file, OFlags::RDWR, 0), Errno::ACCESS);
        assert_eq!(std::fs::read_dir(mount.up("dir")).unwrap().count(), 1);
    });
    Caller::user(1002).run(|| {
        assert_errno!(open(&file, OFlags::RDONLY, 0), Errno::ACCESS);
        create(&mount.up("mine"), 0o600).unwrap();
    });
}

fn setgid_goes_with_an_acl_of_a_stranger_to_the_group() {
    let mount = Mount::with(common::MAP, |lower| {
        for name in ["stranger", "member", "root"] {
            put_file(&lower.join(name), b"", 0o2770, lo(1000), lo(50));
        }
    });
    let set = |caller: Caller, name: &str| {
        caller.run(|| set_xattr(&mount.up(name), ACL_ACCESS, &acl(&named(7, 8)))).unwrap();
        assert_eq!(mode(&mount.up(name)), mode(&mount.low(name)), "{name}");
        mode(&mount.low(name)) & 0o2000
    };
    assert_eq!(set(Caller::user(1000), "stranger"), 0, "stranger");
    assert_eq!(set(Caller::user(1000).groups(&[50]), "member"), 0o2000, "member");
    assert_eq!(set(Caller::user(0), "root"), 0o2000, "root");
}

fn default_acl_is_inherited() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o777, lo(0), lo(0));
    });
    let dir = mount.up("dir");
    set_xattr(&dir, ACL_DEFAULT, &acl(&named(7, 8))).unwrap();
    let stored = get_xattr(&mount.low("dir"), ACL_DEFAULT).unwrap();
    assert_eq!(parse_acl(&stored), named(lo(7), lo(8)));
    Caller::user(1000).run(|| {
        create(&dir.join("file"), 0o666).unwrap();
        mkdir(&dir.join("sub"), 0o777).unwrap();
        rustix::fs::symlink("x", dir.join("link")).unwrap();
        common::raw::mknod(&dir.join("fifo"), 0o010_666, 0).unwrap();
    });
    for name in ["file", "fifo"] {
        let seen = get_xattr(&dir.join(name), ACL_ACCESS).unwrap();
        assert_eq!(parse_acl(&seen), named(7, 8), "{name}");
        assert_errno!(get_xattr(&dir.join(name), ACL_DEFAULT), Errno::NODATA);
    }
    let sub = dir.join("sub");
    assert_eq!(parse_acl(&get_xattr(&sub, ACL_DEFAULT).unwrap()), named(7, 8));
    assert_eq!(parse_acl(&get_xattr(&sub, ACL_ACCESS).unwrap()), named(7, 8));
    Caller::user(7).run(|| open(&dir.join("file"), OFlags::RDWR, 0)).unwrap();
    let other = Caller::user(9).run(|| open(&dir.join("file"), OFlags::RDONLY, 0).map(drop));
    assert_errno!(other, Errno::ACCESS);
    assert_eq!(owner(&mount.low("dir/file")), (lo(1000), lo(1000)));
}

fn default_acl_and_umask() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o777, lo(0), lo(0));
        set_xattr(&lower.join("dir"), ACL_DEFAULT, &acl(&named(lo(7), lo(8)))).unwrap();
    });
    // With a default ACL the umask does not count; the mode that was asked for does.
    Caller::user(1000).umask(0o077).run(|| {
        create(&mount.up("dir/file"), 0o666).unwrap();
        create(&mount.up("dir/private"), 0o600).unwrap();
        mkdir(&mount.up("dir/sub"), 0o777).unwrap();
        create(&mount.up("outside"), 0o666).unwrap();
    });
    assert_eq!(mode(&mount.low("dir/file")), 0o660);
    assert_eq!(mode(&mount.up("dir/file")), 0o660);
    assert_eq!(mode(&mount.low("dir/private")), 0o600);
    assert_eq!(mode(&mount.low("dir/sub")), 0o660);
    assert_eq!(mode(&mount.low("outside")), 0o600, "elsewhere it counts");
    let seen = parse_acl(&get_xattr(&mount.up("dir/private"), ACL_ACCESS).unwrap());
    assert_eq!(seen[4], (MASK, 0, NO_ID), "the mask was cut instead");
}

fn default_acl_on_a_file() {
    let mount = one_file(0o644, 0, 0);
    let set = set_xattr(&mount.up("file"), ACL_DEFAULT, &acl(&named(7, 8)));
    assert_errno!(set, Errno::ACCESS);
}

fn broken_acl() {
    let mount = one_file(0o644, 0, 0);
    let up = mount.up("file");
    let good = acl(&named(7, 8));
    assert_errno!(set_xattr(&up, ACL_ACCESS, &good[..good.len() - 1]), Errno::INVAL);
    assert_errno!(set_xattr(&up, ACL_ACCESS, &good[..3]), Errno::INVAL);
    assert_errno!(set_xattr(&up, ACL_ACCESS, &good[..12]), Errno::INVAL);
    let mut version = good.clone();
    version[0] = 9;
    assert_errno!(set_xattr(&up, ACL_ACCESS, &version), Errno::OPNOTSUPP);
    let mut tag = good;
    tag[4] = 0x40;
    assert_errno!(set_xattr(&up, ACL_ACCESS, &tag), Errno::INVAL);
    assert_eq!(mode(&mount.low("file")), 0o644);
}

fn setfacl_and_getfacl() {
    common::runner::needs_program("setfacl");
    let mount = Mount::new();
    std::fs::create_dir_all(mount.up("tree/sub")).unwrap();
    std::fs::write(mount.up("tree/sub/file"), "x").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let out = std::process::Command::new(program)
            .args(arguments)
            .current_dir(mount.up(""))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    run("setfacl", &["-R", "-m", "u:7:rwX,g:8:r-X,d:u:7:rwX", "tree"]);
    let text = run("getfacl", &["-R", "-n", "tree"]);
    assert!(text.contains("user:7:rw-") && text.contains("group:8:r--"), "{text}");
    let below = get_xattr(&mount.low("tree/sub/file"), ACL_ACCESS).unwrap();
    assert!(parse_acl(&below).contains(&(USER, 6, lo(7))));
    run("setfacl", &["-R", "-b", "tree"]);
    assert_errno!(get_xattr(&mount.low("tree/sub/file"), ACL_ACCESS), Errno::NODATA);
    std::fs::write(mount.up("saved"), &text).unwrap();
    run("setfacl", &["--restore=saved"]);
    assert_eq!(run("getfacl", &["-R", "-n", "tree"]), text);
}

const CAPABILITY: &str = "security.capability";
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;
/// CAP_NET_RAW
const RIGHTS: u32 = 1 << 13;

fn capability_v3(root: u32) -> Vec<u8> {
    [REVISION_3 | EFFECTIVE, RIGHTS, 0, 0, 0, root]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

fn capability_v2() -> Vec<u8> {
    [REVISION_2 | EFFECTIVE, RIGHTS, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn capability_root_id_is_shifted() {
    needs_real_root("file capabilities of other namespaces");
    let mount = one_file(0o755, 0, 0);
    let (up, low) = (mount.up("file"), mount.low("file"));
    set_xattr(&up, CAPABILITY, &capability_v3(1_000)).unwrap();
    assert_eq!(get_xattr(&low, CAPABILITY).unwrap(), capability_v3(lo(1_000)));
    assert_eq!(get_xattr(&up, CAPABILITY).unwrap(), capability_v3(1_000));
    assert_errno!(set_xattr(&up, CAPABILITY, &capability_v3(UNMAPPED)), Errno::INVAL);
    lremovexattr(&up, CAPABILITY).unwrap();
    assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
    set_xattr(&low, CAPABILITY, &capability_v3(UNMAPPED)).unwrap();
    assert_errno!(get_xattr(&up, CAPABILITY), Errno::OVERFLOW);
}

fn capability_of_version_two() {
    needs_real_root("file capabilities");
    let mount = one_file(0o755, 0, 0);
    let (up, low) = (mount.up("file"), mount.low("file"));
    set_xattr(&up, CAPABILITY, &capability_v2()).unwrap();
    assert_eq!(get_xattr(&up, CAPABILITY).unwrap(), capability_v2());
    // Below it must hold for the lower id of root only, not for the host's root.
    assert_eq!(get_xattr(&low, CAPABILITY).unwrap(), capability_v3(lo(0)));
}

fn capability_goes_with_a_write() {
    needs_real_root("file capabilities");
    let mount = one_file(0o777, 0, 0);
    let (up, low) = (mount.up("file"), mount.low("file"));
    for caller in [Caller::user(1000), Caller::user(0)] {
        set_xattr(&up, CAPABILITY, &capability_v2()).unwrap();
        get_xattr(&up, CAPABILITY).unwrap();
        caller.run(|| {
            let fd = open(&up, OFlags::WRONLY, 0).unwrap();
            rustix::io::write(&fd, b"new program").unwrap();
        });
        assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
        assert_errno!(get_xattr(&up, CAPABILITY), Errno::NODATA);
    }
    set_xattr(&up, CAPABILITY, &capability_v2()).unwrap();
    common::chown(&up, Some(5), None).unwrap();
    assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
    set_xattr(&up, CAPABILITY, &capability_v2()).unwrap();
    Caller::user(5).run(|| common::raw::truncate(&up, 0)).unwrap();
    assert_errno!(get_xattr(&low, CAPABILITY), Errno::NODATA);
}

fn capability_needs_the_right() {
    let mount = one_file(0o777, 1000, 1000);
    let set = Caller::user(1000).run(|| set_xattr(&mount.up("file"), CAPABILITY, &capability_v2()));
    assert_errno!(set, Errno::PERM);
    assert_errno!(get_xattr(&mount.low("file"), CAPABILITY), Errno::NODATA);
}
