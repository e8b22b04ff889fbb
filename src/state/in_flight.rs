//! What a thread is doing: one *record* for each, so that the next server knows how far a request
//! came whose answer the kernel has not got.
//!
//! A record says which request it is, when it was begun, which inodes have been counted for its
//! answer, and which file has been opened for it. If the kernel sends the request again, the answer
//! was not delivered: what was counted is taken back and the request begins anew. If it does not,
//! the answer was delivered, and all stays.
//!
//! A lookup count and the entry that says for whom it was counted change together: both are written
//! down before, and put back by the next server if it finds that they were being changed.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use super::slab::Piece;
use crate::sys::shared::Words;

/// How words are loaded and stored: none is stored before what was to be stored earlier.
pub const GET: Ordering = Ordering::Acquire;
/// See [`GET`].
pub const PUT: Ordering = Ordering::Release;

/// How many inodes can be counted for one answer: more than the longest listing has.
pub const MOST_COUNTED: usize = 8192 - 64;
/// The words of a record: the fields, and what was counted, with a zero at the end.
pub const WORDS: usize = FIRST_COUNTED + MOST_COUNTED + 1 + 47;

const UNIQUE: usize = 0;
const BEGUN: usize = 1;
const CHANGING: usize = 2;
const CHANGED_ROW: usize = 3;
const LOOKUPS_BEFORE: usize = 4;
const CHANGED_WORD: usize = 5;
const WORD_BEFORE: usize = 6;
const OPENED: usize = 7;
const FORGOTTEN: usize = 8;
const USED: usize = 9;
const TRIES: usize = 10;
const NOTED: usize = 11;
const FIRST_COUNTED: usize = 16;
/// An entry of what was counted that does not count any more.
const UNDONE: u64 = u64::MAX;

/// All records of a mount.
#[derive(Debug)]
pub struct Records {
    words: Words,
    taken: Box<[AtomicBool]>,
}

/// One record.
#[derive(Debug)]
pub struct Record {
    words: Words,
    start: usize,
    number: usize,
    /// How much has been counted in it.
    counted: Cell<usize>,
}

/// Where what is done for a request is recorded: in the record of the thread that serves it, or nowhere,
/// where no other server would go on with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct InFlight<'s>(Option<&'s Record>);

/// What the killed server had recorded of a request when it began to change the lower tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// When that was, in nanoseconds since 1970.
    pub at: i64,
    /// What it noted before ([`InFlight::note`]), 0 if nothing.
    pub noted: u64,
}

impl Records {
    /// Over these words.
    pub fn new(words: Words) -> Self {
        let count = words.len() / WORDS;
        Self { words, taken: (0..count).map(|_| AtomicBool::new(false)).collect() }
    }

    /// The records, in order.
    pub fn all(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.taken.len()).map(|number| self.record(number))
    }

    /// A record that no thread has; `None` if there are no more.
    pub fn take(&self) -> Option<Record> {
        let free = |taken: &AtomicBool| !taken.swap(true, Ordering::SeqCst);
        self.taken.iter().position(free).map(|number| self.record(number))
    }

    /// Its thread ends, with nothing under way.
    pub fn give_back(&self, record: &Record) {
        self.taken[record.number].store(false, Ordering::SeqCst);
    }

    fn record(&self, number: usize) -> Record {
        let start = number * WORDS;
        Record { words: self.words.clone(), start, number, counted: Cell::new(0) }
    }
}

