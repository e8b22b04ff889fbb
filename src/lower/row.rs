//! An inode as a row of [`crate::state`]: what the next server will know of it.
//!
//! The first word is the lookup count; zero means that the row is free. A row and what it points to
//! change under the lock of its shard ([`super::table`]) only, its descriptor apart.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FileType;

use super::inode::{Inode, Place, Told};
use super::stat::Identity;
use crate::state::in_flight::{GET, PUT};
use crate::state::slab::{LONGEST, OwnSlabs, Piece, ROW_WORDS, Slabs};

const LOOKUPS: usize = 0;
const NODEID: usize = 1;
/// The mount (high half) and the device (low half), which has 32 bits on Linux.
const DEVICE: usize = 2;
const NUMBER: usize = 3;
const BORN: usize = 4;
/// The pieces that hold the name (low half) and the handle (high half).
const PIECES: usize = 5;
/// The type, the bits of the mode that the kernel was told of, whether it was ([`TOLD`]), and how often
/// that was doubted (high half).
const KIND: usize = 6;
/// A descriptor that keeps the inode reachable although it has no name any more, plus one.
const PINNED: usize = 7;
/// The owner (low half) and the group that the kernel was told of, as they are shown.
const OWNER: usize = 8;
/// In [`KIND`].
const TYPE: u64 = 0xf000;
const MODE: u64 = 0x0fff;
const TOLD: u64 = 1 << 16;
/// It may be changed through mappings of the lower file.
const MAPPABLE: u64 = 1 << 17;

/// A row in use.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    arena: &'a Slabs,
    piece: Piece,
    words: &'a [AtomicU64],
}

impl<'a> Row<'a> {
    /// The row of this number.
    pub(super) fn at(arena: &'a Slabs, piece: Piece) -> Option<Self> {
        let words = arena.words(piece, ROW_WORDS);
        (words.len() == ROW_WORDS).then_some(Self { arena, piece, words })
    }

    /// Fills a row that is free. It is published by counting the first lookup.
    pub(super) fn fill(
        arena: &'a Slabs,
        slabs: &mut OwnSlabs,
        nodeid: u64,
        identity: Identity,
        kind: FileType,
    ) -> Option<Self> {
        let piece = arena.take_row(slabs)?;
        let row = Self::at(arena, piece)?;
        row.set(NODEID, nodeid);
        row.set(DEVICE, identity.dev & LOW | u64::from(identity.mount) << 32);
        row.set(NUMBER, identity.ino);
        row.set(BORN, identity.born.cast_unsigned());
        row.set(PIECES, 0);
        row.set(KIND, u64::from(kind.as_raw_mode()) & TYPE);
        row.set(OWNER, 0);
        row.set(PINNED, 0);
        Some(row)
    }

    /// Gives the row, which has no lookups any more, and all that it points to back.
    pub(super) fn free(self, slabs: &mut OwnSlabs) {
        let [name, handle] = self.pieces();
        for piece in [name, handle, self.piece].into_iter().filter(|&piece| piece != 0) {
            self.arena.free(slabs, piece);
        }
    }

    fn get(self, at: usize) -> u64 {
        self.words[at].load(GET)
    }

    fn set(self, at: usize, value: u64) {
        self.words[at].store(value, PUT);
    }

    /// The row's number.
    pub(super) fn piece(self) -> Piece {
        self.piece
    }

