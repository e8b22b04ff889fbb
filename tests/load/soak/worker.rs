//! One process of the soak: everything that can be done with files, in a place that all share, and
//! in one of its own, where it knows what must be there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timestamps,
    flock, linkat, mknodat, renameat_with, symlink, unlink, utimensat,
};

use crate::common::dice::Dice;
use crate::common::{
    self, Caller, Errno, NO_ID, chown, get_xattr, mkdir, open, raw, set_mode, set_xattr,
};

/// The variable that makes this program a worker: the fields of [`Task`].
pub(crate) const TASK: &str = "IDSHIFT_SOAK_WORKER";

/// What a worker is told: `UID FIRST SEED MILLIS ROOT GATE LOG OWN`.
pub(crate) struct Task {
    pub(crate) uid: u32,
    /// The upper id that stands for the first of the map: what it gives things to is from there.
    pub(crate) first: u32,
    pub(crate) seed: u64,
    pub(crate) millis: u64,
    pub(crate) root: PathBuf,
    pub(crate) gate: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) own: String,
}

impl Task {
    pub(crate) fn words(&self) -> String {
        let Self { uid, first, seed, millis, root, gate, log, own } = self;
        let path = |path: &Path| path.display().to_string();
        format!("{uid} {first} {seed} {millis} {} {} {} {own}", path(root), path(gate), path(log))
    }

    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut next = || words.next().expect("eight words");
        Self {
            uid: next().parse().unwrap(),
            first: next().parse().unwrap(),
            seed: next().parse().unwrap(),
            millis: next().parse().unwrap(),
            root: next().into(),
            gate: next().into(),
            log: next().into(),
            own: next().into(),
        }
    }
}

struct Worker {
    task: Task,
    dice: Dice,
    /// What must be in the own directory: contents and mode.
    known: BTreeMap<String, (Vec<u8>, u32)>,
    counts: BTreeMap<String, u64>,
    failures: Vec<String>,
    verified: u64,
}