impl Record {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[self.start + at]
    }

    /// Its number, which is also its buffer's.
    pub fn number(&self) -> usize {
        self.number
    }

    /// A thread begins to use it, or goes on where another server's has come to.
    pub fn enter(&self) {
        self.word(USED).store(1, PUT);
        let counted = (0..MOST_COUNTED).find(|n| self.word(FIRST_COUNTED + n).load(GET) == 0);
        self.counted.set(counted.unwrap_or(MOST_COUNTED));
    }

    /// For what is done for its request.
    pub fn in_flight(&self) -> InFlight<'_> {
        InFlight(Some(self))
    }

    /// The thread is about to read a message into the buffer of its record. Whatever has been read into
    /// it before is done with.
    pub fn await_message(&self, buffer: &mut [u8]) {
        // In this order: a message that is there counts as not done at all when its parts are reset.
        if let Some(length) = buffer.first_chunk_mut::<4>() {
            *length = [0; 4];
        }
        self.word(FORGOTTEN).store(0, PUT);
    }

    /// A request begins.
    pub fn begin(&self, unique: u64) {
        // First, so that nothing of the last request is ever taken for this one's.
        self.word(FIRST_COUNTED).store(0, PUT);
        self.word(OPENED).store(0, PUT);
        self.word(BEGUN).store(0, PUT);
        self.word(TRIES).store(0, PUT);
        self.word(NOTED).store(0, PUT);
        self.word(UNIQUE).store(unique, PUT);
        self.counted.set(0);
    }

    /// It has been answered.
    pub fn end(&self) {
        self.word(UNIQUE).store(0, PUT);
    }

    /// The request that is under way, 0 if none is.
    pub fn unique(&self) -> u64 {
        self.word(UNIQUE).load(GET)
    }

    /// Whether the request has begun to change the lower tree in a way that could be noticed twice.
    pub fn is_changing(&self) -> bool {
        self.word(BEGUN).load(GET) != 0
    }

    /// The handle number of the file that was opened for the request, 0 if none was.
    pub fn opened(&self) -> u64 {
        self.word(OPENED).load(GET)
    }

    /// How much of a message that makes the server forget has been done.
    pub fn forgotten(&self) -> u64 {
        self.word(FORGOTTEN).load(GET)
    }

    /// Whether a thread has ever had it.
    pub fn was_used(&self) -> bool {
        self.word(USED).load(GET) != 0
    }

    /// Begins a request anew that another server had begun; when it began to change the lower tree
    /// is kept. Nothing that was counted for it must be left.
    pub fn begin_replay(&self, unique: u64) {
        self.word(FIRST_COUNTED).store(0, PUT);
        self.word(OPENED).store(0, PUT);
        self.word(TRIES).fetch_add(1, Ordering::SeqCst);
        self.word(UNIQUE).store(unique, PUT);
        self.counted.set(0);
    }

    /// How often it has been begun anew.
    pub fn tries(&self) -> u64 {
        self.word(TRIES).load(GET)
    }

    /// The rows that are counted for the request, with the places of the entries.
    pub fn counted(&self) -> Vec<(usize, Piece)> {
        let entries = (0..MOST_COUNTED).map(|n| (n, self.word(FIRST_COUNTED + n).load(GET)));
        entries
            .take_while(|(_, entry)| *entry != 0)
            .filter(|(_, entry)| *entry != UNDONE)
            .filter_map(|(n, entry)| Some((FIRST_COUNTED + n, Piece::try_from(entry).ok()?)))
            .collect()
    }

    /// Finishes what the thread was in the middle of when it was ended: puts both words back.
    /// `lookups` finds the count of a row.
    pub fn repair<'w>(&self, lookups: impl FnOnce(Piece) -> Option<&'w AtomicU64>) {
        if self.word(CHANGING).load(GET) == 0 {
            return;
        }
        let field = |at| self.word(at).load(GET);
        let row = Piece::try_from(field(CHANGED_ROW)).ok().and_then(lookups);
        let at = usize::try_from(field(CHANGED_WORD)).ok().filter(|&at| at < WORDS);
        if let (Some(lookups), Some(at)) = (row, at) {
            lookups.store(field(LOOKUPS_BEFORE), PUT);
            self.word(at).store(field(WORD_BEFORE), PUT);
        }
        self.word(CHANGING).store(0, PUT);
    }

    /// Stores a lookup count and a word of the record as if in one step.
    fn change(&self, row: Piece, lookups: &AtomicU64, count: u64, at: usize, value: u64) {
        let word = self.word(at);
        self.word(CHANGED_ROW).store(row.into(), PUT);
        self.word(LOOKUPS_BEFORE).store(lookups.load(GET), PUT);
        self.word(CHANGED_WORD).store(at as u64, PUT);
        self.word(WORD_BEFORE).store(word.load(GET), PUT);
        self.word(CHANGING).store(1, PUT);
        lookups.store(count, PUT);
        word.store(value, PUT);
        self.word(CHANGING).store(0, PUT);
    }
}

