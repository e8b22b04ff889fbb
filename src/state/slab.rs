//! Inode rows, names and handles: pieces of a few fixed sizes, each size on pages of its own.
//!
//! What a page is used for is recorded; which of its pieces are in use is recorded for the server
//! that runs, and found out anew by the next one.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::in_flight::{GET, PUT};
use crate::sys::shared::Words;

/// The words of a page.
pub const PAGE_WORDS: usize = 512;
/// What is recorded of each page: its use, and one bit for each piece that is in use.
pub const ENTRY_WORDS: usize = 4;

/// How many words a piece has: first an inode's row, then names and handles from short to long.
const SIZES: [usize; 7] = [ROW_WORDS, 3, 4, 6, 10, 18, 34];
/// The words of an inode's row.
pub const ROW_WORDS: usize = 9;
/// The longest name or handle, with what goes before it.
pub const LONGEST: usize = 34;

/// A piece, by the number of its first word; 0 is none.
pub type Piece = u32;

/// The pages.
#[derive(Debug)]
pub struct Slabs {
    words: Words,
    table: Words,
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    free: Vec<u32>,
    /// The last page that was ever used; page 0 is not.
    last: u32,
}

/// The pages of one owner, who takes pieces under a lock of its own.
#[derive(Debug)]
pub struct OwnSlabs {
    owner: u8,
    /// The pages with room, for each size: all of them, each once. A page that were here twice
    /// would be given back twice, and then be two owners'.
    partial: [Vec<u32>; SIZES.len()],
}

/// What a page is used for.
#[derive(Clone, Copy)]
struct Use {
    size: usize,
    owner: u8,
}

impl Use {
    fn raw(self) -> u64 {
        (self.size as u64 + 1) | u64::from(self.owner) << 8
    }

    fn from_raw(raw: u64) -> Option<Self> {
        let [size, owner, ..] = raw.to_le_bytes();
        let size = usize::from(size).checked_sub(1).filter(|&size| size < SIZES.len())?;
        Some(Self { size, owner })
    }

    fn pieces(self) -> usize {
        PAGE_WORDS / SIZES[self.size]
    }
}

impl OwnSlabs {
    /// Those of this owner: none yet.
    pub fn new(owner: u8) -> Self {
        Self { owner, partial: std::array::from_fn(|_| Vec::new()) }
    }
}

impl Slabs {
    /// Over these pages; nothing is in use.
    pub fn new(words: Words, table: Words) -> Self {
        Self { words, table, pool: Mutex::default() }
    }

    /// The words from the start of a piece to the end of its page, at most `count`.
    pub fn words(&self, piece: Piece, count: usize) -> &[AtomicU64] {
        let start = piece as usize;
        let end = (start + count).min((start / PAGE_WORDS + 1) * PAGE_WORDS);
        self.words.get(start..end).unwrap_or(&[])
    }

    /// Takes a row, whose words hold what was in them before, the first one zero.
    pub fn take_row(&self, slabs: &mut OwnSlabs) -> Option<Piece> {
        self.take(slabs, 0)
    }

    /// Takes a piece of at least this many words, not more than [`LONGEST`].
    pub fn take_words(&self, slabs: &mut OwnSlabs, count: usize) -> Option<Piece> {
        let size = (1..SIZES.len()).find(|&size| SIZES[size] >= count)?;
        self.take(slabs, size)
    }

    fn take(&self, slabs: &mut OwnSlabs, size: usize) -> Option<Piece> {
        let pieces = PAGE_WORDS / SIZES[size];
        loop {
            let page = if let Some(&page) = slabs.partial[size].last() {
                page
            } else {
                let page = self.new_page(Use { size, owner: slabs.owner })?;
                slabs.partial[size].push(page);
                page
            };
            let bits = &self.entry(page)[1..];
            let found = bits.iter().enumerate().find_map(|(n, word)| {
                let used = word.load(GET);
                let first = n * 64 + used.trailing_ones() as usize;
                (used != u64::MAX && first < pieces).then_some((word, used, first))
            });
            if let Some((word, used, first)) = found {
                word.store(used | 1 << (first % 64), PUT);
            }
            if count(bits) == pieces {
                slabs.partial[size].pop();
            }
            let Some((_, _, first)) = found else { continue };
            return u32::try_from(page as usize * PAGE_WORDS + first * SIZES[size]).ok();
        }
    }

    /// Gives a piece back.
    pub fn free(&self, slabs: &mut OwnSlabs, piece: Piece) {
        let Some((page, usage, at)) = self.place(piece) else { return };
        let bits = &self.entry(page)[1..];
        let was_full = count(bits) == usage.pieces();
        let word = &bits[at / 64];
        word.store(word.load(GET) & !(1 << (at % 64)), PUT);
        if was_full {
            slabs.partial[usage.size].push(page);
        }
    }

