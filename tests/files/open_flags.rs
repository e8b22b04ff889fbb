//! Flags of open(2) that must reach the lower file: O_APPEND, O_SYNC, O_DSYNC.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::raw::Mapping;
use crate::common::runner::{needs_program, needs_real_root};
use crate::common::storage::Storage;
use crate::common::{
    self, Errno, Mount, OFlags, create, lo, machine, open, put_dir, put_file, skip, stat,
};
use rustix::fs::{fcntl_getfl, fcntl_setfl};
use rustix::io::{pwrite, write};

/// rustix gives O_DSYNC the bits of O_SYNC, which has one more.
const DSYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned());

crate::common::tests!(
    append_beside_a_writer_below,
    append_set_later,
    append_cleared_later,
    mapped_pages_of_an_appending_file,
    file_that_may_only_grow,
    running_program_is_not_emptied,
    truncation_can_be_forbidden,
    server_opens_synchronously,
    synchronous_writes_reach_the_disk,
);

/// What is behind the end is the lower file's business: the mount remembers a size that has been
/// overtaken.
fn append_beside_a_writer_below() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("log"), b"", 0o666, lo(0), lo(0));
    });
    let writer = |path: &Path| OpenOptions::new().append(true).open(path).unwrap();
    let (mut one, mut two) = (writer(&mount.up("log")), writer(&mount.up("log")));
    let mut below = writer(&mount.low("log"));
    for _ in 0..100 {
        for (file, byte) in [(&mut one, b'1'), (&mut below, b'b'), (&mut two, b'2')] {
            file.write_all(&[byte; 10]).unwrap();
        }
    }
    let log = fs::read(mount.low("log")).unwrap();
    assert_eq!(log.len(), 100 * 3 * 10, "nothing has been overwritten");
    let in_order = log.chunks(30).all(|round| round == b"1111111111bbbbbbbbbb2222222222");
    assert!(in_order, "{}", String::from_utf8_lossy(&log));
}

/// A file of ten digits, open with these flags.
fn digits(mount: &Mount, flags: OFlags) -> rustix::fd::OwnedFd {
    put_file(&mount.low("file"), b"0123456789", 0o666, lo(0), lo(0));
    open(&mount.up("file"), OFlags::RDWR | flags, 0).unwrap()
}

fn change_flags(fd: impl AsFd, change: impl Fn(OFlags) -> OFlags) {
    fcntl_setfl(&fd, change(fcntl_getfl(&fd).unwrap())).unwrap();
}

fn append_set_later() {
    let mount = Mount::new();
    let fd = digits(&mount, OFlags::empty());
    write(&fd, b"A").unwrap();
    change_flags(&fd, |flags| flags | OFlags::APPEND);
    write(&fd, b"B").unwrap();
    pwrite(&fd, b"C", 3).unwrap();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"A123456789BC");
    OpenOptions::new().append(true).open(mount.low("file")).unwrap().write_all(b"below").unwrap();
    write(&fd, b"D").unwrap();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"A123456789BCbelowD");
}

fn append_cleared_later() {
    let mount = Mount::new();
    let fd = digits(&mount, OFlags::APPEND);
    write(&fd, b"A").unwrap();
    let log = fs::read_to_string(mount.beside().join("server.log")).unwrap_or_default();
    if !machine().kernel_backend && !log.to_lowercase().contains("passthrough") {
        skip("with passthrough the kernel goes on appending (docs/semantics.md)");
    }
    change_flags(&fd, |flags| flags - OFlags::APPEND);
    pwrite(&fd, b"B", 3).unwrap();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"012B456789A");
    change_flags(&fd, |flags| flags | OFlags::APPEND);
    pwrite(&fd, b"C", 0).unwrap();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"012B456789AC");
}

/// What was changed in memory goes back to where it was, whatever the descriptor does.
fn mapped_pages_of_an_appending_file() {
    let mount = Mount::new();
    let fd = digits(&mount, OFlags::APPEND);
    let mapping = Mapping::shared(fd.as_fd(), 10, true).unwrap();
    mapping.set(4, b'M');
    mapping.sync().unwrap();
    write(&fd, b"A").unwrap();
    mapping.set(5, b'N');
    mapping.sync().unwrap();
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"0123MN6789A");
}

/// `chattr +a`: such a file is opened for writing with O_APPEND or not at all.
fn file_that_may_only_grow() {
    const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
    const FS_APPEND_FL: libc::c_long = 0x20;
    needs_real_root("chattr +a");
    let mount = Mount::new();
    put_file(&mount.low("file"), b"0123456789", 0o666, lo(0), lo(0));
    let below = File::open(mount.low("file")).unwrap();
    let mut flags = FS_APPEND_FL;
    if common::raw::ioctl(below.as_fd(), FS_IOC_SETFLAGS, &mut flags).is_err() {
        skip("needs a file system with chattr +a");
    }
    let writing = open(&mount.up("file"), OFlags::RDWR, 0).map(drop);
    let appending = open(&mount.up("file"), OFlags::RDWR | OFlags::APPEND, 0);
    let appended = appending.and_then(|fd| write(&fd, b"A"));
    // Before anything can fail: nobody could remove the file.
    flags = 0;
    common::raw::ioctl(below.as_fd(), FS_IOC_SETFLAGS, &mut flags).unwrap();
    assert_eq!((writing, appended), (Err(Errno::PERM), Ok(1)));
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"0123456789A");
}

