//! Two identical lower trees, each under its own kind of mount, and the callers of both.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::caller::{Caller, Home};
use crate::deviations;
use crate::maps::MapSpec;
use crate::observe;
use crate::side::{Shown, Side};
use crate::step::{Step, decode, encode};
use crate::storage::Storage;
use crate::tape::Tape;
use crate::worker::Worker;

/// By now the kernel has been told of what was prepared below.
const TOLD: std::time::Duration = std::time::Duration::from_millis(20);

/// How much is looked at, and when. Looking refreshes what the kernel remembers, so a difference
/// may show only where nobody looks until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The whole tree after each step.
    Everything,
    /// The paths of the step and their parents after each step, everything at the end.
    Touched,
    /// Everything at the end.
    AtEnd,
}

/// Where the two sides parted.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The number of the step after which it showed.
    pub step: usize,
    pub what: String,
    pub left: String,
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after step {}: {}", self.step + 1, self.what)?;
        writeln!(f, "  oracle: {}", self.left)?;
        write!(f, "  tested: {}", self.right)
    }
}

pub struct World {
    pub map: MapSpec,
    pub storage: Arc<Storage>,
    // Before the sides: fields are dropped in order, and a worker stands in a mount.
    workers: BTreeMap<(usize, &'static str), Worker>,
    /// The oracle's, if it is here and not only on record, and the tested one.
    sides: [Option<Side>; 2],
    /// Idshift's, besides the map.
    options: &'static str,
    sequences: u64,
}

impl World {
    /// `options` are idshift's, besides the map. `place` is a directory of its own for mount points,
    /// on a host path that everyone can reach.
    pub fn new(
        storage: Arc<Storage>,
        map: MapSpec,
        options: &'static str,
        shown: [Shown; 2],
        place: &Path,
    ) -> Result<Self, String> {
        let name = |n: usize| format!("{}-{}-{options}-{n}-{:?}", map.name, storage.kind, shown[n]);
        let side = |n: usize| {
            let lower = storage.root.join(place.file_name().unwrap_or_default()).join(name(n));
            let here = shown[n] != Shown::Recorded;
            here.then(|| Side::mount(shown[n], &map, options, lower, place.join(name(n))))
                .transpose()
        };
        let sides = [side(0)?, side(1)?];
        Ok(Self { map, storage, options, sides, workers: BTreeMap::new(), sequences: 0 })
    }

    /// Runs the steps on both sides, on fresh directories. `None`: no difference.
    pub fn run(&mut self, steps: &[Step], watch: Watch) -> Option<Difference> {
        self.run_taped(steps, watch, &mut Tape::Live)
    }

    /// The same, where the oracle's side is recorded or comes from a recording.
    pub fn run_taped(
        &mut self,
        steps: &[Step],
        watch: Watch,
        tape: &mut Tape,
    ) -> Option<Difference> {
        self.sequences += 1;
        let base = format!("s{}", self.sequences);
        for side in self.sides.iter().flatten() {
            let directory = side.lower.join(&base);
            std::fs::create_dir(&directory).expect("a fresh directory");
            rustix::fs::chmod(&directory, 0o777.into()).expect("its mode");
        }
        // What prepares the tree below comes before anyone looks: what the kernel has seen, it may
        // remember for a while.
        let prepared = steps.iter().take_while(|step| step.caller == "lower").count();
        let mut present = self.gather(&steps[..prepared], &base);
        for step in &steps[..prepared] {
            let [left, right] = self.answers(step);
            assert!(left.is_none() || left == right, "the lower trees differ: {step}");
        }
        if prepared > 0 && watch == Watch::AtEnd {
            // The kernel is told of changes below within milliseconds, and then drops an answer
            // that is on its way. Where it matters what it remembers, that must be over.
            std::thread::sleep(TOLD);
        }
        present.extend(self.gather(&steps[prepared..], &base));
        let found = self.walk(steps, prepared, watch, &base, tape);
        for key in present {
            if let Some(worker) = self.workers.get_mut(&key) {
                worker.ask("reset /");
            }
        }
        if found.as_ref().is_some_and(|found| found.left == "HANGS" || found.right == "HANGS") {
            self.workers.clear();
        }
        for side in self.sides.iter().flatten() {
            retire_tree(&side.lower.join(&base));
        }
        found
    }

