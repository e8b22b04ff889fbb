//! The file system without /dev/fuse: on a directory of the test's own, as whoever runs the test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::config::IoMode;
use crate::lower::table::ROOT_ID;
use crate::shift::id::Id;
use crate::shift::idmap::{Extent, IdMap};

/// A lower directory whose owner, this process's user, is shown as 5000.
fn shifted() -> (tempfile::TempDir, FileSystem) {
    let dir = tempfile::tempdir().unwrap();
    let meta = dir.path().metadata().unwrap();
    let maps = Maps {
        uids: IdMap::new(vec![Extent::from_raw(meta.uid(), 5000, 1).unwrap()]).unwrap(),
        gids: IdMap::new(vec![Extent::from_raw(meta.gid(), 6000, 1).unwrap()]).unwrap(),
    };
    let lower = LowerTree::open(dir.path(), false, 32).unwrap();
    let policies = Policies::default();
    let io = IoMode::Passthrough;
    let unmapped_acl = Unmapped::Placeholder;
    (dir, FileSystem { lower, maps, unmapped_acl, io, policies, owners: None })
}

fn name(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

fn caller(uid: u32, gid: u32) -> Caller {
    Caller { uid: Id::new(uid), gid: Id::new(gid), tid: 0 }
}

fn new_file(caller: Caller) -> NewFile {
    NewFile { caller, mode: 0o100_666, umask: 0o022 }
}

fn at_start(data: &[u8]) -> Write<'_> {
    Write { offset: 0, data, append: false, clear_privileges: false, whole: false }
}

#[test]
fn owners_are_shown_shifted() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    let entry = fs.lookup(ROOT_ID, name("f")).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid, entry.attr.size), (5000, 6000, 1));
}

#[test]
fn a_new_file_is_born_with_the_callers_lower_ids_and_umask() {
    let (dir, fs) = shifted();
    let (entry, opened) = fs.create(ROOT_ID, name("f"), new_file(caller(5000, 6000)), 0o1).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.mode & 0o777), (5000, 0o644));
    let file = Contents { nodeid: entry.lookup.nodeid(), handle: opened.handle() };
    fs.write(caller(5000, 6000), file, at_start(b"hello")).unwrap();
    let below = dir.path().join("f").metadata().unwrap();
    assert_eq!((below.uid(), below.len()), (dir.path().metadata().unwrap().uid(), 5));
}

#[test]
fn an_unmapped_caller_touches_nothing() {
    let (dir, fs) = shifted();
    for stranger in [caller(1, 6000), caller(5000, 1), caller(u32::MAX, 6000)] {
        let made = [
            fs.mkdir(ROOT_ID, name("d"), new_file(stranger)).err(),
            fs.symlink(ROOT_ID, name("s"), stranger, OsStr::new("x")).err(),
            fs.create(ROOT_ID, name("f"), new_file(stranger), 0).err(),
        ];
        assert_eq!(made, [Some(FsError::UnmappedCaller); 3]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_name_that_appeared_meanwhile_is_not_opened_by_create() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("secret"), "x").unwrap();
    let made = fs.create(ROOT_ID, name("secret"), new_file(caller(5000, 6000)), 0);
    assert_eq!(made.err(), Some(FsError::Stale));
}

#[test]
fn an_inode_is_found_again_after_it_was_renamed_below() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("old"), "x").unwrap();
    let entry = fs.lookup(ROOT_ID, name("old")).unwrap();
    let nodeid = entry.lookup.nodeid();
    drop(fs.open(nodeid, 0, false).unwrap()); // from now on it is known by its handle
    fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
    let found = fs.getattr(nodeid, None).map(|attr| attr.size);
    let by_handle = fs.lower.uses_handles();
    assert_eq!(found, if by_handle { Ok(1) } else { Err(FsError::Stale) });
}

