//! The table under several threads, by seeds: what each does is fixed by its seed, and where they
//! give way to each other is too.

use std::collections::HashMap;
use std::thread;

use rustix::fs::FileType;

use super::*;

/// A small generator (xorshift), so that a seed says all.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Looks up and forgets a few files that share inode numbers, so that aliases come and go. What it
/// holds is always known, under the number that it was given, and is no other file.
fn work(table: &InodeTable, seed: u64) {
    let mut random = Random(seed);
    let mut held: Vec<(Identity, u64)> = Vec::new();
    for _ in 0..400 {
        let identity = Identity {
            dev: 1 + random.below(2),
            ino: 70 + random.below(3),
            born: i64::from(random.below(2) == 0),
        };
        match random.below(4) {
            0 | 1 => {
                let name = OsStr::new("f");
                let lookup = table.intern(identity, FileType::RegularFile, ROOT_ID, name);
                let nodeid = lookup.nodeid();
                if random.below(3) == 0 {
                    drop(lookup); // the caller was killed
                } else {
                    lookup.give_to_kernel();
                    held.push((identity, nodeid));
                }
            }
            2 if !held.is_empty() => {
                let at = usize::try_from(random.below(held.len() as u64)).unwrap();
                let (_, nodeid) = held.swap_remove(at);
                table.forget(nodeid, 1);
            }
            _ => thread::yield_now(),
        }
        let mut numbers = HashMap::new();
        for (identity, nodeid) in &held {
            assert_eq!(table.get(*nodeid).map(|inode| inode.identity), Some(*identity));
            assert_eq!(table.find(*identity).map(|inode| inode.nodeid), Some(*nodeid));
            assert_eq!(*numbers.entry(*nodeid).or_insert(*identity), *identity);
        }
    }
    for (_, nodeid) in held {
        table.forget(nodeid, 1);
    }
}

#[test]
fn threads_agree_and_nothing_is_left() {
    for round in 0..40 {
        let root = Identity { dev: 1, ino: 2, born: 0 };
        let state = Arc::new(State::create().unwrap());
        let table = InodeTable::new(state, root, FileType::Directory).unwrap();
        thread::scope(|scope| {
            for worker in 1..=4 {
                let table = &table;
                scope.spawn(move || work(table, 0x9e37_79b9 * (4 * round + worker)));
            }
        });
        assert!(table.is_empty(), "round {round}: {:?}", table.nodeids());
        assert!(table.aliases().is_empty());
    }
}
