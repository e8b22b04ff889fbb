//! The file system without /dev/fuse: on a directory of the test's own, as whoever runs the test.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::config::IoMode;
use crate::lower::cred::Keep;
use crate::lower::table::ROOT_ID;
use crate::shift::id::Id;
use crate::shift::idmap::{Extent, IdMap};
use crate::state::in_flight::InFlight;

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
    let (keeping, ids) = (Keeping::For(std::time::Duration::ZERO), Keep::default());
    let options =
        Options { maps, unmapped_acl, policies, io, owners: None, keeping, ids, acting: None };
    (dir, FileSystem::new(lower, options))
}

fn name(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

fn at(parent: u64, text: &str) -> Place<'_> {
    Place { parent, name: name(text) }
}

fn by(uid: u32, gid: u32) -> Call<'static> {
    Call::new(Caller { uid: Id::new(uid), gid: Id::new(gid), tid: 0 }, InFlight::NOWHERE)
}

fn by_owner() -> Call<'static> {
    by(5000, 6000)
}

const NEW_FILE: NewFile = NewFile { mode: 0o100_666, umask: 0o022 };

fn look_up<'c>(fs: &'c FileSystem, parent: u64, text: &str) -> Entry<'c> {
    match fs.lookup(&by_owner(), parent, name(text)).unwrap() {
        Found::Entry(entry) => entry,
        Found::Missing(_) => panic!("{text} is missing"),
    }
}

fn attr_of(fs: &FileSystem, nodeid: u64) -> Result<Attr, FsError> {
    fs.getattr(&by_owner(), nodeid, None).map(|known| known.attr)
}

fn at_start(data: &[u8]) -> Write<'_> {
    Write { offset: 0, data, append: false, clear_privileges: false, whole: false }
}

#[test]
fn owners_are_shown_shifted() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    let entry = look_up(&fs, ROOT_ID, "f");
    assert_eq!((entry.attr.uid, entry.attr.gid, entry.attr.size), (5000, 6000, 1));
}

#[test]
fn a_new_file_is_born_with_the_callers_lower_ids_and_umask() {
    let (dir, fs) = shifted();
    let (entry, opened) = fs.create(&by_owner(), at(ROOT_ID, "f"), NEW_FILE, 0o1).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.mode & 0o777), (5000, 0o644));
    let file = Contents { nodeid: entry.lookup.nodeid(), handle: opened.handle() };
    fs.write(&by_owner(), file, at_start(b"hello")).unwrap();
    let below = dir.path().join("f").metadata().unwrap();
    assert_eq!((below.uid(), below.len()), (dir.path().metadata().unwrap().uid(), 5));
}

#[test]
fn an_unmapped_caller_touches_nothing() {
    let (dir, fs) = shifted();
    for stranger in [by(1, 6000), by(5000, 1), by(u32::MAX, 6000)] {
        let made = [
            fs.mkdir(&stranger, at(ROOT_ID, "d"), NEW_FILE).err(),
            fs.symlink(&stranger, at(ROOT_ID, "s"), OsStr::new("x")).err(),
            fs.create(&stranger, at(ROOT_ID, "f"), NEW_FILE, 0).err(),
        ];
        assert_eq!(made, [Some(FsError::UnmappedCaller); 3]);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_name_that_appeared_meanwhile_is_not_opened_by_create() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("secret"), "x").unwrap();
    let made = fs.create(&by_owner(), at(ROOT_ID, "secret"), NEW_FILE, 0);
    assert_eq!(made.err(), Some(FsError::Stale));
}

#[test]
fn an_inode_is_found_again_after_it_was_renamed_below() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("old"), "x").unwrap();
    let entry = look_up(&fs, ROOT_ID, "old");
    let nodeid = entry.lookup.nodeid();
    drop(fs.open(&by_owner(), nodeid, 0, false).unwrap()); // from now on it is known by its handle
    fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
    let found = attr_of(&fs, nodeid).map(|attr| attr.size);
    let by_handle = fs.lower.uses_handles();
    assert_eq!(found, if by_handle { Ok(1) } else { Err(FsError::Stale) });
}

