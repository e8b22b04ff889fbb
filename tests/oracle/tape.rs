//! What the oracle answered, recorded where the kernel has idmapped mounts and compared with where
//! it has none.
//!
//! The file has each line that the oracle gave once, then for each sequence its key and the
//! numbers of its lines, in base 36.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// One line: case, file system, map, number of the sequence.
pub type Key = String;

/// The recording as it grows, or as it was read.
#[derive(Default)]
pub struct Archive {
    lines: Vec<String>,
    numbers: HashMap<String, usize>,
    sequences: BTreeMap<Key, Vec<usize>>,
}

/// What one sequence's oracle says, in order.
pub enum Tape {
    /// There is an oracle; it is asked.
    Live,
    /// It is asked, and what it says is kept.
    Recording(Vec<String>),
    /// What it said; the next line first.
    Playing(std::vec::IntoIter<String>),
}

impl Tape {
    /// The oracle's next line. `None` where its recording ends.
    pub fn next(&mut self, ask: impl FnOnce() -> String) -> Option<String> {
        match self {
            Tape::Live => Some(ask()),
            Tape::Recording(lines) => {
                lines.push(ask());
                lines.last().cloned()
            }
            Tape::Playing(lines) => lines.next(),
        }
    }

    /// A tree, line by line.
    pub fn tree(
        &mut self,
        ask: impl FnOnce() -> BTreeMap<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        match self {
            Tape::Live => Some(ask()),
            Tape::Recording(lines) => {
                let tree = ask();
                lines.push(tree.len().to_string());
                lines.extend(tree.iter().map(|(path, line)| format!("{path}\t{line}")));
                Some(tree)
            }
            Tape::Playing(lines) => {
                let count = lines.next()?.parse().ok()?;
                let entry = |line: String| {
                    line.split_once('\t').map(|(path, line)| (path.to_owned(), line.to_owned()))
                };
                lines.take(count).map(entry).collect()
            }
        }
    }
}

impl Archive {
    /// Where the recording is kept.
    pub fn place() -> PathBuf {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/recorded/linux-6.18.txt");
        std::env::var_os("IDSHIFT_ORACLE_RECORDING").map_or_else(|| here.into(), PathBuf::from)
    }

    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let mut archive = Self::default();
        for line in text.lines() {
            match line.split_once('\x1f') {
                None => archive.lines.push(line.to_owned()),
                Some((key, numbers)) => {
                    let numbers = numbers.split(' ').filter(|word| !word.is_empty());
                    let numbers = numbers.map(|word| usize::from_str_radix(word, 36));
                    let numbers = numbers.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
                    archive.sequences.insert(key.to_owned(), numbers);
                }
            }
        }
        Ok(archive)
    }

    pub fn add(&mut self, key: Key, said: Vec<String>) {
        let numbers = said.into_iter().map(|line| {
            let next = self.lines.len();
            let number = *self.numbers.entry(line.clone()).or_insert(next);
            if number == next {
                self.lines.push(line);
            }
            number
        });
        let numbers = numbers.collect();
        self.sequences.insert(key, numbers);
    }

    pub fn tape(&self, key: &str) -> Option<Tape> {
        let lines: Option<Vec<String>> =
            self.sequences.get(key)?.iter().map(|&n| self.lines.get(n).cloned()).collect();
        Some(Tape::Playing(lines?.into_iter()))
    }

    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        // In the order of the sequences, whichever trial came first.
        let mut order = HashMap::new();
        let mut text = String::new();
        for &number in self.sequences.values().flatten() {
            let next = order.len();
            order.entry(number).or_insert_with(|| {
                let line = &self.lines[number];
                assert!(!line.contains(['\n', '\x1f']), "a line: {line:?}");
                text.push_str(&format!("{line}\n"));
                next
            });
        }
        for (key, numbers) in &self.sequences {
            let numbers: Vec<String> = numbers.iter().map(|n| base36(order[n])).collect();
            text.push_str(&format!("{key}\x1f{}\n", numbers.join(" ")));
        }
        std::fs::write(path, text)
    }
}

fn base36(mut number: usize) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).expect("a digit"));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}