    /// The lookup count.
    pub(super) fn lookups(self) -> &'a AtomicU64 {
        &self.words[LOOKUPS]
    }

    pub(super) fn is_used(self) -> bool {
        self.get(LOOKUPS) != 0
    }

    pub(super) fn nodeid(self) -> u64 {
        self.get(NODEID)
    }

    pub(super) fn identity(self) -> Identity {
        Identity {
            mount: high(self.get(DEVICE)),
            dev: self.get(DEVICE) & LOW,
            ino: self.get(NUMBER),
            born: self.get(BORN).cast_signed(),
        }
    }

    pub(super) fn inode(self) -> Inode {
        let kind = FileType::from_raw_mode(low(self.get(KIND) & TYPE));
        Inode { nodeid: self.nodeid(), identity: self.identity(), kind, row: self.piece }
    }

    /// The pieces of name and handle, 0 where there is none.
    pub(super) fn pieces(self) -> [Piece; 2] {
        let both = self.get(PIECES);
        [both & u64::from(u32::MAX), both >> 32].map(|piece| Piece::try_from(piece).unwrap_or(0))
    }

    fn set_pieces(self, [name, handle]: [Piece; 2]) {
        self.set(PIECES, u64::from(name) | u64::from(handle) << 32);
    }

    /// The name that the inode was last seen under; the root has none.
    pub(super) fn place(self) -> Option<Place> {
        let [name, _] = self.pieces();
        let words = self.arena.words(name, LONGEST);
        let parent = words.first().filter(|_| name != 0)?.load(GET);
        let name = OsString::from_vec(unpack(&words[1..])?);
        Some(Place { parent, name: name.into_boxed_os_str() })
    }

    /// The directory of that name.
    pub(super) fn parent(self) -> Option<u64> {
        let [name, _] = self.pieces();
        let words = self.arena.words(name, LONGEST);
        Some(words.first().filter(|_| name != 0)?.load(GET))
    }

    /// Takes a newer name. Returns the one that the inode was seen under before, if that was
    /// another one.
    pub(super) fn move_to(self, slabs: &mut OwnSlabs, parent: u64, name: &OsStr) -> Option<Place> {
        let [old, handle] = self.pieces();
        let name = name.as_bytes();
        let same = |words: &[AtomicU64]| {
            let (first, rest) = words.split_first()?;
            (first.load(GET) == parent && holds(rest, name)).then_some(())
        };
        if old != 0 && same(self.arena.words(old, LONGEST)).is_some() {
            return None;
        }
        let former = self.place();
        // Without room the inode has no name: it is stale when it has to be found by one.
        let new = self.arena.take_words(slabs, 1 + words_for(name.len())).unwrap_or(0);
        if let Some((first, rest)) = self.arena.words(new, LONGEST).split_first()
            && new != 0
        {
            first.store(parent, PUT);
            pack(name, rest);
        }
        self.set_pieces([new, handle]);
        if old != 0 {
            self.arena.free(slabs, old);
        }
        former
    }

    /// The file handle, once that has been asked for.
    pub(super) fn handle(self) -> Option<(i32, Box<[u8]>)> {
        let [_, handle] = self.pieces();
        let words = self.arena.words(handle, LONGEST);
        let kind = words.first().filter(|_| handle != 0)?.load(GET);
        let kind = u32::try_from(kind).unwrap_or(0).cast_signed();
        Some((kind, unpack(&words[1..])?.into_boxed_slice()))
    }

    /// Takes the file handle; it never changes.
    pub(super) fn set_handle(self, slabs: &mut OwnSlabs, kind: i32, data: &[u8]) {
        let [name, old] = self.pieces();
        if old != 0 || data.len() > usize::from(u8::MAX) {
            return;
        }
        let Some(new) = self.arena.take_words(slabs, 1 + words_for(data.len())) else { return };
        let words = self.arena.words(new, LONGEST);
        words[0].store(kind.cast_unsigned().into(), PUT);
        pack(data, &words[1..]);
        self.set_pieces([name, new]);
    }

    /// What the kernel was told of its owner and mode, if it was.
    pub(super) fn told(self) -> Option<Told> {
        let (kind, owner) = (self.get(KIND), self.get(OWNER));
        let told = Told { uid: low(owner), gid: high(owner), mode: low(kind & MODE) };
        (kind & TOLD != 0).then_some(told)
    }

    /// The kernel is told.
    pub(super) fn tell(self, told: Told) {
        self.set(OWNER, u64::from(told.uid) | u64::from(told.gid) << 32);
        let rest = self.get(KIND) & !MODE;
        self.set(KIND, rest | TOLD | u64::from(told.mode) & MODE);
    }

    /// How often it was doubted whether the kernel has what it was told last.
    pub(super) fn doubts(self) -> u32 {
        high(self.get(KIND))
    }

    pub(super) fn set_doubts(self, doubts: u32) {
        self.set(KIND, self.get(KIND) & LOW | u64::from(doubts) << 32);
    }

    /// Whether it may be changed through mappings of the lower file.
    pub(super) fn is_mappable(self) -> bool {
        self.get(KIND) & MAPPABLE != 0
    }

    pub(super) fn set_mappable(self) {
        self.set(KIND, self.get(KIND) | MAPPABLE);
    }

    /// The descriptor that keeps the inode reachable.
    pub(super) fn pinned(self) -> Option<i32> {
        i32::try_from(self.get(PINNED).checked_sub(1)?).ok()
    }

    /// Says which descriptor keeps the inode reachable.
    pub(super) fn pin(self, fd: i32) {
        self.set(PINNED, u64::from(fd.unsigned_abs()) + 1);
    }

    /// This descriptor does not any more. Needs no lock: only one inode can have an open descriptor.
    pub(super) fn unpin(self, fd: i32) {
        let pinned = u64::from(fd.unsigned_abs()) + 1;
        // Unchanged where the row is another's by now.
        self.words[PINNED].compare_exchange(pinned, 0, Ordering::SeqCst, GET).ok();
    }
}

