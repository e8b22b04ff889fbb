//! Lower file systems for which the kernel has no idmapped mounts, or that keep no owners. The
//! same calls are made on each by itself and through a mount, and the answers must be the same:
//! what such a file system cannot do, a mount of it cannot do, and nothing else is different.

mod gluster;
mod kinds;
mod observe;

use std::fs::{self, File};
use std::path::Path;

use crate::common::mount::temp_dir;
use crate::common::program::idshift;
use crate::common::{
    self, Caller, Errno, MAP, Mount, OFlags, assert_errno, chown, create, eventually, get_xattr,
    lo, open, owner, put_dir, put_file, set_mode, set_xattr, stat,
};
use kinds::Lower;
use observe::{LOGIN, Seen, Side, everything};
use rustix::fs::{FlockOperation, flock, unlink};

crate::common::tests!(
    overlayfs,
    overlayfs_files_keep_their_inode_when_they_are_copied_up,
    another_idshift,
    bindfs,
    reused_numbers_without_times_of_birth,
    sshfs,
    sshfs_when_its_server_restarts,
    sshfs_when_it_ends,
    glusterfs,
    vfat,
    exfat,
    squashfs,
    erofs,
);

/// Makes two directories on a lower file system and asks all there is to ask in each: in one
/// directly, in the other through a mount. The answers must be the same; returns them.
fn compare(lower: &Lower) -> Seen {
    for name in ["alone", "shifted"] {
        let path = lower.root.join(name);
        common::mkdir(&path, 0o777).unwrap();
        chown(&path, Some(common::BASE), Some(common::BASE)).ok();
        set_mode(&path, 0o777).ok();
    }
    let alone = everything(&Side { root: lower.root.join("alone"), lower: true });
    let mount = mount(lower, "shifted", "cache=none");
    let through = everything(&Side { root: mount.up(""), lower: false });
    let differing: Vec<String> = alone
        .iter()
        .zip(&through)
        .filter(|(by_itself, shifted)| by_itself != shifted)
        .map(|((what, by_itself), (_, shifted))| {
            format!("{what}: {by_itself} alone, {shifted} shifted")
        })
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    // What was made through the mount is below as it was shown.
    let side = Side { root: mount.up(""), lower: false };
    let below = Side { root: lower.root.join("shifted"), lower: true };
    for entry in fs::read_dir(&below.root).unwrap() {
        let name = entry.unwrap().file_name();
        let (shown, stored) = (side.look(&mount.up(&name)), below.look(&below.root.join(&name)));
        assert_eq!(shown, stored, "{}", name.display());
    }
    alone
}

/// A mount of a directory of the lower file system.
fn mount(lower: &Lower, name: &str, options: &str) -> Mount {
    let options = format!("{MAP},map=b:0:{LOGIN}:1,{options}");
    Mount::of(temp_dir(), lower.root.join(name), &options)
}

fn answer<'a>(seen: &'a Seen, what: &str) -> &'a str {
    &seen.iter().find(|(asked, _)| *asked == what).unwrap().1
}

/// Asserts what docs/lower-file-systems.md says of a file system.
fn says(seen: &Seen, expected: &[(&str, &str)]) {
    for (what, beginning) in expected {
        let is = answer(seen, what);
        assert!(is.starts_with(beginning), "{what}: {is}, not {beginning}");
    }
}

/// What a file system of Linux with all there is answers.
const WHOLE: &[(&str, &str)] = &[
    ("a file of 1000", "1000:1000 100640"),
    ("a fifo of 1000", "1000:1000 10600"),
    ("chown by root", "5:6 "),
    ("a time", "() Some((1000000000, 123456789))"),
    ("a hard link", "true"),
    ("user.* read", "[116, 101, 120, 116]"),
    ("an ACL read", "Some((\"33\", 6))"),
];

fn overlayfs() {
    let seen = compare(&kinds::overlayfs());
    says(&seen, WHOLE);
    says(&seen, &[("O_TMPFILE", "()"), ("RENAME_EXCHANGE", "()")]);
}

