//! What a running mount tells of itself: facts, numbers, and how long requests took. The server
//! writes it as text, and `idshift status` reads that.

mod words;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::shift::id::Kind;
use crate::shift::idmap::{self, IdMap, Maps};

/// The first line of a report; a reader of another version says so instead of misreading it.
const TITLE: &str = "idshift-report 2";

/// The ioctl by which a mount is asked, on any of its directories and files: the argument begins
/// with a [`Question`], the answer stands in the same place, and its length is the return value.
/// `_IOWR(0xd5, 1, char[ROOM])`; the type byte is free in the kernel's `ioctl-number.rst`.
#[allow(clippy::cast_possible_truncation)] // 14 bits, as a test checks
pub const IOCTL: u32 = 3 << 30 | (ROOM as u32) << 16 | 0xd5 << 8 | 1;
/// How long question and answer can be: an ioctl's number has 14 bits for it.
pub const ROOM: usize = 16_376;

/// What a mount can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// A [`Report`].
    Report,
    /// What rights somebody has on a path; the rest of the argument says whose and where.
    Rights,
    /// To have access times kept otherwise, after a remount; the rest of the argument is the number
    /// that says how.
    Times,
    /// The map, from one of its extents on, because all of it may be long; the rest of the argument is
    /// [`MapPart`].
    Map,
}

/// An extent of a map: stored, shown, count.
pub type RawExtent = (u32, u32, u32);

/// Some extents of a map, as an answer to [`Question::Map`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPart {
    /// The process that serves.
    pub pid: u32,
    /// The number of all extents.
    pub all: usize,
    /// Those from the one that was asked for on, as many as have room.
    pub extents: Vec<RawExtent>,
}

impl MapPart {
    /// The extents of users (`u`) or groups (`g`) from this one on.
    pub fn question(kind: u8, from: u32) -> [u8; 5] {
        let [a, b, c, d] = from.to_ne_bytes();
        [kind, a, b, c, d]
    }

    /// The kind, and the first extent.
    pub fn understood(text: &[u8]) -> Option<(u8, usize)> {
        let (kind, rest) = text.split_first()?;
        let from = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?);
        Some((*kind, usize::try_from(from).ok()?))
    }

    /// This process's answer: a line with the process and the number of all extents, then one for
    /// each.
    pub fn answer(extents: &[RawExtent], from: usize) -> String {
        let mut text = format!("{} {}\n", std::process::id(), extents.len());
        for (lower, upper, count) in extents.iter().skip(from) {
            let line = format!("{lower} {upper} {count}\n");
            if text.len() + line.len() > ROOM {
                break;
            }
            text.push_str(&line);
        }
        text
    }

    /// What an answer says; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (pid, all) = lines.next()?.split_once(' ')?;
        let extents = lines.map(|line| {
            let mut numbers = line.split(' ').map(|number| number.parse::<u32>().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        });
        Some(Self {
            pid: pid.parse().ok()?,
            all: all.parse().ok()?,
            extents: extents.collect::<Option<Vec<_>>>()?,
        })
    }
}

impl Question {
    /// The byte that the argument begins with.
    pub fn code(self) -> u8 {
        match self {
            Question::Report => b'R',
            Question::Rights => b'E',
            Question::Times => b'T',
            Question::Map => b'M',
        }
    }

    /// The question that a byte means.
    pub fn from_code(code: u8) -> Option<Self> {
        let all = [Question::Report, Question::Rights, Question::Times, Question::Map];
        all.into_iter().find(|question| question.code() == code)
    }
}

