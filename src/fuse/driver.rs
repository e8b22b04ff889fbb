//! A server without a kernel: messages made by hand go to [`Server::serve`], and what it answers
//! is read back. For tests and fuzzing, which send what no kernel would.
#![allow(clippy::unwrap_used, clippy::expect_used)] // the panic is the finding

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::backing::Backings;
use super::counters::AllCounters;
use super::device::Device;
use super::negotiate::{
    self, FUSE_NO_OPEN_SUPPORT, FUSE_PASSTHROUGH, FUSE_POSIX_LOCKS, FUSE_SETXATTR_EXT,
    FUSE_WRITEBACK_CACHE,
};
use super::reply::Payload;
use super::report::About;
use super::request::Request;
use super::server::Server;
use super::wire::{self, InHeader, InitIn, OutHeader};
use crate::config::{IoMode, Policies};
use crate::fs::{FileSystem, Keeping, Options};
use crate::lower::LowerTree;
use crate::lower::cred::Keep;
use crate::report::Facts;
use crate::shift::acl::Unmapped;
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::state::in_flight::Record;

/// The upper ids of whoever runs this, who owns what the driver makes.
pub(crate) const UID: u32 = 5000;
pub(crate) const GID: u32 = 6000;

/// A server on a lower directory, and a file in the place of its connection.
pub(crate) struct Driver {
    server: Server,
    record: Record,
    /// What the server writes.
    written: File,
    payload: Payload,
    unique: u64,
}

/// What the server answered to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0, or an errno.
    pub(crate) errno: i32,
    pub(crate) payload: Vec<u8>,
}

impl Driver {
    /// A server whose map shows nobody but the one who runs this.
    pub(crate) fn on(lower: &Path) -> Self {
        let meta = lower.metadata().unwrap();
        let maps = Maps {
            uids: IdMap::new(vec![Extent::from_raw(meta.uid(), UID, 1).unwrap()]).unwrap(),
            gids: IdMap::new(vec![Extent::from_raw(meta.gid(), GID, 1).unwrap()]).unwrap(),
        };
        let options = Options {
            maps,
            unmapped_acl: Unmapped::Placeholder,
            policies: Policies::default(),
            io: IoMode::Passthrough,
            owners: None,
            keeping: Keeping::For(Duration::from_secs(1)),
            ids: Keep::default(),
            acting: None,
        };
        let fs = FileSystem::new(LowerTree::open(lower, false, 32).unwrap(), options);
        let written = rustix::fs::memfd_create("replies", MemfdFlags::CLOEXEC).unwrap();
        let device = Device::new(OwnedFd::try_clone(&written).unwrap()).unwrap();
        let everything = InitIn { major: 7, minor: 40, max_readahead: 0, flags: u32::MAX };
        let left_out = FUSE_PASSTHROUGH | FUSE_NO_OPEN_SUPPORT | FUSE_WRITEBACK_CACHE;
        let (agreed, _) = negotiate::agree(everything, u32::MAX, 1, left_out);
        assert!(agreed.has(FUSE_SETXATTR_EXT) && agreed.has(FUSE_POSIX_LOCKS));
        let state = std::sync::Arc::clone(fs.state());
        let server = Server {
            fs,
            agreed,
            flush: true,
            lock_waiters: None,
            backings: Backings::new(device.clone(), state, false),
            counters: AllCounters::default(),
            about: About::new(Facts::default()),
            device,
        };
        let record = server.fs.state().in_flight.take().unwrap();
        record.enter();
        let payload = Payload::default();
        Self { server, record, written: written.into(), payload, unique: 0 }
    }

    /// Serves one message, whatever it is, and returns all that was written for it.
    pub(crate) fn serve(&mut self, message: &[u8]) -> Vec<u8> {
        self.record.await_message(&mut [0; 4]);
        self.server.serve(&self.record, message, &mut self.payload);
        self.written()
    }

