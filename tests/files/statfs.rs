//! What statfs(2) says of the mount.

use crate::common::{self, Errno, Mount, assert_errno, lo, put_file};
use rustix::fs::{StatVfsMountFlags, fstatvfs, statfs, statvfs};

crate::common::tests!(numbers_are_the_lower_ones, anywhere_in_the_tree, flags_are_the_mounts);

fn numbers_are_the_lower_ones() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o644, lo(0), lo(0));
    });
    let (up, low) = (statfs(mount.up("")).unwrap(), statfs(mount.low("")).unwrap());
    assert_eq!(up.f_blocks, low.f_blocks);
    assert_eq!(up.f_bsize, low.f_bsize);
    assert_eq!(up.f_frsize, low.f_frsize);
    assert_eq!(up.f_files, low.f_files);
    assert_eq!(up.f_namelen, low.f_namelen);
    // Others use the disk meanwhile: near is enough.
    let near = |one: u64, other: u64| one.abs_diff(other) < low.f_blocks / 20;
    assert!(near(up.f_bfree, low.f_bfree), "{} {}", up.f_bfree, low.f_bfree);
    assert!(near(up.f_bavail, low.f_bavail), "{} {}", up.f_bavail, low.f_bavail);
    assert!(up.f_ffree.abs_diff(low.f_ffree) <= low.f_files / 20);
}

fn anywhere_in_the_tree() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o644, lo(0), lo(0));
    });
    assert_eq!(statfs(mount.up("file")).unwrap().f_blocks, statfs(mount.up("")).unwrap().f_blocks);
    assert_errno!(statfs(mount.up("missing")), Errno::NOENT);
    let file = std::fs::File::open(mount.up("file")).unwrap();
    std::fs::remove_file(mount.up("file")).unwrap();
    assert!(fstatvfs(&file).unwrap().f_blocks > 0, "of a removed file too");
}

fn flags_are_the_mounts() {
    let flags = |options: &str| {
        let mount = Mount::with(&format!("{}{options}", common::MAP), |_| ());
        statvfs(mount.up("")).unwrap().f_flag
    };
    let read_only = StatVfsMountFlags::RDONLY;
    assert!(flags(",ro").contains(read_only));
    assert!(!flags("").contains(read_only));
    assert!(flags(",nosuid").contains(StatVfsMountFlags::NOSUID));
}
