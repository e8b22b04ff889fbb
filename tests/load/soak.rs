//! The soak: several users do everything at once through two mounts with different maps over one
//! lower tree, and directly below; now and then a server is killed or a mount made anew. In the end
//! both mounts show what is stored, and no server holds anything that nobody needs.
//!
//! `IDSHIFT_SOAK_MINUTES` says for how long (0.25 if it is not set), `IDSHIFT_SOAK_SEED` with which
//! numbers.

mod compare;
mod worker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};

use crate::common::dice::Dice;
use crate::common::mount::{free, temp_dir};
use crate::common::program::{idshift, servers_of};
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{self, chown, put_dir, raw, status};
pub(crate) use worker::work;
use worker::{TASK, Task};

crate::common::tests!(soak);

/// What this process is started for, when it is one of the soak's own.
pub(crate) fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// The lower ids that both maps have.
pub(crate) const FIRST: u32 = 20_000;
pub(crate) const COUNT: u32 = 20_000;
/// What they are shown as, by mount.
const SHOWN: [u32; 2] = [0, 100_000];
/// What the two mounts are made with, in turn.
const OPTIONS: &[&str] = &[
    "",
    ",restart=on",
    ",io=cached",
    ",cache=ttl:1",
    ",locks=lower,restart=on",
    ",locks=lower",
    ",threads=1",
];
/// Options for every mount, behind those. With `restart=on` among them no call may end because a
/// server was killed.
const MORE_OPTIONS: &str = "IDSHIFT_SOAK_OPTIONS";

/// Whether every server that is killed must be replaced, with nobody noticing.
fn all_are_replaced() -> bool {
    std::env::var(MORE_OPTIONS).is_ok_and(|options| options.contains("restart=on"))
}

/// More files than all workers ever have open at a time.
const MOST_OPEN: u64 = 200;
/// How much more memory a server may have than when it was new, after everything is forgotten.
const MORE_MEMORY: u64 = 8 << 20;

struct Place {
    lower: PathBuf,
    uppers: [PathBuf; 2],
    gate: PathBuf,
    made: usize,
    taken_over: usize,
    killed: usize,
    /// Whether each mount finds changes by asking again after a second.
    asks_again: [bool; 2],
    // Last: the mounts are gone when the directory goes.
    _mounts: Mounts,
    dir: tempfile::TempDir,
}

/// Takes the mounts away, whatever happens.
struct Mounts([PathBuf; 2]);

impl Drop for Mounts {
    fn drop(&mut self) {
        for upper in &self.0 {
            free(upper);
            for pid in servers_of(upper) {
                raw::kill(pid, libc::SIGKILL).ok();
            }
        }
    }
}

impl Place {
    fn new() -> Self {
        let dir = temp_dir();
        let lower = dir.path().join("lower");
        put_dir(&lower, 0o755, FIRST, FIRST);
        put_dir(&lower.join("all"), 0o777, FIRST, FIRST);
        put_dir(&lower.join("own"), 0o755, FIRST, FIRST);
        let uppers = ["a", "b"].map(|name| dir.path().join(name));
        for upper in &uppers {
            put_dir(upper, 0o755, 0, 0);
        }
        let gate = dir.path().join("gate");
        File::create(&gate).unwrap();
        let mounts = Mounts(uppers.clone());
        let mut place = Self {
            lower,
            uppers,
            gate,
            made: 0,
            taken_over: 0,
            killed: 0,
            asks_again: [false; 2],
            _mounts: mounts,
            dir,
        };
        (0..2).for_each(|which| place.mount(which));
        place
    }

    fn mount(&mut self, which: usize) {
        let extra = OPTIONS[self.made % OPTIONS.len()];
        self.made += 1;
        self.asks_again[which] = extra.contains("cache=ttl");
        let more = std::env::var(MORE_OPTIONS).unwrap_or_default();
        let comma = if more.is_empty() { "" } else { "," };
        let options = format!("map=b:{FIRST}:{}:{COUNT}{extra}{comma}{more}", SHOWN[which]);
        let called = idshift(&[&"mount", &"-o", &options, &self.lower, &self.uppers[which]]);
        assert_eq!(called.code, 0, "mount with {options}: {}", called.err);
    }

    /// Takes a mount away and makes it anew, with other options, while nobody is in a call.
    fn remount(&mut self, which: usize) {
        let closed = self.gate.with_extension("closed");
        File::create(&closed).unwrap();
        let gate = File::open(&self.gate).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        let upper = self.uppers[which].clone();
        unmount(&upper, UnmountFlags::DETACH).unwrap();
        common::eventually("the server ends", || servers_of(&upper).is_empty());
        self.mount(which);
        fs::remove_file(&closed).unwrap();
    }