    /// Gives the memory of empty pages back.
    pub fn give_back(&self, slabs: &mut OwnSlabs) {
        for pages in &mut slabs.partial {
            pages.retain(|&page| {
                let keep = count(&self.entry(page)[1..]) > 0;
                if !keep {
                    self.entry(page)[0].store(0, PUT);
                    self.words.give_back(page as usize * PAGE_WORDS, PAGE_WORDS);
                    self.pool().free.push(page);
                }
                keep
            });
            if pages.capacity() > 64 && pages.capacity() > 4 * pages.len() {
                pages.shrink_to(2 * pages.len());
            }
        }
    }

    fn new_page(&self, usage: Use) -> Option<u32> {
        let mut pool = self.pool();
        let page = if let Some(page) = pool.free.pop() {
            page
        } else {
            let fresh = pool.last + 1;
            self.table.get((fresh as usize + 1) * ENTRY_WORDS - 1)?;
            pool.last = fresh;
            self.table[0].store(fresh.into(), PUT);
            fresh
        };
        drop(pool);
        // Rows are published by their first word: all must be free before the page counts.
        for word in self.words(page * u32::try_from(PAGE_WORDS).ok()?, PAGE_WORDS) {
            if usage.size == 0 && word.load(GET) != 0 {
                word.store(0, PUT);
            }
        }
        let entry = self.entry(page);
        entry[1..].iter().for_each(|word| word.store(0, PUT));
        entry[0].store(usage.raw(), PUT);
        Some(page)
    }

    /// Goes through all rows that another server has left. `visit` says which further pieces a row
    /// uses, or `None` if it is free. Afterwards `slabs`, one for each owner, know what has room.
    pub fn adopt(
        &self,
        slabs: &mut [&mut OwnSlabs],
        mut visit: impl FnMut(Piece, &[AtomicU64]) -> Option<[Piece; 2]>,
    ) {
        let most = self.table.len() / ENTRY_WORDS - 1;
        let last = u32::try_from(self.table[0].load(GET).min(most as u64)).unwrap_or(0);
        let usage = |page| Use::from_raw(self.entry(page)[0].load(GET));
        for page in 1..=last {
            self.entry(page)[1..].iter().for_each(|word| word.store(0, PUT));
        }
        for page in (1..=last).filter(|&page| usage(page).is_some_and(|usage| usage.size == 0)) {
            for at in (0..PAGE_WORDS / ROW_WORDS).map(|n| n * ROW_WORDS) {
                let Ok(piece) = u32::try_from(page as usize * PAGE_WORDS + at) else { continue };
                if let Some(more) = visit(piece, self.words(piece, ROW_WORDS)) {
                    [piece].into_iter().chain(more).for_each(|piece| self.mark(piece));
                }
            }
        }
        let mut pool = self.pool();
        *pool = Pool { free: Vec::new(), last };
        for page in 1..=last {
            let used = count(&self.entry(page)[1..]);
            match usage(page) {
                Some(usage) if used > 0 => {
                    if used < usage.pieces()
                        && let Some(slabs) = slabs.get_mut(usize::from(usage.owner))
                    {
                        slabs.partial[usage.size].push(page);
                    }
                }
                _ => {
                    self.entry(page)[0].store(0, PUT);
                    pool.free.push(page);
                }
            }
        }
    }

    /// How many pages are somebody's.
    #[cfg(test)]
    pub fn pages_in_use(&self) -> usize {
        let last = u32::try_from(self.table[0].load(GET)).unwrap_or(0);
        (1..=last).filter(|&page| self.entry(page)[0].load(GET) != 0).count()
    }

    fn mark(&self, piece: Piece) {
        if let Some((page, _, at)) = self.place(piece) {
            let word = &self.entry(page)[1 + at / 64];
            word.store(word.load(GET) | 1 << (at % 64), PUT);
        }
    }

    /// The page of a piece, what that is used for, and the piece's number there.
    fn place(&self, piece: Piece) -> Option<(u32, Use, usize)> {
        let page = piece / u32::try_from(PAGE_WORDS).ok()?;
        if page == 0 {
            return None;
        }
        let usage = Use::from_raw(self.table.get(page as usize * ENTRY_WORDS)?.load(GET))?;
        let at = piece as usize % PAGE_WORDS / SIZES[usage.size];
        (at < usage.pieces()).then_some((page, usage, at))
    }

