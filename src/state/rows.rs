//! Rows of equal length, published by their first word: zero means free.

use std::sync::atomic::AtomicU64;

use super::in_flight::{GET, PUT};
use crate::sys::shared::Words;

/// Rows of `N` words.
#[derive(Debug)]
pub struct Rows<const N: usize> {
    words: Words,
}

/// Which rows are free. It belongs to whoever enters and removes rows, under a lock of theirs.
#[derive(Debug, Default)]
pub struct Free(Vec<u32>);

impl<const N: usize> Rows<N> {
    /// Over these words. The first row holds the number of the last row that was ever used.
    pub fn new(words: Words) -> Self {
        Self { words }
    }

    /// The words of a row.
    pub fn row(&self, row: u32) -> &[AtomicU64] {
        let start = row as usize * N;
        self.words.get(start..start + N).unwrap_or(&[])
    }

    /// Enters a row and returns its number; `None` when there is no room. `values[0]`, which is not
    /// zero, publishes it.
    pub fn enter(&self, free: &mut Free, values: [u64; N]) -> Option<u32> {
        let row = free.0.pop().or_else(|| {
            let fresh = u32::try_from(self.words[0].load(GET)).ok()?.checked_add(1)?;
            let fits = !self.row(fresh).is_empty();
            fits.then(|| {
                self.words[0].store(fresh.into(), PUT);
                fresh
            })
        })?;
        for (word, value) in self.row(row).iter().zip(values).rev() {
            word.store(value, PUT);
        }
        Some(row)
    }

    /// Removes a row.
    pub fn remove(&self, free: &mut Free, row: u32) {
        if let Some(first) = self.row(row).first() {
            first.store(0, PUT);
            free.0.push(row);
        }
    }

    /// All rows that another server has left, and what is free between them.
    pub fn adopt(&self) -> (Free, Vec<(u32, [u64; N])>) {
        let (mut free, mut found) = (Free::default(), Vec::new());
        let last = u32::try_from(self.words[0].load(GET)).unwrap_or(0);
        for row in (1..=last).rev() {
            let mut values = [0; N];
            for (value, word) in values.iter_mut().zip(self.row(row)) {
                *value = word.load(GET);
            }
            if values[0] == 0 {
                free.0.push(row);
            } else {
                found.push((row, values));
            }
        }
        (free, found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::sys::shared;

    #[test]
    fn rows_are_found_again_and_free_ones_are_used_again() {
        let file = shared::create("test", 4096).unwrap();
        let rows: Rows<2> = Rows::new(Words::map(&file, 0, 512).unwrap());
        let mut free = Free::default();
        let entered: Vec<u32> =
            (1..=5).map(|n| rows.enter(&mut free, [n, n * 10]).unwrap()).collect();
        rows.remove(&mut free, entered[1]);
        let (mut free, found) = rows.adopt();
        let values: Vec<u64> = found.iter().map(|(_, values)| values[1]).collect();
        assert_eq!(values, [50, 40, 30, 10]);
        assert_eq!(rows.enter(&mut free, [6, 60]), Some(entered[1]));
        assert_eq!(rows.enter(&mut free, [7, 70]), Some(entered[4] + 1));
        let more = (0..1000).take_while(|_| rows.enter(&mut free, [9, 9]).is_some()).count();
        assert_eq!(more, 256 - 1 - 6, "until there is no room");
    }
}