const LOW: u64 = 0xffff_ffff;

fn low(word: u64) -> u32 {
    u32::try_from(word & LOW).unwrap_or(0)
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}

/// How many words this many bytes take, with their number.
fn words_for(bytes: usize) -> usize {
    (bytes + 1).div_ceil(8)
}

/// The byte at `at` of what is packed: first how many there are, then they.
fn packed(bytes: &[u8], at: usize) -> u8 {
    match at.checked_sub(1) {
        None => u8::try_from(bytes.len()).unwrap_or(0),
        Some(at) => bytes.get(at).copied().unwrap_or(0),
    }
}

fn word(bytes: &[u8], n: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| packed(bytes, n * 8 + i)))
}

fn pack(bytes: &[u8], words: &[AtomicU64]) {
    for (n, place) in words.iter().enumerate().take(words_for(bytes.len())) {
        place.store(word(bytes, n), PUT);
    }
}

fn holds(words: &[AtomicU64], bytes: &[u8]) -> bool {
    let count = words_for(bytes.len());
    words.len() >= count
        && words.iter().take(count).enumerate().all(|(n, place)| place.load(GET) == word(bytes, n))
}

fn unpack(words: &[AtomicU64]) -> Option<Vec<u8>> {
    let mut bytes = words.iter().flat_map(|place| place.load(GET).to_ne_bytes());
    let length = usize::from(bytes.next()?);
    let bytes: Vec<u8> = bytes.take(length).collect();
    (bytes.len() == length).then_some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::state::State;

    #[test]
    fn names_and_handles_of_every_length_are_kept() {
        let state = State::create().unwrap();
        let mut slabs = OwnSlabs::new(0);
        let identity = Identity { mount: u32::MAX, dev: LOW, ino: 2, born: -3 };
        let row = Row::fill(&state.slabs, &mut slabs, 7, identity, FileType::RegularFile).unwrap();
        let mut former = None;
        for length in (0..=255).rev() {
            let name = vec![b'x'; length];
            let name = OsStr::from_bytes(&name);
            assert_eq!(row.move_to(&mut slabs, 9, name), former);
            assert_eq!(row.move_to(&mut slabs, 9, name), None, "the same");
            former = row.place();
            let place = former.as_ref().unwrap();
            assert_eq!((place.parent, &*place.name), (9, name));
        }
        assert_eq!(row.handle(), None);
        row.set_handle(&mut slabs, -5, &[7; 128]);
        row.set_handle(&mut slabs, 1, &[1]);
        assert_eq!(row.handle(), Some((-5, [7; 128].into())));
        let inode = row.inode();
        assert_eq!(
            (inode.nodeid, inode.identity, inode.kind),
            (7, identity, FileType::RegularFile)
        );
        assert_eq!((row.told(), row.doubts()), (None, 0));
        let told = Told { uid: 7, gid: u32::MAX, mode: 0o7010 };
        row.tell(told);
        row.set_doubts(u32::MAX);
        assert_eq!((row.told(), row.doubts()), (Some(told), u32::MAX));
        assert_eq!(row.inode().identity, identity);
        assert_eq!(row.inode().kind, FileType::RegularFile);
        assert!(!row.is_mappable());
        row.set_mappable();
        row.tell(told);
        row.set_doubts(3);
        assert!(row.is_mappable() && row.told() == Some(told) && row.doubts() == 3);
        row.pin(4);
        row.unpin(5);
        assert_eq!(row.pinned(), Some(4));
        row.unpin(4);
        assert_eq!(row.pinned(), None);
    }
}