/// The worker's end.
pub(crate) fn work(words: &str) -> ExitCode {
    let task = Task::parse(words);
    let caller = Caller::user(task.uid).umask(0o022);
    // Opened while the rights for it are there.
    let gate = fs::File::open(&task.gate).unwrap();
    let log = fs::File::create(&task.log).unwrap();
    caller.run(|| {
        let dice = Dice(task.seed);
        let until = Instant::now() + Duration::from_millis(task.millis);
        let mut worker = Worker {
            task,
            dice,
            known: BTreeMap::new(),
            counts: BTreeMap::new(),
            failures: Vec::new(),
            verified: 0,
        };
        while Instant::now() < until && worker.failures.len() < 20 {
            if worker.task.gate.with_extension("closed").exists() {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            flock(&gate, FlockOperation::LockShared).unwrap();
            for _ in 0..20 {
                worker.step();
            }
            flock(&gate, FlockOperation::Unlock).unwrap();
        }
        worker.report(&log);
        if worker.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// The connection ends, or has ended: somebody has killed the server.
pub(crate) fn is_cut(errno: Errno) -> bool {
    let cut = [Errno::NOTCONN, Errno::CONNABORTED, Errno::NODEV].contains(&errno);
    cut && !super::all_are_replaced()
}

/// What a call may answer besides, because this one tries more than names.
const OTHER_ANSWERS: &[Errno] = &[
    Errno::STALE,    // looked up below, and gone
    Errno::NODATA,   // no such attribute
    Errno::NXIO,     // a fifo without a reader
    Errno::OVERFLOW, // an owner or a caller outside the map
    Errno::BUSY,
    Errno::AGAIN,
    Errno::MLINK,
    Errno::OPNOTSUPP, // an attribute of a symbolic link
    Errno::SPIPE,
    Errno::TXTBSY,
];

impl Worker {
    fn step(&mut self) {
        let (what, result) = if self.dice.below(3) == 0 { self.own() } else { self.shared() };
        let word = match result {
            Ok(()) => "ok".to_owned(),
            Err(errno) => {
                if !common::is_in_the_way(errno)
                    && !OTHER_ANSWERS.contains(&errno)
                    && !is_cut(errno)
                {
                    self.failures.push(format!("{what}: {errno}"));
                }
                errno.to_string().split(" (os error").next().unwrap_or_default().to_owned()
            }
        };
        *self.counts.entry(word).or_default() += 1;
    }

    fn report(&self, log: &fs::File) {
        let mut text = format!("verified {}\n", self.verified);
        for (word, count) in &self.counts {
            writeln!(text, "count {word} {count}").unwrap();
        }
        for failure in &self.failures {
            writeln!(text, "failure {} uid {}: {failure}", self.task.own, self.task.uid).unwrap();
        }
        std::io::Write::write_all(&mut &*log, text.as_bytes()).unwrap();
    }

    /// A step in the own directory: nobody else is there, so the outcome is known.
    fn own(&mut self) -> (String, Result<(), Errno>) {
        let name = format!("f{}", self.dice.below(24));
        let path = self.task.root.join("own").join(&self.task.own).join(&name);
        let what = self.dice.below(9);
        let result = self.own_step(what, &name, &path);
        if result.is_err() {
            // Whether it has been done is not known: what is there from now on counts.
            self.known.remove(&name);
        }
        // Nobody can be in the way here.
        let what = format!("own {what} {}", path.display());
        let result = match result {
            Err(errno) if !is_cut(errno) && errno != Errno::NOENT => {
                self.failures.push(format!("{what}: {errno}"));
                Ok(())
            }
            other => other,
        };
        (what, result)
    }

    fn own_step(&mut self, what: u64, name: &str, path: &Path) -> Result<(), Errno> {
        let seed = self.dice.below(256);
        let size = self.dice.size(40_000);
        let content: Vec<u8> =
            (0..size).map(|at| u8::try_from((at as u64 + seed) % 251).unwrap()).collect();
        let mut known = self.known.get(name).cloned();
        match what {
            0 | 1 => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                write_all(&open(path, flags, 0o644)?, &content)?;
                let mode = match &known {
                    Some((_, mode)) => *mode,
                    None => stat_mode(path)?,
                };
                known = Some((content, mode));
            }
            2 => {
                write_all(&open(path, OFlags::WRONLY | OFlags::APPEND, 0)?, &content)?;
                if let Some((before, _)) = &mut known {
                    before.extend(&content);
                }
            }
            3 => {
                let at = self.dice.size(20_000);
                let file = open(path, OFlags::RDWR, 0)?;
                let mut done = 0;
                while done < content.len() {
                    done += rustix::io::pwrite(&file, &content[done..], (at + done) as u64)?;
                }
                rustix::fs::fsync(&file)?;
                // Writing nothing past the end makes no file longer.
                if let Some((before, _)) = known.as_mut().filter(|_| !content.is_empty()) {
                    let end = at + content.len();
                    before.resize(before.len().max(end), 0);
                    before[at..end].copy_from_slice(&content);
                }
            }
            4 => {
                raw::truncate(path, i64::try_from(size).unwrap())?;
                if let Some((before, _)) = &mut known {
                    before.resize(size, 0);
                }
            }
            5 => {
                let mode = self.dice.of(&[0o600, 0o640, 0o644, 0o755]);
                set_mode(path, mode)?;
                if let Some((_, before)) = &mut known {
                    *before = mode;
                }
            }
            6 => {
                let to = format!("f{}", self.dice.below(24));
                self.known.remove(&to);
                rustix::fs::rename(path, path.with_file_name(&to))?;
                if to != name
                    && let Some(moved) = known.take()
                {
                    self.known.insert(to, moved);
                }
            }
            7 if self.dice.below(4) == 0 => {
                unlink(path)?;
                known = None;
            }
            _ => self.verify(path, &mut known)?,
        }
        match known {
            Some(known) => self.known.insert(name.to_owned(), known),
            None => self.known.remove(name),
        };
        Ok(())
    }

    fn verify(&mut self, path: &Path, known: &mut Option<(Vec<u8>, u32)>) -> Result<(), Errno> {
        let file = open(path, OFlags::RDONLY, 0);
        let (file, (content, mode)) = match (file, known.as_ref()) {
            (Ok(file), Some(known)) => (file, known),
            (Err(Errno::NOENT), Some(_)) => {
                self.failures.push(format!("{} is lost", path.display()));
                *known = None;
                return Ok(());
            }
            (file, None) => {
                *known = Some((read_all(&file?)?, stat_mode(path)?));
                return Ok(());
            }
            (Err(errno), _) => return Err(errno),
        };
        let seen = rustix::fs::lstat(path)?;
        let read = read_all(&file)?;
        if &read != content {
            let at = read.iter().zip(content).position(|(a, b)| a != b);
            self.failures.push(format!(
                "{}: {} bytes read, {} written, first difference at {at:?}",
                path.display(),
                read.len(),
                content.len()
            ));
        }
        let seen = (seen.st_mode & 0o7777, seen.st_uid, seen.st_size);
        let expected = (*mode, self.task.uid, i64::try_from(content.len()).unwrap());
        if seen != expected {
            self.failures.push(format!("{}: {seen:?} instead of {expected:?}", path.display()));
            *known = None;
        }
        self.verified += 1;
        Ok(())
    }

    fn place(&mut self) -> PathBuf {
        let mut path = self.directory();
        path.push(format!("n{}", self.dice.below(16)));
        path
    }

    fn directory(&mut self) -> PathBuf {
        let mut path = self.task.root.join("all");
        for _ in 0..self.dice.below(3) {
            path.push(format!("d{}", self.dice.below(4)));
        }
        path
    }

    /// A step in the place that all share; the outcome depends on the others.
    fn shared(&mut self) -> (String, Result<(), Errno>) {
        let (path, other) = (self.place(), self.place());
        let what = self.dice.below(32);
        let result = match what {
            0..=17 => self.on_names(what, &path, &other),
            _ => self.on_contents(what, &path, &other),
        };
        (format!("shared {what} {}", path.display()), result)
    }

    fn on_names(&mut self, what: u64, path: &Path, other: &Path) -> Result<(), Errno> {
        let some_id = self.task.first + u32::try_from(self.dice.below(3000)).unwrap();
        match what {
            0 | 1 => {
                let mut directory = self.directory();
                directory.push(format!("d{}", self.dice.below(4)));
                mkdir(&directory, 0o777)?;
                set_mode(&directory, 0o777)
            }
            2 => {
                let mut directory = self.directory();
                directory.push(format!("d{}", self.dice.below(4)));
                rustix::fs::rmdir(&directory)
            }
            3 => symlink(format!("../n{}", self.dice.below(12)), path),
            4 => rustix::fs::link(path, other),
            5 | 6 => rustix::fs::rename(path, other),
            7 => {
                let flags = self.dice.of(&[RenameFlags::EXCHANGE, RenameFlags::NOREPLACE]);
                renameat_with(CWD, path, CWD, other, flags)
            }
            8 => {
                let (from, to) = (self.directory(), self.directory());
                if from.ends_with("all") || to.ends_with("all") {
                    return Ok(());
                }
                rustix::fs::rename(from, to)
            }
            9 | 10 => unlink(path),
            11 => set_mode(path, 0o600 | u32::try_from(self.dice.below(0o7777)).unwrap() & 0o7177),
            12 => chown(path, Some(some_id), Some(some_id)),
            13 => set_xattr(path, "user.note", path.as_os_str().as_encoded_bytes()),
            14 => get_xattr(path, "user.note").map(drop),
            15 => set_xattr(path, common::ACL_ACCESS, &acl(some_id)),
            16 => {
                let mode = Mode::from_raw_mode(0o666);
                mknodat(CWD, path, FileType::Fifo, mode, 0)
            }
            _ => {
                let directory = self.directory();
                set_xattr(&directory, common::ACL_DEFAULT, &acl(some_id))
            }
        }
    }

    fn on_contents(&mut self, what: u64, path: &Path, other: &Path) -> Result<(), Errno> {
        // Never waits for the other end of a fifo.
        let open = |path: &Path, flags: OFlags| open(path, flags | OFlags::NONBLOCK, 0o666);
        let size = self.dice.size(60_000);
        match what {
            18..=20 => {
                let file = open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
                write_all(&file, &vec![b'x'; size])
            }
            21 => write_all(&open(path, OFlags::WRONLY | OFlags::APPEND)?, b"more"),
            22 | 23 => read_all(&open(path, OFlags::RDONLY)?).map(drop),
            24 => raw::truncate(path, i64::try_from(size).unwrap()),
            25 => {
                let file = open(path, OFlags::RDWR)?;
                let flags = self.dice.of(&[
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
                ]);
                rustix::fs::fallocate(&file, flags, 4096, 8192)
            }
            26 => {
                let (from, to) = (open(path, OFlags::RDONLY)?, open(other, OFlags::WRONLY)?);
                rustix::fs::copy_file_range(&from, None, &to, None, 30_000).map(drop)
            }
            27 => {
                let directory = self.directory();
                let file = open(&directory, OFlags::RDWR | OFlags::TMPFILE)?;
                write_all(&file, b"without a name")?;
                let from = format!("/proc/self/fd/{}", file.as_raw_fd());
                linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)
            }
            28 => {
                let file = open(path, OFlags::RDWR | OFlags::CREATE)?;
                flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                unlink(path)?;
                write_all(&file, b"unlinked")?;
                rustix::fs::fsync(&file)
            }
            29 => {
                let times = Timestamps { last_access: at(1), last_modification: at(2) };
                utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            30 => {
                let entries = fs::read_dir(self.directory()).map_err(|error| errno_of(&error))?;
                for entry in entries {
                    entry.and_then(|entry| entry.metadata()).map_err(|error| errno_of(&error))?;
                }
                Ok(())
            }
            _ => rustix::fs::statfs(path).map(drop),
        }
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn at(seconds: i64) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: 1_700_000_000 + seconds, tv_nsec: 5 }
}

/// An ACL that names somebody.
fn acl(id: u32) -> Vec<u8> {
    common::acl(&[
        (common::USER_OBJ, 7, NO_ID),
        (common::USER, 5, id),
        (common::GROUP_OBJ, 5, NO_ID),
        (common::MASK, 7, NO_ID),
        (common::OTHER, 7, NO_ID),
    ])
}

fn stat_mode(path: &Path) -> Result<u32, Errno> {
    Ok(rustix::fs::lstat(path)?.st_mode & 0o7777)
}

fn write_all(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        bytes = &bytes[rustix::io::write(&file, bytes)?..];
    }
    Ok(())
}

fn read_all(file: impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => return Ok(bytes),
            length => bytes.extend(&buffer[..length]),
        }
    }
}
