//! The floor: a FUSE server that does nothing. It has read names and attributes of the lower tree
//! once and answers everything from memory; no system call but the two on `/dev/fuse`. What a job
//! costs on it is what the protocol and the kernel's wake-ups cost: no server can be faster that is
//! sent the same messages.
//!
//! It is sent those that idshift is sent, and one `WRITE` for each piece of contents, which costs
//! idshift no message (passthrough). Contents are not kept: they read as zeros.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::failure::{Result, Say};
use tree::Tree;

mod tree;

/// The hidden command that makes this program such a server: `--floor LOWER POINT`, and `looking`
/// if it is to look for the next request for a moment before it sleeps, as idshift does.
pub(crate) const COMMAND: &str = "--floor";

/// How long it looks.
const LOOK: Duration = Duration::from_micros(50);
/// For how long the kernel may remember, in seconds.
const VALID: u64 = 3600;
/// Large enough for a write of 1 MiB and its headers.
const BUFFER: usize = (1 << 20) + 4096;

/// `FUSE_*` of INIT that change which messages are sent: asynchronous reads, big writes,
/// READDIRPLUS (adaptive), parallel lookups, ACLs, cached symbolic links, no OPENDIR, more pages,
/// set-ID bits cleared here.
const FLAGS: u32 = 1 | 1 << 5 | 3 << 13 | 1 << 18 | 1 << 20 | 3 << 22 | 1 << 24 | 1 << 28;

/// Serves until it is unmounted.
pub(crate) fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(2).collect();
    let [lower, point, rest @ ..] = arguments.as_slice() else {
        return Err("--floor LOWER POINT [looking]".into());
    };
    let mut tree = Tree::read(Path::new(lower)).say("reading the lower tree")?;
    let device = open_device(rest.is_empty())?;
    mount(&device, Path::new(point))?;
    serve(&device, &mut tree).say("/dev/fuse")
}

fn open_device(blocks: bool) -> Result<OwnedFd> {
    let waits = if blocks { OFlags::empty() } else { OFlags::NONBLOCK };
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | waits, rustix::fs::Mode::empty())
        .say("/dev/fuse")
}

fn mount(device: &OwnedFd, point: &Path) -> Result<()> {
    let fd = device.as_raw_fd();
    let options =
        format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions\0");
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).say("options")?;
    rustix::mount::mount("floor", point, "fuse.floor", MountFlags::empty(), options).say("mount")
}

fn serve(device: &OwnedFd, tree: &mut Tree) -> std::result::Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    let mut answer = Vec::with_capacity(BUFFER);
    let mut until = Instant::now();
    loop {
        let length = match rustix::io::read(device, &mut *buffer) {
            Ok(length) => length,
            Err(Errno::NODEV) => return Ok(()),
            Err(Errno::AGAIN) if Instant::now() < until => {
                (0..30).for_each(|_| std::hint::spin_loop());
                continue;
            }
            Err(Errno::AGAIN) => {
                let mut fds = [rustix::event::PollFd::new(device, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, None)?;
                continue;
            }
            Err(Errno::INTR | Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let Some(request) = Request::parse(&buffer[..length]) else { return Err(Errno::IO) };
        answer.clear();
        let error = match tree.answer(&request, &mut answer) {
            Some(Ok(())) => 0,
            Some(Err(errno)) => {
                answer.clear();
                -errno.raw_os_error()
            }
            None => continue,
        };
        let mut header = Vec::with_capacity(16);
        put32(&mut header, 16 + u32::try_from(answer.len()).unwrap_or(0));
        put32(&mut header, error.cast_unsigned());
        put64(&mut header, request.unique);
        // An interrupted caller does not wait any more.
        rustix::io::writev(device, &[IoSlice::new(&header), IoSlice::new(&answer)]).ok();
        until = Instant::now() + LOOK;
    }
}

/// A request: what its header says, and the rest.
struct Request<'a> {
    opcode: u32,
    unique: u64,
    nodeid: u64,
    uid: u32,
    gid: u32,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let body = message.get(40..)?;
        Some(Self {
            opcode: get32(message, 4),
            unique: get64(message, 8),
            nodeid: get64(message, 16),
            uid: get32(message, 24),
            gid: get32(message, 28),
            body,
        })
    }

    /// The number at this offset of the body.
    fn u32(&self, at: usize) -> u32 {
        get32(self.body, at)
    }

    fn u64(&self, at: usize) -> u64 {
        get64(self.body, at)
    }

    /// The name that begins at this offset.
    fn name(&self, at: usize) -> &'a [u8] {
        let rest = self.body.get(at..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_ne_bytes(word.unwrap_or_default())
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_ne_bytes(word.unwrap_or_default())
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_ne_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_ne_bytes());
}