    fn entry(&self, page: u32) -> &[AtomicU64] {
        let start = page as usize * ENTRY_WORDS;
        &self.table[start..start + ENTRY_WORDS]
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(bits: &[AtomicU64]) -> usize {
    bits.iter().map(|word| word.load(GET).count_ones() as usize).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::sys::shared;

    fn arena(pages: usize) -> (Slabs, Words) {
        let bytes = pages * (PAGE_WORDS + ENTRY_WORDS) * 8;
        let file = shared::create("test", bytes.next_multiple_of(4096)).unwrap();
        let words = Words::map(&file, 0, pages * PAGE_WORDS).unwrap();
        let table = Words::map(&file, pages * PAGE_WORDS * 8, pages * ENTRY_WORDS).unwrap();
        (Slabs::new(words.clone(), table), words)
    }

    #[test]
    fn pieces_do_not_overlap_and_are_used_again() {
        let (arena, _) = arena(64);
        let mut slabs = OwnSlabs::new(0);
        let mut taken = Vec::new();
        for n in 0..900_usize {
            let size = [ROW_WORDS, 3, 5, 34][n % 4];
            let piece = if size == ROW_WORDS {
                arena.take_row(&mut slabs).unwrap()
            } else {
                arena.take_words(&mut slabs, size).unwrap()
            };
            taken.push((piece as usize, piece as usize + size));
            if n % 3 == 0 {
                let (piece, _) = taken.swap_remove(n % taken.len());
                arena.free(&mut slabs, u32::try_from(piece).unwrap());
            }
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|two| two[0].1 <= two[1].0));
    }

    /// Owners who take, free and give back in any order never get what another one has.
    #[test]
    fn no_page_is_ever_two_owners() {
        let (arena, _) = arena(200);
        let mut owners = [OwnSlabs::new(0), OwnSlabs::new(1), OwnSlabs::new(2)];
        let mut taken: Vec<(usize, Piece, usize)> = Vec::new();
        let mut state = 1_u64;
        let mut dice = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % n
        };
        for step in 0..60_000_usize {
            // Grows and shrinks, so that pages become full and empty.
            let grows = step / 1000 % 2 == 0;
            if dice(10) < if grows { 8 } else { 2 } || taken.is_empty() {
                let (owner, size) = (dice(3), SIZES[dice(2)]);
                let slabs = &mut owners[owner];
                let piece = match size {
                    ROW_WORDS => arena.take_row(slabs).unwrap(),
                    size => arena.take_words(slabs, size).unwrap(),
                };
                taken.push((owner, piece, size));
            } else {
                let (owner, piece, _) = taken.swap_remove(dice(taken.len()));
                arena.free(&mut owners[owner], piece);
            }
            if dice(200) == 0 {
                arena.give_back(&mut owners[dice(3)]);
            }
            if step % 500 == 0 {
                let mut spans: Vec<_> =
                    taken.iter().map(|&(_, at, size)| (at as usize, at as usize + size)).collect();
                spans.sort_unstable();
                assert!(spans.windows(2).all(|two| two[0].1 <= two[1].0), "step {step}");
            }
        }
    }

    #[test]
    fn what_no_row_uses_is_free_for_the_next_server() {
        let (before, words) = arena(16);
        let mut slabs = OwnSlabs::new(0);
        let rows: Vec<Piece> = (0..100).map(|_| before.take_row(&mut slabs).unwrap()).collect();
        let name = before.take_words(&mut slabs, 3).unwrap();
        let lost = before.take_words(&mut slabs, 3).unwrap();
        for &row in &rows[..70] {
            before.words(row, ROW_WORDS)[0].store(u64::from(row), PUT);
        }
        let after = Slabs::new(words, before.table.clone());
        let mut slabs = OwnSlabs::new(0);
        let mut seen = Vec::new();
        after.adopt(&mut [&mut slabs], |row, words| {
            (words[0].load(GET) != 0).then(|| {
                seen.push(row);
                [if row == rows[0] { name } else { 0 }, 0]
            })
        });
        seen.sort_unstable();
        assert_eq!(seen, rows[..70]);
        assert_eq!(after.take_words(&mut slabs, 3), Some(lost), "the other one is in use");
        let again: Vec<Piece> = (0..58).map(|_| after.take_row(&mut slabs).unwrap()).collect();
        assert!(again.iter().all(|row| !seen.contains(row)));
    }

    #[test]
    fn an_empty_arena_gives_its_memory_back_and_a_full_one_says_so() {
        let (arena, words) = arena(8);
        let mut slabs = OwnSlabs::new(0);
        let rows: Vec<Piece> = std::iter::from_fn(|| arena.take_row(&mut slabs)).collect();
        assert!(rows.len() >= 64 * 5, "{}", rows.len());
        words[rows[7] as usize + 5].store(9, PUT);
        for &row in &rows {
            arena.free(&mut slabs, row);
        }
        arena.give_back(&mut slabs);
        assert_eq!(words[rows[7] as usize + 5].load(GET), 0);
        assert_eq!(
            std::iter::from_fn(|| arena.take_words(&mut slabs, 34)).count(),
            rows.len() / (PAGE_WORDS / ROW_WORDS) * 15
        );
    }
}