    /// All that was written since the last time.
    fn written(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.written.metadata().unwrap().len()).unwrap();
        let mut bytes = vec![0; length];
        self.written.read_exact_at(&mut bytes, 0).unwrap();
        self.written.set_len(0).unwrap();
        rustix::fs::seek(&self.written, rustix::fs::SeekFrom::Start(0)).unwrap();
        bytes
    }

    /// Asks as a caller with these ids; `None` if there was no answer.
    ///
    /// Panics if an answer is not of the form that the kernel wants: it would take it for an error
    /// of the server, and the caller would wait for ever.
    pub(crate) fn ask_as(
        &mut self,
        (uid, gid): (u32, u32),
        opcode: u32,
        nodeid: u64,
        args: &[u8],
    ) -> Option<Answer> {
        self.unique += 2;
        let message = message((uid, gid), self.unique, opcode, nodeid, args);
        let written = self.serve(&message);
        let mut rest = &written[..];
        let mut answer = None;
        while !rest.is_empty() {
            let (header, _) = ReplyHeader::read_from_prefix(rest).expect("a whole header");
            let (whole, after) = rest.split_at(header.len as usize);
            rest = after;
            if header.unique == 0 {
                assert!(header.error > 0, "a notice says which it is");
                continue;
            }
            assert_eq!(header.unique, self.unique, "the answer to another request");
            assert!((-511..=0).contains(&header.error), "an errno that the kernel knows");
            assert!(header.error == 0 || whole.len() == size_of::<OutHeader>());
            assert!(answer.is_none(), "one answer");
            let payload = whole[size_of::<OutHeader>()..].to_vec();
            answer = Some(Answer { errno: -header.error, payload });
        }
        answer
    }

    /// Asks as the one who owns what the driver makes.
    pub(crate) fn ask(&mut self, opcode: u32, nodeid: u64, args: &[u8]) -> Option<Answer> {
        self.ask_as((UID, GID), opcode, nodeid, args)
    }

    /// Asks, and once more as the kernel does after the server was killed when it had done what was
    /// asked and not answered. Returns the second answer.
    pub(crate) fn resend(&mut self, opcode: u32, nodeid: u64, args: &[u8]) -> Answer {
        self.resend_after(opcode, nodeid, args, || ())
    }

    /// The same; what somebody does between the two is `meanwhile`.
    pub(crate) fn resend_after(
        &mut self,
        opcode: u32,
        nodeid: u64,
        args: &[u8],
        meanwhile: impl FnOnce(),
    ) -> Answer {
        self.ask(opcode, nodeid, args).expect("an answer");
        meanwhile();
        let unique = self.unique | wire::UNIQUE_RESEND;
        let message = message((UID, GID), unique, opcode, nodeid, args);
        let request = Request::parse(&message).expect("a request");
        self.server.replay(&self.record, &request, &mut self.payload);
        let written = self.written();
        let (header, payload) = ReplyHeader::read_from_prefix(&written).expect("a whole header");
        assert_eq!(header.unique, unique);
        Answer { errno: -header.error, payload: payload.to_vec() }
    }

    /// The errno of an answer, 0 for none.
    #[cfg(test)]
    pub(crate) fn errno(&mut self, opcode: u32, nodeid: u64, args: &[u8]) -> i32 {
        self.ask(opcode, nodeid, args).expect("an answer").errno
    }

    /// How many inodes, the root included, and open files the server holds.
    pub(crate) fn held(&self) -> (usize, usize) {
        let usage = self.server.fs.usage();
        (usage.inodes, usage.open_files)
    }
}

fn message((uid, gid): (u32, u32), unique: u64, opcode: u32, nodeid: u64, args: &[u8]) -> Vec<u8> {
    let len = u32::try_from(size_of::<InHeader>() + args.len()).unwrap();
    let (pid, total_extlen, padding) = (0, 0, 0);
    let header = InHeader { len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding };
    [header.as_bytes(), args].concat()
}

/// [`OutHeader`], to be read.
#[derive(FromBytes)]
#[repr(C)]
struct ReplyHeader {
    len: u32,
    error: i32,
    unique: u64,
}

/// Whether an answer to this opcode begins with an entry: a nodeid that the kernel now knows.
pub(crate) fn answers_with_entry(opcode: u32) -> bool {
    use wire::Opcode::{Create, Link, Lookup, Mkdir, Mknod, Symlink, Tmpfile};
    let made = [Lookup, Symlink, Mknod, Mkdir, Link, Create, Tmpfile];
    wire::Opcode::from_raw(opcode).is_some_and(|opcode| made.contains(&opcode))
}

/// What must hold for any message: it is taken apart within its own bytes.
pub(crate) fn fuzz_requests(message: &[u8]) {
    let Some(mut request) = Request::parse(message) else { return };
    let _opcode = request.opcode();
    let _caller = request.caller();
    // Whatever is taken, in any order, comes out of what is left.
    let mut left = message.len() - size_of::<InHeader>();
    for choice in message.iter().rev().take(64) {
        let taken = match choice % 5 {
            0 => request.take_name().map(|name| {
                let name = name.as_os_str().as_encoded_bytes();
                assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
                assert!(name != b"." && name != b"..");
                name.len() + 1
            }),
            1 => request.take_str().map(|text| text.len() + 1),
            2 => request.take_bytes(u32::from(*choice)).map(<[u8]>::len),
            3 => request.take::<wire::SetattrIn>().map(|_| size_of::<wire::SetattrIn>()),
            _ => request.take::<wire::ForgetIn>().map(|_| size_of::<wire::ForgetIn>()),
        };
        match taken {
            Ok(taken) => left = left.checked_sub(taken).expect("no more than there was"),
            Err(error) => assert_eq!(error.errno(), rustix::io::Errno::INVAL),
        }
    }
}
