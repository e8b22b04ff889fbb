//! What a server knows and another one must know after it, should it be killed: which inodes the
//! kernel knows and how often it was told of them, what is open, and how far each request has come.
//!
//! It lives in memory that the supervisor keeps. A server can be killed between any two of its
//! instructions, so everything here is written in an order that can be cut off anywhere:
//!
//! - A row is filled first and then *published* by one store. What is not published is free.
//! - What takes two stores that belong together (a lookup count, and for whom it was counted) is
//!   written down first, so that it can be undone ([`in_flight`]).
//! - Which room is free is not recorded: it is what no published row uses, and is found out anew.
//!
//! Locks are not here. They end with the server that holds them.

pub mod in_flight;
pub mod rows;
pub mod slab;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;

use crate::sys::shared::{self, Buffers, Bytes, PAGE_BYTES, Words};
use in_flight::Records;
use rows::Rows;
use slab::Slabs;

/// The version of the layout, and of all else that a server leaves to the next one: what is in these
/// words, sizes that were agreed on with the kernel, what the helper is asked. A server of another
/// version cannot go on with it, so this changes with any of them.
pub const VERSION: u64 = 4;

/// Room for one request: a write of 1 MiB, and its headers.
pub const BUFFER: usize = (1 << 20) + PAGE_BYTES;
/// The most threads that answer requests.
pub const WORKERS: usize = 256;
/// One for each, and one for what takes over what another server has left.
const RECORDS: usize = WORKERS + 1;
const OPENS: usize = if SMALL { 1 << 8 } else { 1 << 22 };
const BACKINGS: usize = if SMALL { 1 << 8 } else { 1 << 20 };
/// How many pages of rows and names to reserve: the first number that the system allows. A page
/// holds 56 rows. What is not used takes no memory.
const PAGES: [usize; 3] = if SMALL { [1 << 12; 3] } else { [1 << 22, 1 << 19, 1 << 15] };
/// In unit tests, for the thread sanitizer: it goes through what is reserved, too.
const SMALL: bool = cfg!(test);

/// Numbers that never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Number {
    /// The layout's version.
    Version = 0,
    /// The last handle number that was given.
    Handle = 1,
    /// How many nodeids were given that are no inode numbers.
    Alias = 2,
    /// How many servers have been started again.
    Restarts = 3,
    /// The highest backing id that the kernel has given.
    Backing = 4,
}

/// The memory.
#[derive(Debug)]
pub struct State {
    file: OwnedFd,
    header: Words,
    buffers: Buffers,
    /// What each thread is doing.
    pub in_flight: Records,
    /// Open files: handle, nodeid, flags, descriptor.
    pub opens: Rows<4>,
    /// Lower files that are registered with the kernel: nodeid, id.
    pub backings: Rows<2>,
    /// Inodes and names.
    pub slabs: Slabs,
}

impl State {
    /// New memory, for a mount that begins.
    pub fn create() -> Result<Self, Errno> {
        let mut last = Errno::NOMEM;
        for pages in PAGES {
            let layout = Layout::new(pages);
            match shared::create("idshift", layout.end).and_then(|file| Self::map(file, &layout)) {
                Ok(state) => {
                    state.number(Number::Version).store(VERSION, in_flight::PUT);
                    return Ok(state);
                }
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// The memory that another program has made, which has left it to this one. `INVAL` if it is not
    /// of this version.
    pub fn adopt(file: OwnedFd) -> Result<Self, Errno> {
        let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let mut layouts = PAGES.into_iter().map(Layout::new);
        let layout = layouts.find(|layout| layout.end as u64 == length).ok_or(Errno::INVAL)?;
        let state = Self::map(file, &layout)?;
        let version = state.number(Number::Version).load(in_flight::GET);
        if version == VERSION { Ok(state) } else { Err(Errno::INVAL) }
    }

    /// The file that it is in.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn map(file: OwnedFd, layout: &Layout) -> Result<Self, Errno> {
        let words = |offset, count| Words::map(&file, offset, count);
        #[allow(unsafe_code)]
        // SAFETY: a process has one `State` for a file. Of the processes that have mapped it only the
        // server uses buffers, and a server begins when the one before it has ended (`daemon::supervise`).
        let buffers = unsafe { Buffers::new(layout.buffers, BUFFER, RECORDS) };
        Ok(Self {
            header: words(0, PAGE_BYTES / 8)?,
            buffers,
            in_flight: Records::new(words(layout.in_flight, RECORDS * in_flight::WORDS)?),
            opens: Rows::new(words(layout.opens, OPENS * 4)?),
            backings: Rows::new(words(layout.backings, BACKINGS * 2)?),
            slabs: Slabs::new(
                words(layout.pages, layout.page_count * slab::PAGE_WORDS)?,
                words(layout.table, layout.page_count * slab::ENTRY_WORDS)?,
            ),
            file,
        })
    }

    /// One of the numbers.
    pub fn number(&self, number: Number) -> &AtomicU64 {
        &self.header[number as usize]
    }

    /// The buffer of a thread, for the owner of its record; `BUSY` while it is mapped.
    pub fn buffer(&self, record: usize) -> Result<Bytes, Errno> {
        self.buffers.map(&self.file, record)
    }
}

/// Where things are, in bytes.
struct Layout {
    in_flight: usize,
    buffers: usize,
    opens: usize,
    backings: usize,
    table: usize,
    pages: usize,
    page_count: usize,
    end: usize,
}

impl Layout {
    fn new(page_count: usize) -> Self {
        let in_flight = PAGE_BYTES;
        let buffers = in_flight + (RECORDS * in_flight::WORDS * 8).next_multiple_of(PAGE_BYTES);
        let opens = buffers + RECORDS * BUFFER;
        let backings = opens + OPENS * 4 * 8;
        let table = backings + BACKINGS * 2 * 8;
        let pages = table + page_count * slab::ENTRY_WORDS * 8;
        let end = pages + page_count * PAGE_BYTES;
        Self { in_flight, buffers, opens, backings, table, pages, page_count, end }
    }
}