#[test]
fn attributes_alone_take_no_descriptor() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let entry = fs.lookup(ROOT_ID, name("f")).unwrap();
    let held = || fs.lower.descriptor_usage().reopenable;
    fs::write(dir.path().join("f"), "more").unwrap();
    assert_eq!(fs.getattr(entry.lookup.nodeid(), None).unwrap().size, 4);
    assert_eq!(held(), 0);
    let within = fs.lookup(ROOT_ID, name("d")).unwrap();
    fs.getattr(within.lookup.nodeid(), None).unwrap();
    assert_eq!(held(), 1, "what is in a directory is reached by its descriptor");
}

#[test]
fn an_inode_is_never_another_file() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "mine").unwrap();
    let entry = fs.lookup(ROOT_ID, name("f")).unwrap();
    fs::write(dir.path().join("g"), "somebody else's").unwrap();
    fs::rename(dir.path().join("g"), dir.path().join("f")).unwrap();
    if let Ok(attr) = fs.getattr(entry.lookup.nodeid(), None) {
        assert_eq!(attr.size, 4, "the file of the first lookup, or none");
    }
}

#[test]
fn a_removed_file_stays_reachable_while_the_kernel_knows_it() {
    let (_dir, fs) = shifted();
    let me = caller(5000, 6000);
    let (entry, opened) = fs.create(ROOT_ID, name("f"), new_file(me), 0o2).unwrap();
    let file = Contents { nodeid: entry.lookup.nodeid(), handle: opened.handle() };
    fs.write(me, file, at_start(b"still here")).unwrap();
    drop(opened);
    fs.unlink(Place { parent: ROOT_ID, name: name("f") }).unwrap();
    let attr = fs.getattr(entry.lookup.nodeid(), None).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 10));
}

#[test]
fn a_listing_counts_what_it_hands_out_and_nothing_else() {
    let (dir, fs) = shifted();
    for i in 0..10 {
        fs::write(dir.path().join(format!("f{i}")), "").unwrap();
    }
    let opened = fs.opendir(ROOT_ID).unwrap();
    let dir = fs.open_dir(ROOT_ID, opened.handle()).unwrap();
    let mut kept = Vec::new();
    fs.readdirplus(&dir, 0, |_, entry| {
        let room = kept.len() < 5;
        kept.extend(entry.filter(|_| room).map(|entry| entry.lookup));
        room
    })
    .unwrap();
    assert_eq!(fs.lower.inodes.len(), 1 + 5);
    drop(kept);
    assert!(fs.lower.inodes.is_empty());
}

#[test]
fn few_descriptors_serve_many_directories() {
    let (dir, fs) = shifted();
    let deep: std::path::PathBuf = (0..200).map(|i| format!("d{i}")).collect();
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    let mut nodeid = ROOT_ID;
    let mut held = Vec::new();
    for i in 0..200 {
        let entry = fs.lookup(nodeid, name(&format!("d{i}"))).unwrap();
        nodeid = entry.lookup.nodeid();
        held.push(entry);
    }
    for entry in &held {
        assert_eq!(fs.getattr(entry.lookup.nodeid(), None).unwrap().ino, entry.attr.ino);
    }
}

/// Newer kernels see to it themselves.
#[test]
fn flags_are_for_the_owner_also_where_the_kernel_asks_nothing() {
    const SETFLAGS: u32 = 0x4008_6602;
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    let entry = fs.lookup(ROOT_ID, name("f")).unwrap();
    let set = |caller, flags: u32| {
        fs.ioctl(caller, entry.lookup.nodeid(), SETFLAGS, &flags.to_ne_bytes(), 0)
            .map(|_| ())
            .map_err(FsError::errno)
    };
    let (owner, stranger) = (caller(5000, 6000), caller(5001, 6000));
    let without_flags = set(owner, 0x40); // FS_NODUMP_FL
    if without_flags.is_err_and(|errno| errno != rustix::io::Errno::PERM) {
        return; // the file system for temporary files has none
    }
    assert_eq!(without_flags, Ok(()));
    assert_eq!(set(stranger, 0), Err(rustix::io::Errno::PERM));
    // FS_IMMUTABLE_FL, by an owner without capabilities
    assert_eq!(set(owner, 0x50), Err(rustix::io::Errno::PERM));
}
