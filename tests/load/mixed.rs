//! One file that is written and read in every way at once: buffered, direct, through mappings, asynchronously. Each
//! block of it has one user at a time, who reads it back in another way: what he has written, in every mode.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use crate::common::dice::Dice;
use crate::common::raw::{Aio, Mapping};
use crate::common::runner::{machine, skip};
use crate::common::{self, Mount};

crate::common::tests!(whoever_has_written_reads_it);

const MODES: [&str; 7] = [
    "",
    ",cache=exclusive",
    ",cache=none",
    ",io=cached",
    ",io=cached,cache=exclusive",
    ",io=cached,cache=none",
    ",restart=on",
];
const LENGTH: u32 = 4096;
const BLOCK: usize = LENGTH as usize;
const BLOCKS: usize = 16;
const THREADS: u64 = 4;

#[repr(align(4096))]
struct Block([u8; BLOCK]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Buffered,
    Direct,
    Mapped,
    /// libaio(7), direct.
    Asynchronous,
    /// io_uring(7), direct or buffered.
    Ring {
        direct: bool,
    },
    /// Through a descriptor that is opened for this alone.
    Anew,
}

const WAYS: [Way; 7] = [
    Way::Buffered,
    Way::Direct,
    Way::Mapped,
    Way::Asynchronous,
    Way::Ring { direct: true },
    Way::Ring { direct: false },
    Way::Anew,
];

/// What one thread uses the file by.
struct Hands<'p> {
    path: &'p Path,
    buffered: File,
    direct: File,
    mapping: Mapping,
    aio: Aio,
    ring: IoUring,
}

impl<'p> Hands<'p> {
    fn new(path: &'p Path) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        let buffered = options.read(true).write(true).open(path)?;
        let direct = options.custom_flags(libc::O_DIRECT).open(path)?;
        let mapping = Mapping::shared(buffered.as_fd(), BLOCK * BLOCKS, true)?;
        Ok(Self { path, buffered, direct, mapping, aio: Aio::new()?, ring: IoUring::new(2)? })
    }

    fn write(&mut self, way: Way, at: usize, value: u8) {
        let block = Block([value; BLOCK]);
        let offset = (at * BLOCK) as u64;
        match way {
            Way::Buffered => self.buffered.write_all_at(&block.0, offset).unwrap(),
            Way::Direct => self.direct.write_all_at(&block.0, offset).unwrap(),
            Way::Mapped => {
                (0..BLOCK).for_each(|byte| self.mapping.set(at * BLOCK + byte, value));
            }
            Way::Asynchronous => {
                let offset = offset.try_into().unwrap();
                let done = self.aio.write(self.direct.as_fd(), &block.0, offset).unwrap();
                assert_eq!(usize::try_from(done).unwrap(), BLOCK);
            }
            Way::Ring { direct } => {
                let (fd, data) = (self.target(direct), block.0.as_ptr());
                let entry = opcode::Write::new(fd, data, LENGTH).offset(offset).build();
                self.submit(&entry);
            }
            Way::Anew => {
                let file = OpenOptions::new().write(true).open(self.path).unwrap();
                file.write_all_at(&block.0, offset).unwrap();
            }
        }
    }

    /// The bytes that are not `value`.
    fn wrong(&mut self, way: Way, at: usize, value: u8) -> usize {
        let mut block = Block([!value; BLOCK]);
        let offset = (at * BLOCK) as u64;
        match way {
            Way::Buffered => self.buffered.read_exact_at(&mut block.0, offset).unwrap(),
            // libaio's way of reading is the same as this one's but for who waits.
            Way::Direct | Way::Asynchronous => {
                self.direct.read_exact_at(&mut block.0, offset).unwrap();
            }
            Way::Mapped => {
                for (byte, place) in block.0.iter_mut().enumerate() {
                    *place = self.mapping.get(at * BLOCK + byte);
                }
            }
            Way::Ring { direct } => {
                let (fd, data) = (self.target(direct), block.0.as_mut_ptr());
                let entry = opcode::Read::new(fd, data, LENGTH).offset(offset).build();
                self.submit(&entry);
            }
            Way::Anew => {
                File::open(self.path).unwrap().read_exact_at(&mut block.0, offset).unwrap();
            }
        }
        block.0.iter().filter(|byte| **byte != value).count()
    }

    fn target(&self, direct: bool) -> types::Fd {
        types::Fd(if direct { self.direct.as_raw_fd() } else { self.buffered.as_raw_fd() })
    }

    #[allow(unsafe_code)] // the ring's interface
    fn submit(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to outlives this call, which waits for the completion.
        unsafe { self.ring.submission().push(entry) }.expect("an empty ring has room");
        self.ring.submit_and_wait(1).unwrap();
        let result = self.ring.completion().next().expect("waited for").result();
        assert_eq!(usize::try_from(result).unwrap(), BLOCK);
    }
}

/// How long each mode is tried.
fn time() -> Duration {
    let seconds = std::env::var("IDSHIFT_MIXED_SECONDS").ok().and_then(|it| it.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn whoever_has_written_reads_it() {
    for mode in if machine().kernel_backend { &MODES[..1] } else { &MODES[..] } {
        if mode.contains("restart") && !machine().real_root {
            continue;
        }
        let mount = Mount::with(&format!("{}{mode}", common::MAP), |_| ());
        let path = mount.up("file");
        fs::write(&path, vec![0; BLOCK * BLOCKS]).unwrap();
        if let Err(error) = Hands::new(&path) {
            skip(format!("direct I/O, libaio or io_uring: {error}"));
        }
        let blocks: Vec<Mutex<u8>> = (0..BLOCKS).map(|_| Mutex::new(0)).collect();
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        let end = Instant::now() + time();
        let wrong = thread::scope(|scope| {
            let worker = |seed: u64| {
                let (path, blocks, stop, rounds) = (&path, &blocks, &stop, &rounds);
                move || {
                    let mut hands = Hands::new(path).unwrap();
                    let mut dice = Dice(seed);
                    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                        let at = dice.size(BLOCKS as u64);
                        let mut value = blocks[at].lock().unwrap();
                        let before = dice.of(&WAYS);
                        if hands.wrong(before, at, *value) != 0 {
                            stop.store(true, Ordering::Relaxed);
                            return Some((before, before, *value, *value));
                        }
                        let (old, new) = (*value, value.wrapping_add(1));
                        let (by, back) = (dice.of(&WAYS), dice.of(&WAYS));
                        hands.write(by, at, new);
                        *value = new;
                        rounds.fetch_add(1, Ordering::Relaxed);
                        if hands.wrong(back, at, new) != 0 {
                            stop.store(true, Ordering::Relaxed);
                            return Some((by, back, old, new));
                        }
                    }
                    None
                }
            };
            let workers: Vec<_> = (1..=THREADS).map(|seed| scope.spawn(worker(seed))).collect();
            workers.into_iter().find_map(|worker| worker.join().unwrap())
        });
        let rounds = rounds.into_inner();
        if time() > Duration::from_secs(2) {
            eprintln!("'{mode}': {rounds} rounds, {wrong:?}");
        }
        assert_eq!(wrong, None, "'{mode}' after {rounds} rounds: (written, read, before, now)");
        assert!(rounds > 0);
    }
}