    /// What the server has logged, for the report of a failure.
    pub fn log(&self) -> String {
        let logs =
            self.sides.iter().flatten().filter(|side| side.shown == Shown::Idshift).map(Side::log);
        let all: String = logs.collect();
        let tail: Vec<&str> =
            all.lines().filter(|line| !line.contains(" INFO ")).rev().take(15).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn walk(
        &mut self,
        steps: &[Step],
        prepared: usize,
        watch: Watch,
        base: &str,
        tape: &mut Tape,
    ) -> Option<Difference> {
        for (number, step) in steps.iter().enumerate().skip(prepared) {
            if step.callers().iter().any(|caller| !caller.exists(&self.map)) {
                continue;
            }
            let emptying = deviations::truncates_to_nothing(step);
            let losing = emptying || deviations::may_lose_privileges(step, &steps[..number]);
            let lost_before = losing.then(|| self.lost_privileges(base));
            let [left, right] = self.answers(step);
            let refused =
                |answer: &Option<String>| answer.as_ref().is_some_and(|a| !a.starts_with("ok"));
            if let Some(lost) =
                lost_before.filter(|_| emptying || refused(&left) && refused(&right))
                && !self.lost_privileges(base).is_subset(&lost)
            {
                return None;
            }
            let left = tape.next(|| left.unwrap_or_default())?;
            let mut seen = vec![(step.to_string(), left, right.unwrap_or_default())];
            // A change beside the mount shows after the cache's time.
            if step.through_the_mount() {
                match watch {
                    Watch::Everything => seen.extend(self.compare_trees(base, tape)?),
                    Watch::Touched => seen.extend(self.compare_paths(step, base, tape)?),
                    Watch::AtEnd => {}
                }
            }
            match self.verdict(steps, number, seen) {
                Verdict::Equal => {}
                Verdict::Parted => return None,
                Verdict::Different(found) => return Some(found),
            }
        }
        let number = steps.len().checked_sub(1)?;
        let mut seen = self.compare_trees(base, tape)?;
        seen.extend(self.compare_lower(base, tape)?);
        match self.verdict(steps, number, seen) {
            Verdict::Different(found) => Some(found),
            _ => None,
        }
    }

    /// Brings all callers of the steps to the fresh directories, while everyone may go there.
    fn gather(&mut self, steps: &[Step], base: &str) -> BTreeSet<(usize, &'static str)> {
        let callers = steps.iter().flat_map(Step::callers);
        let mut present = BTreeSet::new();
        for caller in callers.filter(|caller| caller.exists(&self.map)) {
            for (n, side) in self.sides.iter_mut().enumerate() {
                let Some(side) = side else { continue };
                if !present.insert((n, caller.name)) {
                    continue;
                }
                let root = match caller.home {
                    Home::Lower => side.lower.clone(),
                    Home::Other => side.other(),
                    Home::Upper | Home::Namespace => side.upper.clone(),
                };
                let directory = encode(root.join(base).as_os_str().as_encoded_bytes());
                let worker = self.workers.entry((n, caller.name));
                let worker = worker.or_insert_with(|| Worker::start(&caller, &self.map));
                let answer = worker.ask(&format!("reset {directory}"));
                assert_eq!(answer, "ok", "{} on side {n}: {directory}", caller.name);
            }
        }
        present
    }

    /// One step on the sides that are here, at the same time. Several callers' answers are sorted.
    fn answers(&mut self, step: &Step) -> [Option<String>; 2] {
        let callers = step.callers();
        let here = [0, 1].map(|n| self.sides[n].is_some());
        for n in (0..2).filter(|&n| here[n]) {
            for caller in &callers {
                let request = step.request(|kind, lower| caller.calls(&self.map, kind, lower));
                self.worker(n, caller).send(&request);
            }
        }
        [0, 1].map(|n| {
            let receive = |caller| self.worker(n, caller).receive();
            here[n].then(|| {
                let mut answers: Vec<String> = callers.iter().map(receive).collect();
                answers.sort();
                answers.join(" and ")
            })
        })
    }

    fn worker(&mut self, side: usize, caller: &Caller) -> &mut Worker {
        self.workers.get_mut(&(side, caller.name)).expect("gathered")
    }

    /// A sequence's directory through the mount and on the lower side. The oracle's is asked for
    /// only where it is here.
    fn root(&self, n: usize, base: &str) -> (PathBuf, PathBuf) {
        let side = self.sides[n].as_ref().expect("a side that is here");
        (side.upper.join(base), side.lower.join(base))
    }

    /// Judges what was seen after step `number`.
    fn verdict(&self, steps: &[Step], number: usize, seen: Vec<Seen>) -> Verdict {
        let mut new = None;
        let seen =
            seen.into_iter().map(|(what, l, r)| (what, l, deviations::tellable(&r, self.options)));
        for (what, left, right) in seen.filter(|(_, left, right)| left != right) {
            match deviations::find(&steps[number], &steps[..number], self.options, &left, &right) {
                Some(known) if known.parts => return Verdict::Parted,
                Some(_) => {}
                None => new = new.or(Some(Difference { step: number, what, left, right })),
            }
        }
        new.map_or(Verdict::Equal, Verdict::Different)
    }

    fn compare_trees(&self, base: &str, tape: &mut Tape) -> Option<Vec<Seen>> {
        let look = |n| {
            let (upper, lower) = self.root(n, base);
            observe::upper_tree(&upper, &lower)
        };
        let left = tape.tree(|| look(0))?;
        let found = observe::differences(&left, &look(1)).into_iter();
        Some(found.map(|(path, l, r)| (format!("{path} through the mount"), l, r)).collect())
    }

    fn compare_lower(&self, base: &str, tape: &mut Tape) -> Option<Vec<Seen>> {
        let look = |n| observe::lower_tree(&self.root(n, base).1);
        let left = tape.tree(|| look(0))?;
        let found = observe::differences(&left, &look(1)).into_iter();
        Some(found.map(|(path, l, r)| (format!("{path} on the lower side"), l, r)).collect())
    }

    /// What has set-ID bits or a file capability on the oracle's lower side and not on the other.
    /// Nothing to say where the oracle is on record only.
    fn lost_privileges(&self, base: &str) -> BTreeSet<(PathBuf, u32)> {
        let [left, right] = [0, 1].map(|n| {
            let side = self.sides[n].as_ref()?;
            Some(observe::privileges(&side.lower.join(base)))
        });
        let (Some(left), Some(right)) = (left, right) else { return BTreeSet::new() };
        left.difference(&right).cloned().collect()
    }

    fn compare_paths(&self, step: &Step, base: &str, tape: &mut Tape) -> Option<Vec<Seen>> {
        let mut paths = BTreeSet::new();
        for path in step.paths().into_iter().filter(|path| !path.starts_with('/')) {
            let path = PathBuf::from(OsString::from_vec(decode(path)));
            paths.insert(path.parent().map(Path::to_path_buf).unwrap_or_default());
            paths.insert(path);
        }
        let mut look = |path: &PathBuf| {
            let look = |n| {
                let (upper, lower) = self.root(n, base);
                observe::upper(&upper.join(path), &lower.join(path))
            };
            let left = tape.next(|| look(0))?;
            Some((format!("{} through the mount", path.display()), left, look(1)))
        };
        paths.iter().map(&mut look).collect()
    }
}

/// What was looked at, and what it was on either side.
type Seen = (String, String, String);

enum Verdict {
    Equal,
    /// A known deviation after which the two sides go different ways.
    Parted,
    Different(Difference),
}

/// Gives a tree's space back. The files stay until the file system goes: a number that is used
/// again for another file, behind the mount's back, would be a test of its own.
fn retire_tree(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => retire_tree(&entry.path()),
            Ok(kind) if kind.is_file() => {
                // Immutable files resist; they are small.
                let file = std::fs::File::options().write(true).open(entry.path());
                let _emptied = file.and_then(|file| file.set_len(0));
            }
            _ => {}
        }
    }
}