/// What a mount was made with, and what of it the kernel and the lower file system allow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of the program that serves.
    pub version: String,
    /// The stored directory; what is no UTF-8 in it is replaced, and the end of a long one cut.
    pub lower: String,
    /// Where it is shown, likewise.
    pub mountpoint: String,
    /// What the mount table names as its source, likewise.
    pub source: String,
    /// The user who runs the server.
    pub user: u32,
    /// The map; `None` if it is long ([`Question::Map`] asks for it).
    pub map: Option<Extents>,
    /// The options that have not their defaults, and always `io` and `cache`.
    pub options: BTreeMap<String, OptionValue>,
    /// How what the kernel caches is kept true.
    pub cache: Cache,
    /// Whether other users may access the mount (`allow_other`).
    pub allow_other: bool,
    /// Whether another server is started when this one is killed (`restart=on`).
    pub restart: bool,
    /// Whether inodes are found by file handles.
    pub handles: bool,
    /// The features of FUSE that are in use, by their names in small letters without `FUSE_`.
    pub features: Vec<String>,
    /// Whether the kernel makes idmapped mounts of this one.
    pub idmapped_mounts: Possible,
}

/// The extents of a map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// Of users.
    pub uids: Vec<Extent>,
    /// Of groups.
    pub gids: Vec<Extent>,
}

/// One extent of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first stored id.
    pub lower: u32,
    /// The first shown id.
    pub upper: u32,
    /// How many ids.
    pub count: u32,
}

impl<K> From<&idmap::Extent<K>> for Extent {
    fn from(extent: &idmap::Extent<K>) -> Self {
        let raw = extent.raw();
        Self { lower: raw.lower, upper: raw.upper, count: raw.count }
    }
}

/// Some extents.
pub fn extents<K>(extents: &[idmap::Extent<K>]) -> Vec<Extent> {
    extents.iter().map(Extent::from).collect()
}

impl From<&Maps> for Extents {
    fn from(maps: &Maps) -> Self {
        Self { uids: extents(maps.uids.extents()), gids: extents(maps.gids.extents()) }
    }
}

impl Extents {
    /// The map that they make; `None` if they make none.
    pub fn maps(&self) -> Option<Maps> {
        fn of<K: Kind>(extents: &[Extent]) -> Option<IdMap<K>> {
            let extent = |it: &Extent| idmap::Extent::from_raw(it.lower, it.upper, it.count).ok();
            IdMap::new(extents.iter().map(extent).collect::<Option<Vec<_>>>()?).ok()
        }
        Some(Maps { uids: of(&self.uids)?, gids: of(&self.gids)? })
    }
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// A flag.
    Flag(bool),
    /// As it is written in `-o`.
    Text(String),
}

/// How what the kernel caches is kept true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// As in the option `cache`, but never `auto`.
    pub mode: String,
    /// Why nothing better is possible.
    pub why: Option<String>,
}

/// Whether something is possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Possible {
    /// Whether it is.
    pub possible: bool,
    /// Why not, and what to do.
    pub why: Option<String>,
}

impl Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{}, because {why}", self.mode),
            None => f.write_str(&self.mode),
        }
    }
}

/// What one server says of itself at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What the mount was made with.
    pub facts: Facts,
    /// In numbers, by name.
    pub numbers: Vec<(String, u64)>,
    /// The kinds of requests that have come.
    pub operations: Vec<Operation>,
}

/// Requests of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// As the FUSE protocol calls it, in small letters.
    pub name: String,
    /// How many were answered with an error.
    pub errors: u64,
    /// What they took together, in ns.
    pub nanos: u64,
    /// How long they took, from their reading to their answer.
    pub times: Histogram,
}

/// How many distances of time a [`Histogram`] tells apart.
pub const BUCKETS: usize = 26;
/// All below 2^(SHIFT + 1) ns are in the first bucket.
const SHIFT: u32 = 8;

/// How often something took how long, to a factor of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram(pub [u64; BUCKETS]);

/// The bucket that a time belongs to: the first is below 512 ns, each next one twice as long, the
/// last one has all from 8.6 s up.
pub fn bucket(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let index = (nanos | 1).ilog2().saturating_sub(SHIFT) as usize;
    index.min(BUCKETS - 1)
}

impl Histogram {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that so many thousandths of all did not exceed, estimated within its bucket.
    pub fn per_mille(&self, share: u64) -> Duration {
        let total = self.count();
        let rank = (u128::from(total) * u128::from(share)).div_ceil(1000);
        let mut below = 0_u128;
        for (index, &count) in self.0.iter().enumerate() {
            let here = u128::from(count);
            if here > 0 && below + here >= rank {
                let (first, end) = (start(index), start(index + 1));
                let part = u128::from(end - first) * (rank - below) / here;
                return Duration::from_nanos(first + u64::try_from(part).unwrap_or(0));
            }
            below += here;
        }
        Duration::ZERO
    }

