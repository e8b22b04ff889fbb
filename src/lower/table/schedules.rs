//! The table under several threads, by seeds: what each does is fixed by its seed, and where they
//! give way to each other is too.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use rustix::fs::FileType;

use super::*;
use crate::state::in_flight::Record;

/// Threads, files of each, seeds and steps of the test of many inodes.
const CLIENTS: u64 = 4;
const SEEDS: u64 = 6;
const STEPS: usize = 1500;
const FILES: u64 = 600;

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
            mount: 0,
            dev: 1 + random.below(2),
            ino: 70 + random.below(3),
            born: i64::from(random.below(2) == 0),
        };
        match random.below(4) {
            0 | 1 => {
                let name = OsStr::new("f");
                let lookup = table.intern(
                    InFlight::NOWHERE,
                    (identity, FileType::RegularFile),
                    ROOT_ID,
                    name,
                );
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
                table.forget(InFlight::NOWHERE, nodeid, 1);
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
        table.forget(InFlight::NOWHERE, nodeid, 1);
    }
}

#[test]
fn threads_agree_and_nothing_is_left() {
    for round in 0..40 {
        let root = Identity { mount: 0, dev: 1, ino: 2, born: 0 };
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

/// What the kernel knows of a file: what the table must know of it.
#[derive(Debug)]
struct Known {
    nodeid: u64,
    lookups: u64,
    place: Place,
    handle: Option<Box<[u8]>>,
}

#[derive(Clone, Copy)]
struct Phase {
    grows: bool,
    shrinks: bool,
    killed: bool,
}

/// One thread of a server, which looks up and forgets many files of its own over all shards, with
/// names and handles of all lengths. It lives on when its server is killed, as the kernel does.
struct Client {
    random: Random,
    /// Which files are its own: those of other threads have other numbers.
    number: u64,
    known: HashMap<Identity, Known>,
}

impl Client {
    fn any_identity(&mut self) -> Identity {
        Identity {
            mount: 0,
            // Few share their number with another one.
            dev: 1 + u64::from(self.random.below(40) == 0),
            ino: 1000 + CLIENTS * self.random.below(FILES) + self.number,
            born: i64::from(self.random.below(40) == 0),
        }
    }

    fn any_known(&mut self) -> Option<Identity> {
        // In an order that the seed says, which that of the map is not.
        let tries: Vec<_> = (0..30).map(|_| self.any_identity()).collect();
        tries.into_iter().find(|identity| self.known.contains_key(identity))
    }

    fn any_place(&mut self) -> Place {
        let length = usize::try_from(1 + self.random.below(255)).unwrap();
        let letter = b'a' + u8::try_from(self.random.below(26)).unwrap();
        let name = OsStr::from_bytes(&vec![letter; length]).into();
        Place { parent: 1 + self.random.below(3), name }
    }

    /// Looks a file up. The name counts, whether the kernel gets the answer or not.
    fn intern<'t>(
        &mut self,
        record: &'t Record,
        table: &'t InodeTable,
    ) -> (Identity, Place, Lookup<'t>) {
        let (identity, place) = (self.any_identity(), self.any_place());
        let lookup = table.intern(
            record.in_flight(),
            (identity, FileType::RegularFile),
            place.parent,
            &place.name,
        );
        let known = self.known.get_mut(&identity);
        assert_eq!(lookup.is_first(), known.is_none(), "{identity:?}");
        if let Some(known) = known {
            assert_eq!(lookup.nodeid(), known.nodeid);
            known.place = place.clone();
        }
        (identity, place, lookup)
    }

    fn look_up(&mut self, record: &Record, table: &InodeTable) {
        let (identity, place, lookup) = self.intern(record, table);
        if self.random.below(4) == 0 {
            return; // the caller was killed
        }
        let (nodeid, handle) = (lookup.nodeid(), None);
        lookup.give_to_kernel();
        let fresh = Known { nodeid, lookups: 0, place, handle };
        self.known.entry(identity).or_insert(fresh).lookups += 1;
    }

    fn forget(&mut self, record: &Record, table: &InodeTable) {
        let Some(identity) = self.any_known() else { return };
        let known = self.known.get_mut(&identity).unwrap();
        let all = self.random.below(4) != 0;
        let count = if all { known.lookups } else { 1 };
        known.lookups -= count;
        let gone = known.lookups == 0;
        assert_eq!(table.forget(record.in_flight(), known.nodeid, count), gone);
        if gone {
            self.known.remove(&identity);
        }
    }

    /// Gives a file that is known a newer name or its handle.
    fn describe(&mut self, table: &InodeTable) {
        let Some(identity) = self.any_known() else { return };
        let inode = table.find(identity).unwrap();
        let place = self.any_place();
        let handle = vec![self.number.to_le_bytes()[0]; place.name.len() % 129];
        let known = self.known.get_mut(&identity).unwrap();
        if place.parent == 1 {
            table.set_handle(&inode, 7, &handle);
            known.handle.get_or_insert(handle.into());
        } else {
            let former = table.relocate(&inode, place.parent, &place.name);
            assert!(former.is_none_or(|former| former == known.place));
            known.place = place;
        }
    }

    /// Does some thousand things; `grows` says whether there is more in the end or less, `shrinks`
    /// whether memory is given back meanwhile. Then it is `killed` in the middle of a request, or
    /// goes on.
    fn work(&mut self, record: &Record, table: &InodeTable, phase: Phase) {
        let Phase { grows, shrinks, killed } = phase;
        record.enter();
        for step in 0..STEPS {
            record.begin(2 + 2 * step as u64);
            match self.random.below(10) {
                0 => self.describe(table),
                1 if shrinks && step % 8 == 0 => table.shrink(),
                1 => thread::yield_now(),
                n if (n < 7) == grows => self.look_up(record, table),
                _ => self.forget(record, table),
            }
            record.end();
        }
        // Most pages become empty.
        let mut all: Vec<_> = self.known.keys().copied().collect();
        all.sort_unstable_by_key(|identity| (identity.ino, identity.dev, identity.born));
        for identity in all.iter().skip(5).filter(|_| !grows) {
            record.begin(2);
            let known = self.known.remove(identity).unwrap();
            assert!(table.forget(record.in_flight(), known.nodeid, known.lookups));
            record.end();
        }
        record.begin(1 << 40);
        let begun: Vec<_> = (0..5).map(|_| self.intern_once(record, table)).collect();
        if killed {
            begun.into_iter().for_each(std::mem::forget);
        } else {
            drop(begun);
            record.end();
        }
    }

    /// Looks a file up that nobody else's request is about.
    fn intern_once<'t>(&mut self, record: &'t Record, table: &'t InodeTable) -> Lookup<'t> {
        loop {
            let identity = self.any_identity();
            if table.find(identity).is_none() {
                let place = self.any_place();
                let kind = FileType::RegularFile;
                return table.intern(
                    record.in_flight(),
                    (identity, kind),
                    place.parent,
                    &place.name,
                );
            }
        }
    }

    /// All that the kernel knows is what the table knows. Returns how many files and lookups.
    fn check(&self, table: &InodeTable) -> (usize, u64) {
        for (identity, known) in &self.known {
            let inode = table.get(known.nodeid).unwrap();
            assert_eq!((inode.nodeid, inode.identity), (known.nodeid, *identity));
            assert_eq!(table.find(*identity).map(|inode| inode.nodeid), Some(known.nodeid));
            let locator = match &known.handle {
                Some(data) => Locator::Handle { kind: 7, data: data.clone() },
                None => Locator::Walk(known.place.clone()),
            };
            assert_eq!(table.locator(&inode), Some(locator), "{identity:?}");
            assert_eq!(table.row_of(&inode).unwrap().place().as_ref(), Some(&known.place));
        }
        (self.known.len(), self.known.values().map(|known| known.lookups).sum())
    }
}

/// What the kernel knows in all is what the table knows.
fn check_all(table: &InodeTable, clients: &[Client]) {
    let (files, lookups) = clients
        .iter()
        .map(|client| client.check(table))
        .fold((1, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    assert_eq!((table.len(), table.lookups()), (files, lookups));
}

/// The next server's table, once it has taken back what the kernel was not told.
fn next_server(state: &Arc<State>, root: Identity) -> InodeTable {
    let table = InodeTable::adopt(Arc::clone(state), root).unwrap();
    for record in state.in_flight.all().filter(Record::was_used) {
        record.enter();
        table.undo_counted(&record);
        record.end();
    }
    table
}

/// Many inodes, whose pages become full, empty, given back, and another shard's; and servers that
/// are killed in between.
#[test]
fn nothing_changes_hands_over_many_inodes_and_servers() {
    for seed in 1..=SEEDS {
        let root = Identity { mount: 0, dev: 1, ino: 2, born: 0 };
        let state = Arc::new(State::create().unwrap());
        let mut table = InodeTable::new(Arc::clone(&state), root, FileType::Directory).unwrap();
        let client = |number| Client {
            random: Random(seed << 8 | (number + 1)),
            number,
            known: HashMap::new(),
        };
        let mut clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let mut records: Vec<_> = clients.iter().map(|_| state.in_flight.take().unwrap()).collect();
        for number in 0..8 {
            let [grows, shrinks] = [number % 2 == 0, number & 2 == seed & 2];
            let phase = Phase { grows, shrinks, killed: (number + seed) % 3 == 0 };
            thread::scope(|scope| {
                for (client, record) in clients.iter_mut().zip(&mut records) {
                    let table = &table;
                    scope.spawn(move || client.work(record, table, phase));
                }
            });
            if phase.killed {
                table = next_server(&state, root);
            }
            check_all(&table, &clients);
            if phase.shrinks {
                table.shrink();
                check_all(&table, &clients);
            }
        }
        for known in clients.iter().flat_map(|client| client.known.values()) {
            assert!(table.forget(InFlight::NOWHERE, known.nodeid, known.lookups));
        }
        assert!(table.is_empty() && table.aliases().is_empty(), "seed {seed}");
        table.shrink();
        assert_eq!(state.slabs.pages_in_use(), 1, "the root's, seed {seed}");
    }
}
