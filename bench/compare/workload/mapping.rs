//! Contents through mmap(2). The only unsafe code of the benchmark.
#![allow(unsafe_code)] // each block says what makes it sound

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut, read_volatile, write_volatile};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::data::{fill, somewhere};
use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::worker::Context;

pub(super) const MAPPED: Workload = Workload::new("mmap", Group::Data, MEASURES, run);

const MEASURES: &[Measure] = &[
    Measure::new("mmap-read", "map the data file, touch each page, unmap; per page").within(1.1),
    Measure::new("mmap-write", "the same, writing to each page").within(1.1),
];

/// A shared mapping of a whole file.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(file: &File, length: usize) -> Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { mmap(null_mut(), length, protection, flags, file.as_fd(), 0) };
        let start = NonNull::new(start.say("mmap")?.cast()).ok_or("mmap gave nothing")?;
        Ok(Self { start, length })
    }

    fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: within the mapping, which lives as long as `self`. Bytes may have any value.
        unsafe { read_volatile(self.start.as_ptr().add(offset)) }
    }

    fn write(&self, offset: usize, value: u8) {
        assert!(offset < self.length);
        // SAFETY: as in `read`; nobody holds a reference into the mapping.
        unsafe { write_volatile(self.start.as_ptr().add(offset), value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and nothing refers to it any more.
        unsafe { munmap(self.start.as_ptr().cast(), self.length) }.ok();
    }
}

fn run(c: &mut Context) -> Result<()> {
    let (file, size) = (fill(c)?, c.data);
    let length = usize::try_from(size).say("size")?;
    let pages = size / 4096;
    let at = |number| usize::try_from(somewhere(number, size)).unwrap_or(0);
    c.once("mmap-read", pages, || {
        let mapping = Mapping::new(&file, length)?;
        match (0..pages).find(|number| mapping.read(at(*number)) != 7) {
            None => Ok(()),
            Some(number) => Err(format!("page {number} has other contents")),
        }
    })?;
    c.once("mmap-write", pages, || {
        let mapping = Mapping::new(&file, length)?;
        (0..pages).for_each(|number| mapping.write(at(number), 9));
        Ok(())
    })
}
