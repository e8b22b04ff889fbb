//! Single operations on warm caches.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::process::Uid;

use super::{Group, Measure, Workload};
use crate::failure::{Result, Say};
use crate::stage::MANY;
use crate::worker::Context;

pub(super) const MICRO: Workload =
    Workload { quick: true, ..Workload::new("micro", Group::Micro, MEASURES, run) };

const MEASURES: &[Measure] = &[
    Measure::new("stat", "stat of a file, warm").within(1.15),
    Measure::new("stat-by-others", "the same by a user who owns nothing of the tree").within(1.15),
    Measure::new("stat-missing", "stat of a name that is not there, warm").within(1.15),
    Measure::new("fstat", "fstat of an open file"),
    Measure::new("readlink", "readlink, warm"),
    Measure::new("open-close", "open for reading, close").within(9.0),
    Measure::new("open-read-close", "open, read 4 KiB, close"),
    Measure::new("pread-4k", "pread of 4 KiB, in the page cache").within(1.1),
    Measure::new("pwrite-4k", "pwrite of 4 KiB, in the page cache").within(1.4),
    Measure::new("getxattr", "getxattr of a user attribute"),
    Measure::new("chmod", "chmod to another mode"),
    Measure::new("rename", "rename in one directory"),
    Measure::new("create-unlink", "create, close, unlink"),
    Measure::new("create-write-unlink", "create, write 4 KiB, close, unlink"),
    Measure::new("mkdir-rmdir", "mkdir, rmdir"),
    Measure::new("readdir-10000", "list a directory of 10,000 entries, warm"),
];

fn run(c: &mut Context) -> Result<()> {
    let dir = c.path("scratch");
    let file = dir.join("file");
    let link = dir.join("link");
    fs::write(&file, vec![7; 4096]).say("file")?;
    symlink("file", &link).say("link")?;
    attributes(c)?;
    contents(c)?;
    c.repeat("readlink", 16, |_| fs::read_link(&link).map(drop).say("readlink"))?;
    let (here, there) = (dir.join("here"), dir.join("there"));
    fs::write(&here, "").say("here")?;
    c.repeat("rename", 2, |number| {
        let (from, to) = if number % 2 == 0 { (&here, &there) } else { (&there, &here) };
        fs::rename(from, to).say("rename")
    })?;
    let new = dir.join("new");
    c.repeat("create-unlink", 1, |_| {
        File::create_new(&new).say("create")?;
        fs::remove_file(&new).say("unlink")
    })?;
    let page = [7; 4096];
    c.repeat("create-write-unlink", 1, |_| {
        let file = File::create_new(&new).say("create")?;
        file.write_all_at(&page, 0).say("write")?;
        drop(file);
        fs::remove_file(&new).say("unlink")
    })?;
    c.repeat("mkdir-rmdir", 1, |_| {
        fs::create_dir(&new).say("mkdir")?;
        fs::remove_dir(&new).say("rmdir")
    })?;
    let many = c.path("many");
    c.repeat("readdir-10000", 1, |_| match fs::read_dir(&many).say("readdir")?.flatten().count() {
        MANY => Ok(()),
        other => Err(format!("{other} entries")),
    })
}

fn attributes(c: &mut Context) -> Result<()> {
    let file = c.path("scratch/file");
    let missing = c.path("scratch/missing");
    c.repeat("stat", 32, |_| fs::metadata(&file).map(drop).say("stat"))?;
    as_other(|| c.repeat("stat-by-others", 32, |_| fs::metadata(&file).map(drop).say("stat")))?;
    c.repeat("stat-missing", 32, |_| match fs::metadata(&missing) {
        Ok(_) => Err("it is there".into()),
        Err(_) => Ok(()),
    })?;
    let open = File::open(&file).say("open")?;
    c.repeat("fstat", 32, |_| match open.metadata().say("fstat")?.size() {
        4096 => Ok(()),
        other => Err(format!("size {other}")),
    })?;
    c.repeat("chmod", 2, |number| {
        let mode = if number % 2 == 0 { 0o600 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).say("chmod")
    })?;
    // A file system without user attributes answers that, and that is what is timed then.
    lsetxattr(&file, "user.compare", b"value", XattrFlags::empty()).ok();
    c.repeat("getxattr", 4, |_| {
        let mut value = [0_u8; 64];
        lgetxattr(&file, "user.compare", &mut value).ok();
        Ok(())
    })
}

/// Runs this with another user's rights.
fn as_other(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let act_as = |user| rustix::thread::set_thread_res_uid(None, user, None).say("another user");
    act_as(Uid::from_raw(1000))?;
    let done = work();
    act_as(Uid::ROOT)?;
    done
}

fn contents(c: &mut Context) -> Result<()> {
    let path = c.path("scratch/file");
    let mut page = [0; 4096];
    c.repeat("open-close", 4, |_| File::open(&path).map(drop).say("open"))?;
    c.repeat("open-read-close", 4, |_| {
        File::open(&path).say("open")?.read_exact_at(&mut page, 0).say("read")
    })?;
    let open = File::options().read(true).write(true).open(&path).say("open")?;
    c.repeat("pread-4k", 32, |_| open.read_exact_at(&mut page, 0).say("pread"))?;
    c.repeat("pwrite-4k", 32, |_| open.write_all_at(&page, 0).say("pwrite"))
}
