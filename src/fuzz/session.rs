//! A whole server, and requests that no kernel would send: forged nodeids and handles, names that
//! lead away, lengths that lie.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fuse::driver::{Driver, GID, UID, answers_with_entry};

const FORGET: u32 = 2;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const RELEASE: u32 = 18;
const OPENDIR: u32 = 27;
const CREATE: u32 = 35;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
const RENAME2: u32 = 45;
const COPY_FILE_RANGE: u32 = 47;
const TMPFILE: u32 = 51;

/// The size of a `struct fuse_entry_out`, and of the `fuse_open_out` behind it.
const ENTRY: usize = 128;

/// Runs the requests that `input` describes, and then the goodbyes that a kernel would say. Each
/// must be answered once and in form, nothing beside the lower directory may change, and in the
/// end the server must hold nothing.
pub(super) fn run(input: &[u8], empty: &Path) {
    let lower = empty.join("lower");
    let outside = empty.join("outside");
    fs::create_dir_all(lower.join("dir/below")).unwrap();
    fs::write(lower.join("file"), "contents").unwrap();
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink("../outside", lower.join("link")).unwrap();
    let looks = || {
        let meta = fs::symlink_metadata(&outside).unwrap();
        (fs::read(&outside).unwrap(), meta.mode(), meta.uid(), meta.nlink(), meta.mtime_nsec())
    };
    let before = looks();
    let mut known = Known { driver: Driver::on(&lower), nodes: Vec::new(), handles: Vec::new() };
    let mut rest = input;
    while let Some((request, after)) = Message::take(rest) {
        known.send(&request);
        rest = after;
    }
    known.say_goodbye();
    assert_eq!(looks(), before, "what is outside has changed");
    assert_eq!(fs::read_dir(empty).unwrap().count(), 2, "something is new outside");
}

/// One request, as the input describes it: opcode, who and what, the length of the arguments, and
/// the arguments.
struct Message<'i> {
    opcode: u32,
    choice: u8,
    args: &'i [u8],
}

impl<'i> Message<'i> {
    fn take(input: &'i [u8]) -> Option<(Self, &'i [u8])> {
        let (&[opcode, choice, length], rest) = input.split_first_chunk()?;
        let (args, rest) = rest.split_at(usize::from(length).min(rest.len()));
        Some((Self { opcode: u32::from(opcode), choice, args }, rest))
    }
}

/// A server, and what a kernel would know of it.
struct Known {
    driver: Driver,
    /// Nodeids, each once for each lookup.
    nodes: Vec<u64>,
    handles: Vec<u64>,
}

impl Known {
    /// The lower four bits of `choice` choose the nodeid, the others the caller and whether the
    /// arguments name a second nodeid.
    fn send(&mut self, &Message { opcode, choice, args }: &Message<'_>) {
        let mut args = args.to_vec();
        let nodeid = match choice & 15 {
            0 => 1,
            15 => u64::MAX,
            14 => 0,
            13 => 1 << 63 | 1,
            nth => self.nth(nth),
        };
        let caller = match choice >> 4 & 3 {
            0 | 1 => (UID, GID),
            2 => (u32::MAX, 65_534),
            _ => (0, 0),
        };
        if choice & 64 != 0 && matches!(opcode, RENAME | RENAME2 | LINK) && args.len() >= 8 {
            args[..8].copy_from_slice(&self.nth(choice >> 4).to_ne_bytes());
        }
        // What would only fill the disk of whoever runs this.
        let long = match opcode {
            FALLOCATE => Some(16..24),
            COPY_FILE_RANGE => Some(40..48),
            _ => None,
        };
        if let Some(length) = long.and_then(|at| args.get_mut(at)) {
            length[2..].fill(0);
        }
        let Some(answer) = self.driver.ask_as(caller, opcode, nodeid, &args) else {
            assert!(matches!(opcode, FORGET | BATCH_FORGET), "no answer to {opcode}");
            return;
        };
        assert_ne!(answer.errno, rustix::io::Errno::IO.raw_os_error(), "a panic in {opcode}");
        if answer.errno == 0 {
            self.learn(opcode, &answer.payload);
        }
    }

    fn nth(&self, nth: u8) -> u64 {
        let known = self.nodes.len().max(1);
        self.nodes.get(usize::from(nth) % known).copied().unwrap_or(1)
    }

    fn learn(&mut self, opcode: u32, payload: &[u8]) {
        if answers_with_entry(opcode) {
            self.nodes.extend(number(payload, 0).filter(|&nodeid| nodeid != 0));
        }
        match opcode {
            OPEN | OPENDIR => self.handles.extend(number(payload, 0)),
            CREATE | TMPFILE => self.handles.extend(number(payload, ENTRY)),
            READDIRPLUS => self.learn_listed(payload),
            _ => {}
        }
    }

    /// Each listed entry that is neither `.` nor `..` is a lookup too.
    fn learn_listed(&mut self, mut payload: &[u8]) {
        while let (Some(nodeid), Some(length)) = (number(payload, 0), number(payload, ENTRY + 16)) {
            let namelen = usize::try_from(length & 0xffff_ffff).unwrap();
            let record = (ENTRY + 24 + namelen).next_multiple_of(8);
            let name = &payload[ENTRY + 24..ENTRY + 24 + namelen];
            if nodeid != 0 && name != b"." && name != b".." {
                self.nodes.push(nodeid);
            }
            payload = &payload[record..];
        }
    }

    /// Forged FORGETs may have come before: more than was given is no harm.
    fn say_goodbye(&mut self) {
        for handle in std::mem::take(&mut self.handles) {
            let args = [&handle.to_ne_bytes()[..], &[0; 16]].concat();
            self.driver.ask(RELEASE, 1, &args);
        }
        for nodeid in std::mem::take(&mut self.nodes) {
            self.driver.ask(FORGET, nodeid, &1_u64.to_ne_bytes());
        }
        assert_eq!(self.driver.held(), (1, 0), "inodes (the root is one) and open files");
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