/// The first change of a file of the lower layer copies it to the upper one, and statx(2) then
/// gives it another time of birth. It is the same file still: a lock on it is one lock.
fn overlayfs_files_keep_their_inode_when_they_are_copied_up() {
    let lower = kinds::overlayfs();
    let dir = lower.behind.join("layered"); // the lower layer
    put_dir(&dir, 0o755, lo(0), lo(0));
    put_file(&dir.join("lock"), b"as it was", 0o644, lo(0), lo(0));
    let born = |path: &Path| {
        let mask = rustix::fs::StatxFlags::BTIME;
        let seen = rustix::fs::statx(common::CWD, path, common::AtFlags::empty(), mask).unwrap();
        (seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec)
    };
    let mount = mount(&lower, "layered", "cache=none");
    let path = mount.up("lock");
    let (number, birth) = (stat(&path).st_ino, born(&dir.join("lock")));
    let first = File::options().read(true).write(true).open(&path).unwrap();
    assert_ne!(born(&lower.root.join("layered/lock")), birth, "the open has copied it up");
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    let second = File::open(&path).unwrap();
    assert_errno!(flock(&second, FlockOperation::NonBlockingLockShared), Errno::WOULDBLOCK);
    assert_eq!(stat(&path).st_ino, number);
    fs::write(&path, "changed").unwrap();
    assert_eq!(fs::read(lower.root.join("layered/lock")).unwrap(), b"changed");
    assert_eq!(fs::read(dir.join("lock")).unwrap(), b"as it was", "the layer is untouched");
}

fn another_idshift() {
    let seen = compare(&kinds::another_idshift());
    says(&seen, WHOLE);
    says(&seen, &[("O_TMPFILE", "()"), ("RENAME_EXCHANGE", "()")]);
}

fn bindfs() {
    let seen = compare(&kinds::bindfs());
    says(&seen, WHOLE);
    says(&seen, &[("O_TMPFILE", "Operation not supported"), ("RENAME_EXCHANGE", "Invalid")]);
}

/// bindfs gives inode numbers of another file system and no times of birth. A number that is used
/// again while the kernel still knows its former file must not be taken for that.
fn reused_numbers_without_times_of_birth() {
    let lower = kinds::bindfs();
    put_dir(&lower.root.join("dir"), 0o777, lo(0), lo(0));
    let mount = mount(&lower, "dir", "cache=none");
    for round in 0..150 {
        let (old, new) = (mount.up(format!("old{round}")), mount.up(format!("new{round}")));
        fs::write(&old, "the old one").unwrap();
        let kept = File::open(&old).unwrap();
        unlink(&old).unwrap();
        drop(kept);
        fs::write(&new, round.to_string()).unwrap();
        assert_eq!(fs::read_to_string(&new).unwrap(), round.to_string());
        // Replaced below, where the mount does not see it.
        let below = lower.root.join(format!("dir/new{round}"));
        unlink(&below).unwrap();
        if round % 2 == 0 {
            fs::write(&below, "another one").unwrap();
            assert_eq!(fs::read_to_string(&new).unwrap(), "another one");
        } else {
            put_dir(&below, 0o755, lo(1), lo(1));
            assert!(fs::metadata(&new).unwrap().is_dir());
        }
    }
}

fn sshfs() {
    let lower = kinds::sshfs();
    let seen = compare(&lower);
    says(
        &seen,
        &[
            ("a file of 1000", "login:login 100640"),
            ("chown by root", "5:6 "),
            ("a fifo of 1000", "Operation not permitted"),
            ("a time", "() Some((1000000000, 0))"),
            ("a hard link", "false"),
            ("user.* set", "Operation not supported"),
            ("used after its removal", "Ok(()) true still here"),
        ],
    );
    no_attributes(&lower);
}

/// `ownership=xattr` needs attributes; where there are none the mount says so and does not happen.
fn no_attributes(lower: &Lower) {
    let dir = temp_dir();
    let point = dir.path().join("upper");
    put_dir(&point, 0o755, 0, 0);
    let options = "map=b:0:0:60000,ownership=xattr";
    let called = idshift(&[&"mount", &"-o", &options, &lower.root.join("shifted"), &point]);
    assert_eq!(called.code, 32, "{called:?}");
    assert!(called.err.contains("ownership=xattr") && called.err.contains("no"), "{called:?}");
    assert!(!common::mount::is_mounted(&point));
}