    /// Kills a server in the middle of whatever it does. Where nobody takes its place, the mount is
    /// made anew.
    fn kill(&mut self, which: usize) {
        let pid = self.pid(which).expect("a mount that answers");
        raw::kill(u32::try_from(pid).unwrap(), libc::SIGKILL).unwrap();
        self.killed += 1;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            match self.pid(which) {
                Some(other) if other != pid => {
                    self.taken_over += 1;
                    return;
                }
                // Dead: nobody will come.
                None if servers_of(&self.uppers[which]).is_empty() => break,
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        assert!(!all_are_replaced(), "nobody has taken over from server {pid}");
        // A thread of the dead server may be telling the kernel of a change, and wait for a lock of
        // somebody who waits for the server: only aborting the connection frees both. The mount is
        // held, so that it stays until nobody is in a call.
        let upper = &self.uppers[which];
        let held = common::open(upper, common::OFlags::PATH, 0).unwrap();
        unmount(upper, UnmountFlags::FORCE).unwrap_err();
        drop(held);
        self.remount(which);
    }

    fn pid(&self, which: usize) -> Option<u64> {
        let report = status::report(&self.uppers[which])?;
        Some(status::number(&report, "pid"))
    }

    fn start(&self, number: u64, of: &Role, seed: u64, length: Duration) -> (PathBuf, Child) {
        let own = format!("w{number}");
        let directory = self.lower.join("own").join(&own);
        fs::create_dir(&directory).unwrap();
        let stored = of.uid - of.first + if of.side.is_some() { FIRST } else { 0 };
        chown(&directory, Some(stored), Some(stored)).unwrap();
        let log = self.dir.path().join(format!("{own}.log"));
        let task = Task {
            uid: of.uid,
            first: of.first,
            seed: seed + number,
            millis: u64::try_from(length.as_millis()).unwrap(),
            root: of.side.map_or(&self.lower, |which| &self.uppers[which]).clone(),
            gate: self.gate.clone(),
            log: log.clone(),
            own,
        };
        let mut command = Command::new("/proc/self/exe");
        command.env(TASK, task.words());
        raw::die_with_parent(&mut command);
        (log, command.spawn().unwrap())
    }
}

/// Who works where.
struct Role {
    /// Which mount; none is below.
    side: Option<usize>,
    uid: u32,
    /// What it gives things to is from there.
    first: u32,
}

/// Root gives things away, also to owners outside the maps.
const ROLES: &[Role] = &[
    Role { side: Some(0), uid: 0, first: 0 },
    Role { side: Some(0), uid: 1000, first: 0 },
    Role { side: Some(0), uid: 1001, first: 0 },
    Role { side: Some(1), uid: 100_000, first: 100_000 },
    Role { side: Some(1), uid: 101_000, first: 100_000 },
    Role { side: Some(1), uid: 101_001, first: 100_000 },
    Role { side: None, uid: 0, first: 0 },
    Role { side: None, uid: 21_000, first: 0 },
];

fn minutes() -> f64 {
    match std::env::var("IDSHIFT_SOAK_MINUTES") {
        Ok(text) => text.parse().expect("IDSHIFT_SOAK_MINUTES is a number"),
        Err(_) => 0.25,
    }
}

fn soak() {
    needs_idshift();
    needs_real_root("kills servers, and makes the kernel forget");
    let length = Duration::from_secs_f64(minutes() * 60.0);
    let seed = std::env::var("IDSHIFT_SOAK_SEED").map_or(2026, |text| text.parse().unwrap());
    let mut place = Place::new();
    let start = Instant::now();
    let workers: Vec<_> = (0..)
        .zip(ROLES)
        .map(|(number, role)| place.start(number, role, seed * 1000, length))
        .collect();
    let mut dice = Dice(seed);
    let mut held = Peak::default();
    // A short soak has at least one of each.
    let pause = (length / 8).min(Duration::from_secs(20));
    let mut turn = 0;
    while start.elapsed() + pause < length {
        thread::sleep(pause);
        held.look(&place);
        let which = dice.size(2);
        if turn % 2 == 0 {
            place.kill(which);
        } else {
            place.remount(which);
        }
        turn += 1;
    }
    let mut failures = Vec::new();
    let summary = gather(workers, length, start, &mut failures);
    let names = (0..2).map(|which| {
        let upper = &place.uppers[which];
        if place.asks_again[which] {
            compare::let_run_out(upper);
        }
        compare::agree(&place.lower, upper, SHOWN[which], &mut failures)
    });
    let names = names.last().unwrap_or(0);
    let left: Vec<String> =
        (0..2).map(|which| left_over(&mut place, which, &mut failures)).collect();
    println!("soak: {:.1} minutes, seed {seed}: {summary}", start.elapsed().as_secs_f64() / 60.0);
    println!(
        "soak: {} servers killed ({} taken over by another), {} mounts made, {names} names in the end",
        place.killed, place.taken_over, place.made
    );
    println!("soak: at most {held}");
    let open = held.0.get("open_files").copied().unwrap_or(0);
    if open > MOST_OPEN {
        failures.push(format!("{open} files were open at a time; the workers have fewer"));
    }
    for line in left {
        println!("soak: {line}");
    }
    println!("soak: {} failures", failures.len());
    failures.truncate(30);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What the servers held at most.
#[derive(Default)]
struct Peak(BTreeMap<&'static str, u64>);

impl Peak {
    fn look(&mut self, place: &Place) {
        for upper in &place.uppers {
            let Some(report) = status::report(upper) else { continue };
            for name in ["inodes", "lookups", "open_files", "descriptors", "memory_bytes"] {
                let most = self.0.entry(name).or_default();
                *most = (*most).max(status::number(&report, name));
            }
        }
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(name, most)| format!("{name} {most}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Waits for the workers; what they have done, in words.
fn gather(
    workers: Vec<(PathBuf, Child)>,
    length: Duration,
    start: Instant,
    failures: &mut Vec<String>,
) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut verified = 0;
    for (log, mut child) in workers {
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > length + Duration::from_secs(60) {
                failures.push(format!("the worker of {} hangs", log.display()));
                raw::kill(child.id(), libc::SIGKILL).ok();
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        for line in fs::read_to_string(&log).unwrap_or_default().lines() {
            match line.split_once(' ') {
                Some(("verified", number)) => verified += number.parse::<u64>().unwrap(),
                Some(("count", rest)) => {
                    let (word, number) = rest.rsplit_once(' ').unwrap();
                    *counts.entry(word.to_owned()).or_default() += number.parse::<u64>().unwrap();
                }
                Some((_, rest)) => failures.push(rest.to_owned()),
                None => {}
            }
        }
        if !matches!(child.try_wait(), Ok(Some(status)) if status.code().is_some_and(|c| c <= 1)) {
            failures.push(format!("the worker of {} did not end by itself", log.display()));
        }
    }
    let all: u64 = counts.values().sum();
    assert!(verified > 0 && all > 0, "the workers have worked: {failures:?}");
    let ok = counts.remove("ok").unwrap_or(0);
    let others: Vec<_> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    format!(
        "{all} operations of {} workers, {ok} without an error, {verified} known files read back \
         as they were written; the errors: {}",
        ROLES.len(),
        others.join(", ")
    )
}

/// What a server holds once the kernel has forgotten everything, beside a new one.
fn left_over(place: &mut Place, which: usize, failures: &mut Vec<String>) -> String {
    let upper = place.uppers[which].clone();
    let zero = ["inodes", "lookups", "open_files", "unlinked_descriptors", "backing_files"];
    let held = |report: &str| zero.iter().map(|name| status::number(report, name)).sum::<u64>();
    let mut report = String::new();
    // The kernel drops what has been used lately only on the second call.
    for _ in 0..40 {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        report = status::report(&upper).expect("the mount answers");
        if held(&report) == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(250));
    }
    let numbers = |report: &str, names: &[&str]| {
        let one = |name: &&str| format!("{name} {}", status::number(report, name));
        names.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let old = numbers(&report, &zero);
    if held(&report) != 0 {
        failures.push(format!("left over at {}: {old}", upper.display()));
    }
    place.remount(which);
    let new = status::report(&upper).expect("the new mount answers");
    let of = |report: &str, name: &str| status::number(report, name);
    let (now, fresh) = (of(&report, "memory_bytes"), of(&new, "memory_bytes"));
    if now > fresh + MORE_MEMORY {
        failures.push(format!("{} holds {now} bytes, a new server {fresh}", upper.display()));
    }
    let open = |report: &str| {
        of(report, "descriptors") - of(report, "cached_descriptors") - of(report, "open_files")
    };
    // Threads that run by now may have opened something of their own; a leak is more.
    if open(&report) > open(&new) + 4 {
        failures.push(format!(
            "{} has {} descriptors open, a new server {}",
            upper.display(),
            open(&report),
            open(&new)
        ));
    }
    format!(
        "{} after everything is forgotten: {old}; descriptors {} (new: {}), memory {} KiB (new: {})",
        Path::new(upper.file_name().unwrap()).display(),
        open(&report),
        open(&new),
        now / 1024,
        fresh / 1024
    )
}
