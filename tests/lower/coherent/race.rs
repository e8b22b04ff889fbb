//! Changes below at full speed, while several callers look.
//!
//! Every change has a number, which whoever looks can read off what he sees. When a change is done
//! its number and the time are noted; so an answer to a question that was asked at that time or
//! later, less what is promised, must show that number or a later one.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{MARGIN, PROMISE, alone, coherent};
use crate::common::{Errno, lo, put_dir, put_file};

/// How long each race runs.
const TIME: Duration = Duration::from_secs(4);
/// How long most answers may lag.
const USUAL: Duration = Duration::from_millis(100);

/// When each change was done; the number is the place.
struct Done {
    start: Instant,
    times: Mutex<Vec<Duration>>,
    /// Answers, those that lagged for longer than usual, and the longest lag in microseconds.
    answers: AtomicU64,
    late: AtomicU64,
    longest: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Done {
    fn new() -> Self {
        let counter = AtomicU64::default;
        Self {
            start: Instant::now(),
            times: Mutex::default(),
            answers: counter(),
            late: counter(),
            longest: counter(),
            refused: counter(),
            stop: AtomicBool::new(false),
        }
    }

    /// The change with the next number is done.
    fn note(&self) {
        let now = self.start.elapsed();
        self.times.lock().unwrap().push(now);
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Somebody who asked at `asked` was shown the state after change `seen`.
    fn check(&self, asked: Duration, seen: usize, what: &str) {
        let times = self.times.lock().unwrap();
        // Change `seen + 1` was done then, and should have been shown ever after.
        let lag = times.get(seen + 1).map_or(Duration::ZERO, |&done| asked.saturating_sub(done));
        let newest = times.len();
        drop(times);
        self.answers.fetch_add(1, Ordering::Relaxed);
        if lag > USUAL {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(lag.as_micros()).unwrap();
        self.longest.fetch_max(micros, Ordering::Relaxed);
        if lag > PROMISE + MARGIN {
            self.stop.store(true, Ordering::Relaxed);
            panic!("{what}: number {seen} is shown {lag:?} after it changed; newest is {newest}");
        }
    }

    /// A call met a file that had just gone, twice in a row: the kernel tries only once more.
    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn report(&self, what: &str) {
        let changes = self.times.lock().unwrap().len();
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (answers, late) = (number(&self.answers), number(&self.late));
        let (longest, refused) =
            (Duration::from_micros(number(&self.longest)), number(&self.refused));
        println!(
            "coherent: {what}: {changes} changes, {answers} answers, {late} later than {USUAL:?}, \
             the longest lag {longest:?}, {refused} refused"
        );
        assert!(changes > 100 && answers > 100, "too little has happened");
        assert!(late * 10 <= answers, "{late} of {answers} answers were late");
        assert!(refused * 1000 <= answers, "{refused} refused, beside {answers} answers");
    }
}

/// Runs one who changes and some who look, until the time is over or one of them fails.
fn run(done: &Done, change: impl Fn(usize) + Sync, look: &[&(dyn Fn() + Sync)]) {
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if !done.running() {
                    return;
                }
                change(number);
                done.note();
                // At times it rests, so that what is seen then must become right and stay so.
                if number % 500 == 499 {
                    thread::sleep(Duration::from_millis(120));
                }
            }
        });
        for look in look {
            scope.spawn(|| {
                while done.running() {
                    look();
                }
            });
        }
        let end = Instant::now() + TIME;
        while done.running() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        done.stop.store(true, Ordering::Relaxed);
    });
}

/// One file's times and mode: its time of modification is the number of the change.
pub(crate) fn attributes() {
    let mount = coherent(|lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        put_file(&lower.join("dir/file"), b"", 0o644, lo(0), lo(0));
        fs::hard_link(lower.join("dir/file"), lower.join("dir/link")).unwrap();
    });
    let done = Done::new();
    let low = mount.low("dir/file");
    let set = |number: usize| {
        let time = rustix::fs::Timespec { tv_sec: i64::try_from(number).unwrap(), tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &low, &times, rustix::fs::AtFlags::empty()).unwrap();
    };
    set(0);
    done.note();
    let seen = |asked, stat: &rustix::fs::Stat, what| {
        done.check(asked, usize::try_from(stat.st_mtime).unwrap(), what);
    };
    let by_name = |name: &str| {
        let path = mount.up(name);
        let asked = done.now();
        seen(asked, &super::stat(&path), "stat");
    };
    let open = File::open(mount.up("dir/file")).unwrap();
    let by_descriptor = || {
        let asked = done.now();
        seen(asked, &rustix::fs::fstat(&open).unwrap(), "fstat");
    };
    let by_listing = || {
        let asked = done.now();
        for entry in fs::read_dir(mount.up("dir")).unwrap() {
            seen(asked, &super::stat(&entry.unwrap().path()), "a listing");
        }
    };
    // The kernel forgets the inode again and again, so that it is new each time.
    let forgotten = || {
        fs::write("/proc/sys/vm/drop_caches", "2").ok();
        thread::sleep(Duration::from_millis(200));
    };
    run(
        &done,
        |number| set(number + 1),
        &[
            &|| by_name("dir/file"),
            &|| by_name("dir/link"),
            &by_descriptor,
            &by_listing,
            &forgotten,
        ],
    );
    done.report("attributes");
}

