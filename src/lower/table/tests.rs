#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use rustix::fs::SeekFrom;

use super::*;

#[path = "../../../tests/common/dice.rs"]
mod dice;
use dice::Dice;

fn file(dev: u64, ino: u64, born: i64) -> Identity {
    Identity { mount: 0, dev, ino, born }
}

fn table() -> InodeTable {
    let state = Arc::new(State::create().unwrap());
    InodeTable::new(state, file(1, 2, 0), FileType::Directory).unwrap()
}

fn intern(table: &InodeTable, identity: Identity) -> Lookup<'_> {
    table.intern(InFlight::NOWHERE, (identity, FileType::RegularFile), ROOT_ID, OsStr::new("f"))
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
    assert!(!table.forget(InFlight::NOWHERE, 77, 2));
    assert!(table.get(77).is_some());
    assert!(table.forget(InFlight::NOWHERE, 77, 1));
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
    assert!(!table.forget(InFlight::NOWHERE, ROOT_ID, 100));
    assert!(table.get(ROOT_ID).is_some());
}

#[test]
fn a_lower_inode_numbered_one_is_not_the_root() {
    let table = table();
    assert!(look_up(&table, file(1, 1, 9)) >= ALIAS_BASE);
}

/// A server that was taken over can write anything where the next one looks: that one must get
/// along with it, or refuse it, and not fail.
#[test]
fn what_a_hostile_server_leaves() {
    let mut taken_over = 0;
    for seed in 1..200 {
        let mut dice = Dice(seed);
        let state = Arc::new(State::create().unwrap());
        let root = file(1, 2, 0);
        let table = InodeTable::new(Arc::clone(&state), root, FileType::Directory).unwrap();
        for ino in 10..200 {
            let inode = table.get(look_up(&table, file(1 + ino % 2, ino / 2, 5))).unwrap();
            table.set_handle(&inode, 1, &[7; 20]);
            table.relocate(&inode, ROOT_ID, OsStr::new("another name"));
        }
        let known = table.nodeids();
        drop(table);
        scribble(&state, &mut dice);
        let Some(table) = InodeTable::adopt(Arc::clone(&state), root) else { continue };
        taken_over += 1;
        for nodeid in known.into_iter().chain(table.nodeids()).chain([dice.below(u64::MAX)]) {
            let Some(inode) = table.get(nodeid) else { continue };
            table.locator(&inode);
            table.find(inode.identity);
            table.set_handle(&inode, 2, &[8; 30]);
            table.relocate(&inode, ROOT_ID, OsStr::new("a third name"));
            look_up(&table, inode.identity);
            table.forget(InFlight::NOWHERE, nodeid, dice.below(3));
        }
        table.shrink();
        assert!(table.places().len().max(table.pinned().len()) <= table.len());
        std::hint::black_box(table.lookups());
        (0..100).for_each(|ino| drop(intern(&table, file(3, ino, 1))));
    }
    assert!(taken_over > 50, "{taken_over} of 199");
}

/// Overwrites some of the words that have been written to.
fn scribble(state: &State, dice: &mut Dice) {
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(state.file(), SeekFrom::Data(at)) {
        at = rustix::fs::seek(state.file(), SeekFrom::Hole(start)).unwrap();
        for word in start / 8..at / 8 {
            if dice.below(20) == 0 {
                let most = dice.of(&[3, 600, 70_000, u64::MAX]);
                let value = dice.below(most).to_ne_bytes();
                rustix::io::pwrite(state.file(), &value, word * 8).unwrap();
            }
        }
    }
}
