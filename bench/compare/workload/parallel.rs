//! Several clients at once. The time is that of the whole per operation: half of it is twice the
//! throughput.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::worker::Context;

const CLIENTS: [u64; 4] = [1, 2, 8, 32];
/// Operations of all clients together.
const METADATA_OPERATIONS: u64 = 16_000;
const DATA_OPERATIONS: u64 = 32_000;

pub(super) const METADATA: Workload = Workload {
    quick: true,
    ..Workload::new("clients-metadata", Group::Parallel, METADATA_MEASURES, |c| {
        let dir = c.path("scratch");
        each(c, "metadata", METADATA_OPERATIONS, |client, operations| {
            metadata(&dir.join(format!("client{client}")), operations / 4)
        })
    })
};

const METADATA_MEASURES: &[Measure] = &[
    Measure::new("metadata-1", "create, stat, rename, unlink in turn, by one client"),
    Measure::new("metadata-2", "the same by 2 clients, each in a directory of its own"),
    Measure::new("metadata-8", "by 8").ahead(0.5),
    Measure::new("metadata-32", "by 32").ahead(0.5),
];

pub(super) const CONTENTS: Workload =
    Workload::new("clients-data", Group::Parallel, CONTENTS_MEASURES, |c| {
        let dir = c.path("scratch");
        each(c, "data", DATA_OPERATIONS, |client, operations| {
            contents(&dir.join(format!("data{client}")), operations / 4)
        })
    });

const CONTENTS_MEASURES: &[Measure] = &[
    Measure::new("data-1", "open, read 64 KiB, write 4 KiB, close in turn, by one client"),
    Measure::new("data-2", "the same by 2 clients, each with a file of its own"),
    Measure::new("data-8", "by 8"),
    Measure::new("data-32", "by 32"),
];

fn each(
    c: &mut Context,
    measure: &str,
    operations: u64,
    work: impl Fn(u64, u64) -> Result<()> + Sync,
) -> Result<()> {
    for clients in CLIENTS {
        let name = format!("{measure}-{clients}");
        if !c.wants(&name) {
            continue;
        }
        c.once(&name, operations, || {
            thread::scope(|scope| {
                let work = &work;
                let threads: Vec<_> = (0..clients)
                    .map(|client| scope.spawn(move || work(client, operations / clients)))
                    .collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().map_err(|_| "a client has panicked".to_owned())?
                })
            })
        })?;
    }
    Ok(())
}

fn metadata(dir: &Path, rounds: u64) -> Result<()> {
    fs::create_dir_all(dir).say("mkdir")?;
    for round in 0..rounds {
        let (made, moved) = (dir.join(format!("made{round}")), dir.join(format!("moved{round}")));
        File::create_new(&made).say("create")?;
        // As programs in C do. `fs::metadata` asks for the time of birth too, which costs a message
        // where there is one, and nothing where a peer has none to give.
        rustix::fs::stat(&made).say("stat")?;
        fs::rename(&made, &moved).say("rename")?;
        fs::remove_file(&moved).say("unlink")?;
    }
    Ok(())
}

fn contents(path: &Path, rounds: u64) -> Result<()> {
    let mut buffer = vec![7; 1 << 16];
    fs::write(path, &buffer).say("create")?;
    for _ in 0..rounds {
        let file = File::options().read(true).write(true).open(path).say("open")?;
        file.read_exact_at(&mut buffer, 0).say("read")?;
        file.write_all_at(&buffer[..4096], 4096).say("write")?;
    }
    Ok(())
}