/// While the server is away callers get an error and no hang; when it is back, everything works
/// without a new mount, files that were open before excepted.
fn sshfs_when_its_server_restarts() {
    let mut lower = kinds::sshfs();
    put_dir(&lower.behind.join("dir"), 0o777, 0, 0);
    fs::write(lower.behind.join("dir/file"), "before").unwrap();
    let mount = mount(&lower, "dir", "cache=none");
    let path = mount.up("file");
    let mut opened = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    lower.stop_sshd();
    let refused = fs::read_to_string(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
    lower.start_sshd();
    eventually("sshfs connects again", || fs::read_to_string(&path).is_ok());
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    let late = std::io::Write::write_all(&mut opened, b"x").and_then(|()| opened.sync_all());
    assert_eq!(late.unwrap_err().raw_os_error(), Some(libc::EIO), "its handle has gone");
    fs::write(mount.up("new"), "after").unwrap();
    assert_eq!(fs::read_to_string(lower.behind.join("dir/new")).unwrap(), "after");
    assert_eq!(owner(&mount.up("new")), (LOGIN, LOGIN));
}

/// When the lower file system's own server ends, callers get its ENOTCONN, and the mount goes away
/// with umount(8) as ever. A new sshfs needs a new mount: this one holds the old one.
fn sshfs_when_it_ends() {
    let mut lower = kinds::sshfs();
    put_dir(&lower.behind.join("dir"), 0o777, 0, 0);
    fs::write(lower.behind.join("dir/file"), "text").unwrap();
    let mount = mount(&lower, "dir", "cache=none");
    assert_eq!(fs::read_to_string(mount.up("file")).unwrap(), "text");
    lower.end_sshfs();
    assert_errno!(open(&mount.up("file"), OFlags::RDONLY, 0), Errno::NOTCONN);
    assert_errno!(create(&mount.up("new"), 0o600), Errno::NOTCONN);
    assert_eq!(mount.unmount().and_then(|status| status.code()), Some(0));
}

fn glusterfs() {
    let volume = gluster::Volume::start();
    let lower = volume.mount();
    let seen = compare(&lower);
    says(&seen, WHOLE);
    shown_on_two_hosts(&lower, &volume.mount());
}

/// The same volume mounted twice, as on two hosts, and shown with two maps: each sees what the
/// other does when it asks, and owners are those of one tree.
fn shown_on_two_hosts(lower: &Lower, other: &Lower) {
    put_dir(&lower.root.join("dir"), 0o777, lo(0), lo(0));
    let here = mount(lower, "dir", "cache=none");
    let there = Mount::of(temp_dir(), other.root.join("dir"), "map=b:20000:50000:20000,cache=none");
    Caller::user(1000).run(|| fs::write(here.up("file"), "one")).unwrap();
    assert_eq!(owner(&there.up("file")), (51_000, 51_000));
    assert_eq!(fs::read_to_string(there.up("file")).unwrap(), "one");
    Caller::user(51_000).run(|| fs::write(there.up("file"), "another")).unwrap();
    assert_eq!(fs::read_to_string(here.up("file")).unwrap(), "another");
    Caller::user(51_000).run(|| fs::rename(there.up("file"), there.up("moved"))).unwrap();
    eventually("the new name is seen", || !common::exists(&here.up("file")));
    assert_eq!(owner(&here.up("moved")), (1000, 1000));
    drop((here, there));
    // With times, and with locks that the volume keeps.
    let here = mount(lower, "dir", "cache=ttl:1,locks=lower");
    let there = Mount::of(temp_dir(), other.root.join("dir"), "map=b:20000:0:20000,locks=lower");
    assert_eq!(fs::read_to_string(there.up("moved")).unwrap(), "another");
    fs::write(here.up("moved"), "a third").unwrap();
    eventually("the text is seen", || {
        fs::read_to_string(there.up("moved")).is_ok_and(|text| text == "a third")
    });
    let (one, two) =
        (File::open(here.up("moved")).unwrap(), File::open(there.up("moved")).unwrap());
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_errno!(flock(&two, FlockOperation::NonBlockingLockExclusive), Errno::WOULDBLOCK);
    drop(one);
    eventually("the lock is free", || {
        flock(&two, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
}

fn vfat() {
    owns_nothing("vfat");
}

fn exfat() {
    owns_nothing("exfat");
}

/// One owner for everything, by an option of the lower mount: creating works, giving away does
/// not, and there are no attributes to keep owners in.
fn owns_nothing(kind: &'static str) {
    let lower = kinds::without_owners(kind);
    let seen = compare(&lower);
    says(
        &seen,
        &[
            ("a file of 1000", "0:0 100777"),
            ("chown by root", "Operation not permitted"),
            ("a hard link", "Operation not permitted"),
            ("user.* set", "Operation not supported"),
            ("rename", "0:0 "),
            ("used after its removal", "Ok(()) true still here"),
        ],
    );
    no_attributes(&lower);
}

fn squashfs() {
    read_only_image("squashfs");
}

fn erofs() {
    read_only_image("erofs");
}

/// An image keeps owners, modes and attributes, and everything else is refused.
fn read_only_image(kind: &str) {
    let lower = kinds::image(kind, |tree| {
        put_dir(&tree.join("dir"), 0o755, lo(0), lo(0));
        put_file(&tree.join("dir/file"), b"text", 0o640, lo(1000), lo(7));
        put_file(&tree.join("dir/foreign"), b"", 0o644, 5, 5);
        rustix::fs::link(tree.join("dir/file"), tree.join("dir/hard")).unwrap();
        rustix::fs::symlink("file", tree.join("dir/link")).unwrap();
        set_xattr(&tree.join("dir/file"), "user.note", b"noted").unwrap();
        for number in 0..300 {
            put_file(&tree.join(format!("dir/{number}")), b"", 0o600, lo(number), lo(0));
        }
    });
    let mount = mount(&lower, "dir", "cache=none");
    assert_eq!(owner(&mount.up("file")), (1000, 7));
    assert_eq!(owner(&mount.up("foreign")), (65_534, 65_534));
    assert_eq!(owner(&mount.up("299")), (299, 0));
    assert_eq!(stat(&mount.up("file")).st_ino, stat(&mount.up("hard")).st_ino);
    assert_eq!(fs::read_link(mount.up("link")).unwrap(), Path::new("file"));
    assert_eq!(fs::read_dir(mount.up("")).unwrap().count(), 304);
    let attribute = |path: &Path| get_xattr(path, "user.note");
    let native = attribute(&lower.root.join("dir/file"));
    assert_eq!(attribute(&mount.up("file")), native);
    assert_eq!(native.unwrap(), b"noted");
    let read = |caller: Caller| caller.run(|| fs::read_to_string(mount.up("file")).ok());
    assert_eq!(read(Caller::user(1000)).as_deref(), Some("text"));
    assert_eq!(read(Caller::user(5).gid(7)).as_deref(), Some("text"));
    assert_eq!(read(Caller::user(5)), None);
    assert_errno!(open(&mount.up("file"), OFlags::RDWR, 0), Errno::ROFS);
    assert_errno!(create(&mount.up("new"), 0o600), Errno::ROFS);
    // squashfs has no ACLs, erofs may have none here.
    let acl = |path: &Path| get_xattr(path, common::ACL_ACCESS);
    assert_eq!(acl(&mount.up("file")), acl(&lower.root.join("dir/file")));
    assert_errno!(chown(&mount.up("file"), Some(5), None), Errno::ROFS);
    assert_errno!(unlink(mount.up("file")), Errno::ROFS);
    let attribute = |path: &Path| set_xattr(path, "user.note", b"x");
    assert_eq!(attribute(&mount.up("file")), attribute(&lower.root.join("dir/file")));
}
