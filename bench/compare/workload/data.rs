//! Contents through read(2) and write(2).

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::worker::Context;

const MIB: usize = 1 << 20;

pub(super) const SEQUENTIAL: Workload = Workload {
    quick: true,
    ..Workload::new("sequential", Group::Data, SEQUENTIAL_MEASURES, sequential)
};

const SEQUENTIAL_MEASURES: &[Measure] = &[
    Measure::new("write-1m", "1 MiB of a sequential write of the data file").within(1.1),
    Measure::new("read-1m", "1 MiB of a sequential read, in the page cache").within(1.1),
    Measure::new("read-1m-cold", "1 MiB of a sequential read, nothing cached"),
];

pub(super) const RANDOM: Workload = Workload::new("random", Group::Data, RANDOM_MEASURES, random);

const RANDOM_MEASURES: &[Measure] = &[
    Measure::new("random-read-4k", "4 KiB somewhere in the data file, in the page cache")
        .within(1.1),
    Measure::new("random-write-4k", "the same, written").within(1.4),
    Measure::new("append-fsync-4k", "append 4 KiB and fsync"),
];

fn sequential(c: &mut Context) -> Result<()> {
    let (path, mebibytes) = (c.path("scratch/data"), c.data >> 20);
    let mut buffer = vec![7; MIB];
    c.once("write-1m", mebibytes, || {
        let mut file = File::create(&path).say("create")?;
        (0..mebibytes).try_for_each(|_| file.write_all(&buffer).say("write"))
    })?;
    let mut read = || {
        let mut file = File::open(&path).say("open")?;
        (0..mebibytes).try_for_each(|_| file.read_exact(&mut buffer).say("read"))
    };
    c.once("read-1m", mebibytes, &mut read)?;
    c.drop_caches()?;
    c.once("read-1m-cold", mebibytes, &mut read)
}

/// A file of the data size.
pub(super) fn fill(c: &Context) -> Result<File> {
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(c.path("scratch/data"))
        .say("create")?;
    let buffer = vec![7; MIB];
    for _ in 0..c.data >> 20 {
        file.write_all(&buffer).say("write")?;
    }
    Ok(file)
}

/// A page of the data file, scattered so that neighbours are far apart (the golden ratio).
pub(super) fn somewhere(number: u64, size: u64) -> u64 {
    let pages = size / 4096;
    if pages == 0 { 0 } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % pages * 4096 }
}

fn random(c: &mut Context) -> Result<()> {
    let (file, size) = (fill(c)?, c.data);
    let mut page = [7; 4096];
    c.repeat("random-read-4k", 32, |number| {
        file.read_exact_at(&mut page, somewhere(number, size)).say("pread")
    })?;
    c.repeat("random-write-4k", 32, |number| {
        file.write_all_at(&page, somewhere(number, size)).say("pwrite")
    })?;
    file.sync_all().say("fsync")?;
    let mut log =
        File::options().create(true).append(true).open(c.path("scratch/log")).say("create")?;
    c.repeat("append-fsync-4k", 1, |_| {
        log.write_all(&page).say("append")?;
        log.sync_data().say("fsync")
    })
}