    /// Everything since `before`, which is an earlier state of the same.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut counts = self.0;
        for (count, earlier) in counts.iter_mut().zip(before.0) {
            *count = count.saturating_sub(earlier);
        }
        Self(counts)
    }

    /// Adds those of another one.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// Where a bucket begins, in ns.
pub fn start(index: usize) -> u64 {
    if index == 0 { 0 } else { 1 << (SHIFT as usize + index) }
}

impl Report {
    /// The number of this name; 0 if there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.numbers.iter().find(|(known, _)| known == name).map_or(0, |(_, number)| *number)
    }

    /// Makes a number one less.
    pub fn take_one_off(&mut self, name: &str) {
        if let Some((_, number)) = self.numbers.iter_mut().find(|(known, _)| known == name) {
            *number = number.saturating_sub(1);
        }
    }

    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        self.operations.iter().map(|operation| operation.times.count()).sum()
    }

    /// Errors of all kinds.
    pub fn errors(&self) -> u64 {
        self.operations.iter().map(|operation| operation.errors).sum()
    }

    /// Requests of all kinds, together.
    pub fn times(&self) -> Histogram {
        let mut all = Histogram::default();
        self.operations.iter().for_each(|operation| all.add(&operation.times));
        all
    }

    /// Reads what [`Display`] has written; `None` if that is not a report of this version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|title| *title == TITLE)?;
        let mut report = Self::default();
        for line in lines {
            let (kind, rest) = line.split_once(' ')?;
            let (name, value) = rest.split_once(' ')?;
            // They end up as names in other formats.
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return None;
            }
            match kind {
                "facts" => report.facts = serde_json::from_str(value).ok()?,
                "number" => report.numbers.push((name.to_owned(), value.parse().ok()?)),
                "operation" => report.operations.push(operation(name, value)?),
                // Of a newer version.
                _ => {}
            }
        }
        Some(report)
    }
}