#[test]
fn attributes_alone_take_no_descriptor() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let entry = look_up(&fs, ROOT_ID, "f");
    let held = || fs.lower.descriptor_usage().reopenable;
    fs::write(dir.path().join("f"), "more").unwrap();
    assert_eq!(attr_of(&fs, entry.lookup.nodeid()).unwrap().size, 4);
    assert_eq!(held(), 0);
    let within = look_up(&fs, ROOT_ID, "d");
    attr_of(&fs, within.lookup.nodeid()).unwrap();
    assert_eq!(held(), 1, "what is in a directory is reached by its descriptor");
}

#[test]
fn an_inode_is_never_another_file() {
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "mine").unwrap();
    let entry = look_up(&fs, ROOT_ID, "f");
    fs::write(dir.path().join("g"), "somebody else's").unwrap();
    fs::rename(dir.path().join("g"), dir.path().join("f")).unwrap();
    if let Ok(attr) = attr_of(&fs, entry.lookup.nodeid()) {
        assert_eq!(attr.size, 4, "the file of the first lookup, or none");
    }
}

#[test]
fn a_removed_file_stays_reachable_while_the_kernel_knows_it() {
    let (_dir, fs) = shifted();
    let (entry, opened) = fs.create(&by_owner(), at(ROOT_ID, "f"), NEW_FILE, 0o2).unwrap();
    let file = Contents { nodeid: entry.lookup.nodeid(), handle: opened.handle() };
    fs.write(&by_owner(), file, at_start(b"still here")).unwrap();
    drop(opened);
    fs.unlink(&by_owner(), at(ROOT_ID, "f")).unwrap();
    let attr = attr_of(&fs, entry.lookup.nodeid()).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 10));
}

#[test]
fn a_listing_counts_what_it_hands_out_and_nothing_else() {
    let (dir, fs) = shifted();
    for i in 0..10 {
        fs::write(dir.path().join(format!("f{i}")), "").unwrap();
    }
    let opened = fs.opendir(&by_owner(), ROOT_ID).unwrap();
    let dir = fs.open_dir(ROOT_ID, opened.handle()).unwrap();
    let mut kept = Vec::new();
    fs.readdirplus(&by_owner(), &dir, 0, |_, entry| {
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
        let entry = look_up(&fs, nodeid, &format!("d{i}"));
        nodeid = entry.lookup.nodeid();
        held.push(entry);
    }
    for entry in &held {
        assert_eq!(attr_of(&fs, entry.lookup.nodeid()).unwrap().ino, entry.attr.ino);
    }
}

/// Newer kernels see to it themselves.
#[test]
fn flags_are_for_the_owner_also_where_the_kernel_asks_nothing() {
    const SETFLAGS: u32 = 0x4008_6602;
    let (dir, fs) = shifted();
    fs::write(dir.path().join("f"), "x").unwrap();
    let entry = look_up(&fs, ROOT_ID, "f");
    let set = |call: &Call<'_>, flags: u32| {
        fs.ioctl(call, entry.lookup.nodeid(), SETFLAGS, &flags.to_ne_bytes(), 0)
            .map(|_| ())
            .map_err(FsError::errno)
    };
    let (owner, stranger) = (&by_owner(), &by(5001, 6000));
    let without_flags = set(owner, 0x40); // FS_NODUMP_FL
    if without_flags.is_err_and(|errno| errno != rustix::io::Errno::PERM) {
        return; // the file system for temporary files has none
    }
    assert_eq!(without_flags, Ok(()));
    assert_eq!(set(stranger, 0), Err(rustix::io::Errno::PERM));
    // FS_IMMUTABLE_FL, by an owner without capabilities
    assert_eq!(set(owner, 0x50), Err(rustix::io::Errno::PERM));
}

#[test]
fn a_set_group_id_program_of_a_directorys_group_is_for_members() {
    let (dir, fs) = shifted();
    let mode = |gid, permissions: u32| {
        let set = std::os::unix::fs::PermissionsExt::from_mode(permissions);
        std::fs::set_permissions(dir.path(), set).unwrap();
        fs.mode_for_members(by(5000, gid).caller, ROOT_ID, 0o102_755).unwrap()
    };
    assert_eq!(mode(6000, 0o2777), 0o102_755, "a member");
    assert_eq!(mode(6001, 0o2777), 0o100_755, "a stranger");
    assert_eq!(mode(6001, 0o777), 0o102_755, "the group is the stranger's own");
}
