#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use super::*;

fn file(dev: u64, ino: u64, born: i64) -> Identity {
    Identity { dev, ino, born }
}

fn table() -> InodeTable {
    let state = Arc::new(State::create().unwrap());
    InodeTable::new(state, file(1, 2, 0), FileType::Directory).unwrap()
}

fn intern(table: &InodeTable, identity: Identity) -> Lookup<'_> {
    table.intern(identity, FileType::RegularFile, ROOT_ID, OsStr::new("f"))
}

fn look_up(table: &InodeTable, identity: Identity) -> u64 {
    let lookup = intern(table, identity);
    let nodeid = lookup.nodeid();
    lookup.give_to_kernel();
    nodeid
}

#[test]
fn an_inode_goes_by_its_lower_number() {
    assert_eq!(look_up(&table(), file(1, 77, 5)), 77);
}

#[test]
fn counts_are_exact() {
    let table = table();
    for _ in 0..3 {
        look_up(&table, file(1, 77, 5));
    }
    assert!(!table.forget(77, 2));
    assert!(table.get(77).is_some());
    assert!(table.forget(77, 1));
    assert!(table.get(77).is_none() && table.is_empty());
}

#[test]
fn a_lookup_that_is_not_told_is_taken_back() {
    let table = table();
    drop(intern(&table, file(1, 77, 5)));
    assert!(table.is_empty());
}

#[test]
fn two_files_never_share_a_nodeid() {
    let table = table();
    let first = look_up(&table, file(1, 77, 5));
    let reused = look_up(&table, file(1, 77, 6));
    let elsewhere = look_up(&table, file(9, 77, 5));
    assert!(first != reused && reused != elsewhere && first != elsewhere);
    assert_eq!(look_up(&table, file(1, 77, 6)), reused, "an alias is stable");
    assert_eq!(table.find(file(9, 77, 5)).map(|i| i.nodeid), Some(elsewhere));
}

#[test]
fn all_inodes_with_a_number_are_found() {
    let numbered = |table: &InodeTable, ino| {
        let mut found = Vec::new();
        table.nodes_numbered(ino, |nodeid| found.push(nodeid));
        found
    };
    let table = table();
    assert_eq!(numbered(&table, 77), [] as [u64; 0]);
    assert_eq!(numbered(&table, 2), [ROOT_ID]);
    let first = look_up(&table, file(1, 77, 5));
    let lookup = intern(&table, file(1, 77, 6));
    assert!(lookup.is_first());
    let reused = lookup.nodeid();
    assert_eq!(numbered(&table, 77), [first, reused]);
    assert!(!intern(&table, file(1, 77, 6)).is_first());
    drop(lookup);
    assert_eq!(numbered(&table, 77), [first]);
    assert_eq!(table.nodeids().len(), 2);
}

#[test]
fn the_root_is_one_inode_under_every_name() {
    let table = table();
    assert_eq!(look_up(&table, file(1, 2, 0)), ROOT_ID);
    assert!(!table.forget(ROOT_ID, 100));
    assert!(table.get(ROOT_ID).is_some());
}

#[test]
fn a_lower_inode_numbered_one_is_not_the_root() {
    let table = table();
    assert!(look_up(&table, file(1, 1, 9)) >= ALIAS_BASE);
}