fn operation(name: &str, value: &str) -> Option<Operation> {
    let mut fields = value.split(' ');
    let errors = fields.next()?.parse().ok()?;
    let nanos = fields.next()?.parse().ok()?;
    let first: usize = fields.next()?.parse().ok()?;
    let mut times = Histogram::default();
    for (at, count) in fields.enumerate() {
        *times.0.get_mut(first.checked_add(at)?)? = u64::from_str_radix(count, 16).ok()?;
    }
    Some(Operation { name: name.to_owned(), errors, nanos, times })
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}")?;
        let facts = serde_json::to_string(&self.facts).map_err(|_| fmt::Error)?;
        writeln!(f, "facts json {facts}")?;
        for (name, number) in &self.numbers {
            writeln!(f, "number {name} {number}")?;
        }
        for Operation { name, errors, nanos, times } in &self.operations {
            let first = times.0.iter().position(|count| *count > 0).unwrap_or(0);
            let end = times.0.iter().rposition(|count| *count > 0).map_or(first, |last| last + 1);
            write!(f, "operation {name} {errors} {nanos} {first}")?;
            times.0[first..end].iter().try_for_each(|count| write!(f, " {count:x}"))?;
            f.write_char('\n')?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let of = |nanos| bucket(Duration::from_nanos(nanos));
        assert_eq!((of(0), of(511), of(512), of(1023), of(1024)), (0, 0, 1, 1, 2));
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        for index in 1..BUCKETS {
            assert_eq!((of(start(index) - 1), of(start(index))), (index - 1, index));
        }
    }

    #[test]
    fn percentiles_stay_in_the_bucket_of_their_rank() {
        let mut times = Histogram::default();
        times.0[5] = 990; // 8192–16383 ns
        times.0[10] = 10; // from 262 µs
        assert_eq!(times.count(), 1000);
        let within = |share, low, high| {
            let found = times.per_mille(share);
            assert!(found >= Duration::from_nanos(low) && found <= Duration::from_nanos(high));
        };
        within(500, 8192, 16_384);
        within(990, 8192, 16_384);
        within(991, 262_144, 524_288);
        assert_eq!(Histogram::default().per_mille(500), Duration::ZERO);
    }

    #[test]
    fn the_number_of_the_ioctl_holds_its_size() {
        assert_eq!((IOCTL >> 16) & 0x3fff, u32::try_from(ROOM).unwrap());
        assert_eq!(Question::from_code(b'R'), Some(Question::Report));
        assert_eq!(Question::from_code(b'x'), None);
    }

    #[test]
    fn the_longest_sensible_report_fits() {
        let times = Histogram([99_999_999_999; BUCKETS]);
        let (name, errors) = ("copyfilerange".to_owned(), 99_999_999_999);
        let one = Operation { name, errors, nanos: errors << 20, times };
        let report = Report { operations: vec![one; 40], ..Report::default() };
        assert!(report.to_string().len() < ROOM - 2_000, "{}", report.to_string().len());
    }

    #[test]
    fn a_long_map_is_told_in_parts() {
        let whole: Vec<_> = (0..5_000).map(|n| (n * 2, 4_000_000_000 + n * 2, 1)).collect();
        let mut told = Vec::new();
        while told.len() < whole.len() {
            let question = MapPart::question(b'u', u32::try_from(told.len()).unwrap());
            let (kind, from) = MapPart::understood(&question).unwrap();
            assert_eq!((kind, from), (b'u', told.len()));
            let answer = MapPart::answer(&whole, from);
            assert!(answer.len() <= ROOM);
            let part = MapPart::parse(&answer).unwrap();
            assert_eq!((part.pid, part.all), (std::process::id(), whole.len()));
            assert!(!part.extents.is_empty());
            told.extend(part.extents);
        }
        assert_eq!(told, whole);
        assert_eq!(MapPart::parse("1 2\n3 4\n"), None);
        assert_eq!(MapPart::understood(b"u12"), None);
    }

    #[test]
    fn another_version_is_not_misread() {
        assert_eq!(Report::parse("idshift-report 3\n"), None);
        assert_eq!(Report::parse(""), None);
        for forged in ["number up{x=\"y\"} 1", "operation x 0 0 18446744073709551615 1 1"] {
            assert_eq!(Report::parse(&format!("{TITLE}\n{forged}\n")), None, "{forged}");
        }
        let newer = format!("{TITLE}\nnumber inodes 7\nnovelty a b\n");
        assert_eq!(Report::parse(&newer).unwrap().number("inodes"), 7);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (lower, option, flag) in any::<(String, String, bool)>(),
            (user, possible) in any::<(u32, bool)>(),
            extents in proptest::collection::vec(any::<(u32, u32, u32)>(), 0..4),
            why in any::<Option<String>>(),
            numbers in proptest::collection::vec(("[a-z_]{1,8}", any::<u64>()), 0..4),
            buckets in any::<[u64; BUCKETS]>(),
            (errors, nanos) in any::<(u64, u64)>(),
        ) {
            let times = Histogram(buckets);
            let operations = vec![
                Operation { name: "lookup".to_owned(), errors, nanos, times },
                Operation { name: "none".to_owned(), ..Operation::default() },
            ];
            let extents = extents.into_iter();
            let uids = extents.map(|(lower, upper, count)| Extent { lower, upper, count }).collect();
            let facts = Facts {
                lower,
                user,
                map: flag.then_some(Extents { uids, gids: Vec::new() }),
                options: BTreeMap::from([
                    ("unmapped".to_owned(), OptionValue::Text(option)),
                    ("ro".to_owned(), OptionValue::Flag(flag)),
                ]),
                idmapped_mounts: Possible { possible, why },
                ..Facts::default()
            };
            let report = Report { facts, numbers, operations };
            prop_assert_eq!(Report::parse(&report.to_string()), Some(report));
        }

        #[test]
        fn no_text_can_hurt(text: String) {
            Report::parse(&format!("{TITLE}\n{text}"));
        }
    }
}