impl InFlight<'_> {
    /// Recorded nowhere.
    pub const NOWHERE: InFlight<'static> = InFlight(None);

    /// The request begins to change the lower tree in a way that could be noticed if it were done
    /// twice. What another server had recorded here before it was killed, if it had begun.
    pub fn begin_change(self) -> Option<Begun> {
        let record = self.0?;
        let at = record.word(BEGUN).load(GET).cast_signed();
        if at == 0 {
            record.word(BEGUN).store(now().cast_unsigned(), PUT);
            return None;
        }
        Some(Begun { at, noted: record.word(NOTED).load(GET) })
    }

    /// How much of the message, which makes the server forget, has been done.
    pub fn forgotten(self) -> u64 {
        self.0.map_or(0, Record::forgotten)
    }

    /// Notes how something is before it is changed, where only that tells later whether it was.
    pub fn note(self, before: u64) {
        if let Some(record) = self.0 {
            record.word(NOTED).store(before, PUT);
        }
    }

    /// Says which handle number is about to be given to an open file.
    pub fn opening(self, handle: u64) {
        if let Some(record) = self.0 {
            record.word(OPENED).store(handle, PUT);
        }
    }

    /// Counts one more lookup of a row. Under a lock that everyone takes who changes this count.
    /// Returns the place of the entry, for [`InFlight::undo`], and `None` if the request has
    /// counted too many already.
    pub fn count(self, row: Piece, lookups: &AtomicU64) -> Option<usize> {
        let more = lookups.load(GET).saturating_add(1);
        let Some(record) = self.0 else {
            lookups.store(more, PUT);
            return Some(0);
        };
        let counted = record.counted.get();
        let at = FIRST_COUNTED + counted;
        if counted >= MOST_COUNTED {
            return None;
        }
        record.word(at + 1).store(0, PUT);
        record.change(row, lookups, more, at, row.into());
        record.counted.set(counted + 1);
        Some(at)
    }

    /// Takes back what [`InFlight::count`] has counted at this place. The same lock.
    pub fn undo(self, row: Piece, lookups: &AtomicU64, at: usize) {
        let less = lookups.load(GET).saturating_sub(1);
        match self.0.filter(|_| at != 0) {
            Some(record) => record.change(row, lookups, less, at, UNDONE),
            None => lookups.store(less, PUT),
        }
    }

    /// The kernel has dropped `count` lookups of a row: one more part of the message is done. The
    /// same lock.
    pub fn forget(self, row: Piece, lookups: &AtomicU64, count: u64) {
        let less = lookups.load(GET).saturating_sub(count);
        match self.0 {
            Some(record) => record.change(row, lookups, less, FORGOTTEN, record.forgotten() + 1),
            None => lookups.store(less, PUT),
        }
    }

    /// The same for a lookup of nothing that is known.
    pub fn forget_nothing(self) {
        if let Some(record) = self.0 {
            record.word(FORGOTTEN).store(record.forgotten() + 1, PUT);
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::sys::shared;

    fn records() -> Records {
        let length = (4 * WORDS * 8).next_multiple_of(4096);
        let file = shared::create("test", length).unwrap();
        Records::new(Words::map(&file, 0, 4 * WORDS).unwrap())
    }

    #[test]
    fn what_was_counted_is_known_until_the_next_request() {
        let records = records();
        let record = records.take().unwrap();
        record.enter();
        record.begin(8);
        let (a, b) = (AtomicU64::new(0), AtomicU64::new(4));
        let first = record.in_flight().count(11, &a).unwrap();
        let second = record.in_flight().count(22, &b).unwrap();
        assert_eq!(record.counted(), [(first, 11), (second, 22)]);
        record.in_flight().undo(11, &a, first);
        assert_eq!(record.counted(), [(second, 22)]);
        assert_eq!((a.load(GET), b.load(GET)), (0, 5));
        record.begin(10);
        assert!(record.counted().is_empty() && record.unique() == 10);
        assert_eq!(records.take().unwrap().number(), 1);
    }

    /// Ends a change after each of its stores, as a kill does, and repairs it.
    #[test]
    fn a_change_is_done_whole_or_not_at_all() {
        for stores in 0..=7 {
            let records = records();
            let record = records.take().unwrap();
            let lookups = AtomicU64::new(3);
            let at = FIRST_COUNTED;
            let steps: [&dyn Fn(); 8] = [
                &|| record.word(CHANGED_ROW).store(5, PUT),
                &|| record.word(LOOKUPS_BEFORE).store(3, PUT),
                &|| record.word(CHANGED_WORD).store(at as u64, PUT),
                &|| record.word(WORD_BEFORE).store(0, PUT),
                &|| record.word(CHANGING).store(1, PUT),
                &|| lookups.store(4, PUT),
                &|| record.word(at).store(5, PUT),
                &|| record.word(CHANGING).store(0, PUT),
            ];
            steps[..=stores].iter().for_each(|step| step());
            record.repair(|row| (row == 5).then_some(&lookups));
            let whole = stores == 7;
            assert_eq!(lookups.load(GET), if whole { 4 } else { 3 }, "{stores}");
            assert_eq!(record.counted().len(), usize::from(whole), "{stores}");
        }
    }
}