/// Also not by O_RDONLY with O_TRUNC, which the kernel looks at when the file has been opened.
fn running_program_is_not_emptied() {
    needs_program("sleep");
    let mount = Mount::with(common::MAP, |lower| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join("sleep")).find(|p| p.exists());
        put_file(&lower.join("program"), &fs::read(found.unwrap()).unwrap(), 0o777, lo(0), lo(0));
    });
    let size = stat(&mount.low("program")).st_size;
    let mut running = std::process::Command::new(mount.up("program")).arg("60").spawn().unwrap();
    let tries = [OFlags::WRONLY, OFlags::RDWR | OFlags::TRUNC, OFlags::RDONLY | OFlags::TRUNC];
    let seen = tries.map(|flags| open(&mount.up("program"), flags, 0).map(drop));
    let still = (running.try_wait().unwrap(), stat(&mount.low("program")).st_size);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(seen, [Err(Errno::TXTBSY); 3]);
    assert_eq!(still, (None, size), "it runs on, and its file is whole");
    open(&mount.up("program"), OFlags::RDONLY | OFlags::TRUNC, 0).unwrap();
    assert_eq!(stat(&mount.low("program")).st_size, 0);
}

/// Landlock is asked when the file has been opened, too.
fn truncation_can_be_forbidden() {
    let mount = Mount::new();
    put_file(&mount.low("file"), b"content", 0o666, lo(0), lo(0));
    let root = open(&mount.up(""), OFlags::PATH, 0).unwrap();
    let sandboxed = || {
        common::raw::forbid_truncation(root.as_fd())?;
        let tries =
            [OFlags::WRONLY, OFlags::WRONLY | OFlags::TRUNC, OFlags::RDONLY | OFlags::TRUNC];
        Ok(tries.map(|flags| open(&mount.up("file"), flags, 0).map(drop)))
    };
    // A thread of its own, since it never gets its rights back.
    let seen: Result<_, Errno> = std::thread::scope(|scope| scope.spawn(sandboxed).join().unwrap());
    let seen = seen.unwrap_or_else(|errno| skip(format!("needs Landlock of Linux 6.2: {errno}")));
    assert_eq!(seen, [Ok(()), Err(Errno::ACCESS), Err(Errno::ACCESS)]);
    assert_eq!(fs::read(mount.low("file")).unwrap(), b"content");
}

/// The flags of the server's own descriptors of a lower file that may write to it.
fn server_flags(mount: &Mount, name: &str) -> Vec<OFlags> {
    let proc = Path::new("/proc").join(mount.server_pid().to_string());
    let lower = stat(&mount.low(name));
    let mut found = Vec::new();
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        if (meta.dev(), meta.ino()) != (lower.st_dev, lower.st_ino) {
            continue;
        }
        // It may be closed meanwhile.
        let Ok(info) = fs::read_to_string(proc.join("fdinfo").join(entry.file_name())) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = OFlags::from_bits_retain(u32::from_str_radix(flags, 8).unwrap());
        found.extend(flags.intersects(OFlags::WRONLY | OFlags::RDWR).then_some(flags));
    }
    found
}

fn server_opens_synchronously() {
    let mount = Mount::new();
    let synchronous = OFlags::SYNC;
    for (number, flags) in [OFlags::empty(), DSYNC, OFlags::SYNC].into_iter().enumerate() {
        for create in [OFlags::CREATE, OFlags::empty()] {
            let name = format!("file-{number}");
            let fd = open(&mount.up(&name), OFlags::RDWR | flags | create, 0o600).unwrap();
            let seen = server_flags(&mount, &name);
            assert!(!seen.is_empty(), "{flags:?} {create:?}: the server has it open");
            assert!(
                seen.iter().all(|seen| *seen & synchronous == flags & synchronous),
                "{flags:?} {create:?}: {seen:?}"
            );
            drop(fd);
            // Closing is told to the server behind the caller's back.
            while create.is_empty() && !server_flags(&mount, &name).is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

/// Writes with O_SYNC are on the lower file system's disk when they return; whoever makes them,
/// the server or the kernel itself.
fn synchronous_writes_reach_the_disk() {
    const WRITES: u64 = 16;
    needs_real_root("a file system on a loop device");
    needs_program("mkfs.ext4");
    let place = common::mount::temp_dir();
    let storage = Storage::make("ext4", place.path()).unwrap_or_else(|why| skip(why));
    let lower = storage.root.join("lower");
    put_dir(&lower, 0o777, lo(0), lo(0));
    let device = stat(&lower).st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let sectors = || -> u64 {
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
        text.split_whitespace().nth(6).unwrap().parse().unwrap()
    };
    {
        let mount = Mount::of(common::mount::temp_dir(), lower, common::MAP);
        for flags in [OFlags::SYNC, DSYNC] {
            create(&mount.up("file"), 0o600).map(drop).unwrap();
            let fd = open(&mount.up("file"), OFlags::WRONLY | flags, 0).unwrap();
            let before = sectors();
            for number in 0..WRITES {
                pwrite(&fd, &[7; 4096], number * 4096).unwrap();
            }
            let written = sectors() - before;
            assert!(written >= WRITES * 8, "{flags:?}: {written} sectors");
            fs::remove_file(mount.up("file")).unwrap();
        }
    }
    drop(storage);
}