/// A name that comes and goes, and one that wanders: change 2n makes `n`, change 2n+1 removes it.
pub(crate) fn names() {
    let mount = coherent(|lower| put_dir(&lower.join("dir"), 0o755, lo(0), lo(0)));
    let done = Done::new();
    let newest = AtomicU64::new(0);
    // After change k the directory holds one name: k.
    let dir = mount.low("dir");
    fs::write(dir.join("0"), "").unwrap();
    done.note();
    let change = |number: usize| {
        fs::rename(dir.join(number.to_string()), dir.join((number + 1).to_string())).unwrap();
        newest.store(number as u64 + 1, Ordering::Relaxed);
    };
    let up = mount.up("dir");
    let list = || {
        let asked = done.now();
        let names = fs::read_dir(&up).unwrap().map(|entry| entry.unwrap().file_name());
        let numbers = names.filter_map(|name| name.to_str()?.parse::<usize>().ok());
        // While it is being listed it may be renamed, and be listed twice or not at all.
        if let Some(newest) = numbers.max() {
            done.check(asked, newest, "a listing");
        }
    };
    let look = |ahead: u64| {
        let number = newest.load(Ordering::Relaxed) + ahead;
        let name = up.join(number.to_string());
        let asked = done.now();
        let here = super::exists(&name);
        let number = usize::try_from(number).unwrap();
        // A name that is there says that the next change has not been; one that is not there says
        // nothing, because it may have been and gone, unless nothing is going on.
        if here {
            done.check(asked, number, "a name that is there");
        }
    };
    let resting = || {
        // Longer than usual without a change: now the one name must be there.
        let number = newest.load(Ordering::Relaxed);
        let asked = done.now();
        let here = super::exists(&up.join(number.to_string()));
        let number = usize::try_from(number).unwrap();
        let after = done.times.lock().unwrap().len();
        if !here && after <= number + 1 {
            // It was this change's name, and the next one is not done: the name was shown missing.
            done.check(asked, number - 1, "a name that is missing");
        }
    };
    run(&done, change, &[&list, &|| look(0), &|| look(1), &|| look(3), &resting]);
    done.report("names");
}

/// A file that is replaced: each one's size, mode, times and every byte say which one it is.
pub(crate) fn replaced_files() {
    let mount = coherent(|lower| put_dir(&lower.join("dir"), 0o755, lo(0), lo(0)));
    let done = Done::new();
    let dir = mount.low("dir");
    let replace = |number: usize| {
        let fresh = dir.join("fresh");
        fs::write(&fresh, content(number)).unwrap();
        super::set_mode(&fresh, mode_of(number)).unwrap();
        let time = rustix::fs::Timespec { tv_sec: i64::try_from(number).unwrap(), tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &fresh, &times, rustix::fs::AtFlags::empty())
            .unwrap();
        super::chown(&fresh, Some(lo(0)), Some(lo(0))).unwrap();
        fs::rename(&fresh, dir.join("file")).unwrap();
    };
    replace(0);
    done.note();
    let up = mount.up("dir/file");
    let look = || {
        let asked = done.now();
        let stat = match rustix::fs::lstat(&up) {
            Ok(stat) => stat,
            Err(Errno::STALE) => return done.refuse(),
            Err(error) => panic!("the name is never missing: {error}"),
        };
        let number = usize::try_from(stat.st_mtime).unwrap();
        is_one_file(&stat, number, "stat");
        done.check(asked, number, "stat");
    };
    let read = || {
        let asked = done.now();
        let Some(mut file) = opened(&up) else { return done.refuse() };
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let number = usize::try_from(stat.st_mtime).unwrap();
        is_one_file(&stat, number, "fstat");
        assert!(found == content(number), "the content is not that of number {number}");
        done.check(asked, number, "the content");
    };
    run(&done, |number| replace(number + 1), &[&look, &look, &read, &read]);
    done.report("replaced files");
}

/// The file may be replaced between the lookup and the opening; the kernel tries that again once.
fn opened(path: &Path) -> Option<File> {
    match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn content(number: usize) -> Vec<u8> {
    number.to_string().repeat(1 + number % 50).into_bytes()
}

fn mode_of(number: usize) -> u32 {
    0o600 | u32::try_from(number % 64).unwrap()
}

fn is_one_file(stat: &rustix::fs::Stat, number: usize, what: &str) {
    let size = i64::try_from(content(number).len()).unwrap();
    let shown = (stat.st_size, stat.st_mode & 0o777, stat.st_uid);
    assert_eq!(shown, (size, mode_of(number), 0), "{what}: not all is of number {number}");
}

/// Files that change once, while they are looked at for the first time: nothing that happens later
/// mends what was remembered wrongly.
pub(crate) fn first_looks() {
    const DIRS: usize = 24;
    const FILES: usize = 1_500;
    let name = |dir: usize, file: usize| format!("{dir}/{file}");
    let (mount, _tmpfs) = alone(|lower| {
        for dir in 0..DIRS {
            put_dir(&lower.join(dir.to_string()), 0o755, lo(0), lo(0));
            for file in 0..FILES {
                put_file(&lower.join(name(dir, file)), b"", 0o644, lo(0), lo(0));
            }
        }
    });
    for dir in 0..DIRS {
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // Near the listing, some before it and some behind it.
                for step in 0..FILES {
                    let file = (step * 7 + dir * 131) % FILES;
                    super::set_mode(&mount.low(name(dir, file)), 0o600).unwrap();
                }
            });
            start.wait();
            if dir % 2 == 0 {
                for entry in fs::read_dir(mount.up(dir.to_string())).unwrap() {
                    super::stat(&entry.unwrap().path());
                }
            } else {
                for file in 0..FILES {
                    super::stat(&mount.up(name(dir, file)));
                }
            }
        });
    }
    thread::sleep(PROMISE + MARGIN);
    let all = (0..DIRS).flat_map(|dir| (0..FILES).map(move |file| name(dir, file)));
    let wrong: Vec<String> = all.filter(|name| super::mode(&mount.up(name)) != 0o600).collect();
    assert!(
        wrong.is_empty(),
        "{} stay as they were: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(9)]
    );
}
