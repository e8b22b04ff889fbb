//! Messages that no kernel sends, against a whole server: each is answered once and in form, gives
//! nothing that it should not, and leaves nothing behind. (`driver` checks the form.)

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use super::driver::{GID, UID};
use super::root;
use messages::*;

mod messages;

/// Every request that carries a name, with this one; where there are two, in both places.
fn requests_with(name: &[u8]) -> Vec<(u32, Args)> {
    let mode = 0o100_644;
    vec![
        (LOOKUP, Args::new().text(name)),
        (SYMLINK, Args::new().text(name).text(b"target")),
        (MKNOD, Args::new().words(&[mode, 0, 0, 0]).text(name)),
        (MKDIR, Args::new().words(&[0o755, 0]).text(name)),
        (UNLINK, Args::new().text(name)),
        (RMDIR, Args::new().text(name)),
        (RENAME, Args::new().longs(&[ROOT]).text(name).text(b"to")),
        (RENAME, Args::new().longs(&[ROOT]).text(b"victim").text(name)),
        (RENAME2, Args::new().longs(&[ROOT]).words(&[2, 0]).text(name).text(b"victim")),
        (RENAME2, Args::new().longs(&[ROOT]).words(&[2, 0]).text(b"victim").text(name)),
        (CREATE, Args::new().words(&[0o102, mode, 0, 0]).text(name)),
    ]
}

#[test]
fn names_that_lead_away() {
    let (dir, mut server) = server();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    fs::write(lower(&dir, "victim"), "mine").unwrap();
    fs::create_dir(lower(&dir, "d")).unwrap();
    let victim = server.look_up("victim");
    for name in [&b""[..], b".", b"..", b"/", b"../outside", b"d/x", b"d/../victim", b"/etc/passwd"]
    {
        for (opcode, args) in requests_with(name) {
            // File handles are made by looking these two up: they lead to the root and no further.
            if opcode == LOOKUP && matches!(name, b"." | b"..") {
                let answer = server.ask(LOOKUP, ROOT, &[name, b"\0"].concat()).unwrap();
                assert_eq!((answer.errno, root::known(node_of(&answer.payload))), (0, ROOT));
                continue;
            }
            server.refuses(Errno::INVAL, opcode, ROOT, &args);
        }
        server.refuses(Errno::INVAL, LINK, ROOT, &Args::new().longs(&[victim]).text(name));
    }
    // What follows a zero byte is no part of the name.
    let cut = server.ask(LOOKUP, ROOT, b"victim\0/../../outside\0").unwrap();
    assert_eq!((cut.errno, node_of(&cut.payload)), (0, victim));
    let names = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!((names(dir.path()), names(&dir.path().join("lower"))), (2, 2));
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"secret");
}

#[test]
fn names_that_are_too_long_or_have_no_end() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "victim"), "mine").unwrap();
    for length in [256, 4096, 100_000] {
        for (opcode, args) in requests_with(&vec![b'x'; length]) {
            server.refuses(Errno::NAMETOOLONG, opcode, ROOT, &args);
        }
    }
    for (opcode, mut args) in requests_with(b"name") {
        args.0.retain(|&byte| byte != 0);
        args.0.truncate(200);
        server.refuses(Errno::INVAL, opcode, ROOT, &args);
    }
    assert_eq!(fs::read_dir(dir.path().join("lower")).unwrap().count(), 1);
}

#[test]
fn forged_nodeids() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "known"), "x").unwrap();
    let known = server.look_up("known");
    let outside = fs::metadata("/etc/passwd").unwrap().ino();
    let about_inodes = [
        (GETATTR, Args::new().words(&[0, 0]).longs(&[0])),
        (SETATTR, Args(vec![0; 88])),
        (READLINK, Args::new()),
        (OPEN, Args::new().words(&[0, 0])),
        (OPENDIR, Args::new().words(&[0, 0])),
        (READ, read_args(0, 0, 10)),
        (WRITE, Args(read_args(0, 0, 1).0).text(b"")),
        (FSYNC, Args::new().longs(&[0]).words(&[0, 0])),
        (SETXATTR, Args::new().words(&[0, 0, 0, 0]).text(b"user.x")),
        (GETXATTR, Args::new().words(&[0, 0]).text(b"user.x")),
        (LISTXATTR, Args::new().words(&[0, 0])),
        (REMOVEXATTR, Args::new().text(b"user.x")),
        (IOCTL, Args::new().longs(&[0]).words(&[0, GETFLAGS]).longs(&[0]).words(&[0, 8])),
        (SETLKW, lock_args(0, 0)),
        (TMPFILE, Args::new().words(&[0o2, 0o100_600, 0, 0])),
        (STATX, Args::new().words(&[0, 0]).longs(&[0]).words(&[0, 0xfff])),
        (LINK, Args::new().longs(&[known]).text(b"new")),
    ];
    // The last one of all is the root, too (`root.rs`).
    for nodeid in [0, outside, known + 1, 1 << 63, (1 << 63) + 1, u64::MAX - 1] {
        for (opcode, args) in about_inodes.iter().cloned().chain(requests_with(b"name")) {
            server.refuses(Errno::STALE, opcode, nodeid, &args);
        }
        for (opcode, args) in [
            (LINK, Args::new().longs(&[nodeid]).text(b"new")),
            (RENAME, Args::new().longs(&[nodeid]).text(b"known").text(b"new")),
        ] {
            server.refuses(Errno::STALE, opcode, ROOT, &args);
        }
    }
}

#[test]
fn forged_handles() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "known"), "x").unwrap();
    let known = server.look_up("known");
    for handle in [1, 77, u64::MAX] {
        let flush = Args::new().longs(&[handle]).words(&[0, 0]).longs(&[0]);
        for (opcode, args) in [
            (READ, read_args(handle, 0, 10)),
            (WRITE, Args(read_args(handle, 0, 1).0).text(b"")),
            (FLUSH, flush),
            (FSYNC, Args::new().longs(&[handle]).words(&[0, 0])),
            (FALLOCATE, Args::new().longs(&[handle, 0, 1]).words(&[0, 0])),
            (LSEEK, Args::new().longs(&[handle, 0]).words(&[4, 0])),
            (COPY_FILE_RANGE, Args::new().longs(&[handle, 0, known, handle, 0, 1, 0])),
            (GETATTR, Args::new().words(&[1, 0]).longs(&[handle])),
        ] {
            server.refuses(Errno::BADF, opcode, known, &args);
        }
        server.refuses(Errno::BADF, READDIR, ROOT, &read_args(handle, 0, 4096));
        server.refuses(Errno::BADF, READDIRPLUS, ROOT, &read_args(handle, 0, 4096));
        let release = Args::new().longs(&[handle]).words(&[0, 0]).longs(&[0]);
        assert_eq!(server.errno(RELEASE, known, &release.0), 0, "as close(2) of nothing");
    }
    assert_eq!(fs::read(lower(&dir, "known")).unwrap(), b"x");
}

#[test]
fn more_is_forgotten_than_was_given() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "f"), "x").unwrap();
    for _ in 0..3 {
        let nodeid = server.look_up("f");
        assert_eq!(server.look_up("f"), nodeid);
        server.forget(nodeid, u64::MAX);
        server.refuses(Errno::STALE, OPEN, nodeid, &Args::new().words(&[0, 0]));
        server.forget(nodeid, 1);
    }
    server.forget(ROOT, u64::MAX);
    let nodeid = server.look_up("f");
    // A count that lies, the root, the same one twice, one that never was.
    let many = [ROOT, u64::MAX, nodeid, u64::MAX, nodeid, u64::MAX, 12_345, 1];
    let batch = Args::new().words(&[u32::MAX, 0]).longs(&many);
    assert_eq!(server.ask(BATCH_FORGET, 0, &batch.0), None);
    assert_eq!(server.held(), (1, 0));
    assert_eq!(server.errno(GETATTR, ROOT, &[0; 16]), 0, "the root stays");
}

#[test]
fn requests_that_end_too_early() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "f"), "x").unwrap();
    let nodeid = server.look_up("f");
    for opcode in 0..=64 {
        for length in 0..96 {
            for filler in [0, 0xff] {
                let args = vec![filler; length];
                let answer = server.ask(opcode, nodeid, &args);
                let silent = matches!(opcode, FORGET | BATCH_FORGET);
                assert_eq!(answer.is_none(), silent, "opcode {opcode}, {length} bytes");
                let fault = Errno::IO.raw_os_error();
                assert!(answer.is_none_or(|answer| answer.errno != fault), "a fault in {opcode}");
            }
        }
    }
}

#[test]
fn messages_whose_length_lies() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "f"), "x").unwrap();
    let message = |length: u32, extensions: u16| {
        let mut bytes = Args::new().words(&[length, LOOKUP]).longs(&[9, ROOT]).words(&[0; 4]).0;
        bytes[36..38].copy_from_slice(&extensions.to_ne_bytes());
        bytes.extend(b"f\0");
        bytes
    };
    assert_eq!(server.serve(&message(42, 0)).len(), 16 + 128, "an entry");
    // Longer or shorter than it is; no request at all.
    for (length, extensions) in [(43, 0), (u32::MAX, 0), (39, 0), (0, 0), (42, 1), (42, u16::MAX)] {
        assert!(server.serve(&message(length, extensions)).is_empty(), "{length} {extensions}");
    }
    for short in 0..40 {
        assert!(server.serve(&message(42, 0)[..short]).is_empty());
    }
    assert_eq!(server.serve(&message(41, 0)).len(), 16, "a name without an end: an error");
    let mut longer = message(42, 0);
    longer.extend([b'x'; 5000]);
    assert_eq!(server.serve(&longer).len(), 16 + 128, "what follows belongs to nobody");
}

#[test]
fn sizes_that_lie() {
    let (dir, mut server) = server();
    let file = fs::File::create(lower(&dir, "sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    let nodeid = server.look_up("sparse");
    let opened = server.ask(OPEN, nodeid, &Args::new().words(&[2, 0]).0).unwrap();
    let handle = node_of(&opened.payload);
    let read = server.ask(READ, nodeid, &read_args(handle, 0, u32::MAX).0).unwrap();
    assert_eq!((read.errno, read.payload.len()), (0, 1 << 20));
    let end = server.ask(READ, nodeid, &read_args(handle, u64::MAX, u32::MAX).0).unwrap();
    assert!(end.payload.is_empty());
    // More is announced than comes.
    server.refuses(Errno::INVAL, WRITE, nodeid, &read_args(handle, 0, 1));
    server.refuses(Errno::INVAL, WRITE, nodeid, &read_args(handle, 0, u32::MAX));
    let value = Args::new().words(&[u32::MAX, 0, 0, 0]).text(b"user.x");
    server.refuses(Errno::INVAL, SETXATTR, nodeid, &value);
    let ioctl = |input| {
        Args::new().longs(&[handle]).words(&[0, 0x4008_6602]).longs(&[0]).words(&[input, u32::MAX])
    };
    server.refuses(Errno::INVAL, IOCTL, nodeid, &ioctl(u32::MAX));
    server.refuses(Errno::INVAL, IOCTL, nodeid, &ioctl(0));
    let list = server.ask(LISTXATTR, nodeid, &Args::new().words(&[u32::MAX, 0]).0).unwrap();
    assert!(list.payload.len() <= 1 << 16);
}

#[test]
fn listings_from_odd_places() {
    let (dir, mut server) = server();
    for nth in 0..20 {
        fs::write(lower(&dir, &format!("f{nth}")), "").unwrap();
    }
    let opened = server.ask(OPENDIR, ROOT, &Args::new().words(&[0, 0]).0).unwrap();
    let handle = node_of(&opened.payload);
    for opcode in [READDIR, READDIRPLUS] {
        for offset in [0, 1, 3, 1 << 40, i64::MAX.cast_unsigned(), u64::MAX] {
            for size in [0, 1, 24, 200, 4096, u32::MAX] {
                let answer = server.ask(opcode, ROOT, &read_args(handle, offset, size).0).unwrap();
                assert!(answer.payload.len() <= size as usize);
            }
        }
    }
    // A handle of a directory is none of a file.
    server.refuses(Errno::ISDIR, READ, ROOT, &read_args(handle, 0, 10));
}

/// Whoever opened a fifo would wait for its other end.
#[test]
fn fifos_sockets_links_and_devices_are_never_opened() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (dir, mut server) = server();
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, lower(&dir, "fifo"), FileType::Fifo, mode, 0).unwrap();
        rustix::fs::mknodat(CWD, lower(&dir, "socket"), FileType::Socket, mode, 0).unwrap();
        symlink("/etc/passwd", lower(&dir, "link")).unwrap();
        let kind = FileType::CharacterDevice;
        let null = rustix::fs::makedev(1, 3);
        let with_device = rustix::fs::mknodat(CWD, lower(&dir, "null"), kind, mode, null).is_ok();
        for name in ["fifo", "socket", "link", "null"] {
            if name == "null" && !with_device {
                continue; // only root may make one
            }
            let nodeid = server.look_up(name);
            let ioctl = Args::new().longs(&[0]).words(&[0, GETFLAGS]).longs(&[0]).words(&[0, 8]);
            for flags in 0..3 {
                server.refuses(Errno::NXIO, OPEN, nodeid, &Args::new().words(&[flags, 0]));
            }
            server.refuses(Errno::NXIO, OPENDIR, nodeid, &Args::new().words(&[0, 0]));
            server.refuses(Errno::NXIO, IOCTL, nodeid, &ioctl);
            server.refuses(Errno::NXIO, GETLK, nodeid, &lock_args(0, 0));
            server.refuses(Errno::NXIO, SETLKW, nodeid, &lock_args(0, 0));
            server.refuses(Errno::BADF, SETLKW, nodeid, &lock_args(0, 1)); // of an open file
            // A file that the kernel uses without opening it has the handle 0.
            let no_open = [
                (READ, read_args(0, 0, 10)),
                (WRITE, Args(read_args(0, 0, 1).0).text(b"")),
                (FSYNC, Args::new().longs(&[0]).words(&[0, 0])),
                (FALLOCATE, Args::new().longs(&[0, 0, 1]).words(&[0, 0])),
                (LSEEK, Args::new().longs(&[0, 0]).words(&[4, 0])),
            ];
            for (opcode, args) in no_open {
                assert_ne!(server.errno(opcode, nodeid, &args.0), 0, "{name}: opcode {opcode}");
            }
        }
        assert!(fs::symlink_metadata(lower(&dir, "fifo")).unwrap().file_type().is_fifo());
        done.send(()).unwrap();
    });
    let result = finished.recv_timeout(Duration::from_secs(20));
    assert_eq!(result, Ok(()), "the server waits, or the thread above has failed");
}

#[test]
fn callers_and_owners_of_no_id() {
    let (dir, mut server) = server();
    fs::write(lower(&dir, "f"), "x").unwrap();
    let nodeid = server.look_up("f");
    let before = fs::metadata(lower(&dir, "f")).unwrap();
    for caller in [(u32::MAX, GID), (UID, u32::MAX), (65_534, 65_534), (0, 0)] {
        for (opcode, args) in requests_with(b"new") {
            if matches!(opcode, SYMLINK | MKNOD | MKDIR | CREATE) {
                let answer = server.ask_as(caller, opcode, ROOT, &args.0).unwrap();
                assert_eq!(answer.errno, Errno::OVERFLOW.raw_os_error(), "{caller:?} {opcode}");
            }
        }
    }
    for id in [u32::MAX, 65_534, 0] {
        for which in [2, 4] {
            let owner =
                Args::new().words(&[which, 0]).longs(&[0; 6]).words(&[0, 0, 0, 0, 0, id, id, 0]);
            server.refuses(Errno::OVERFLOW, SETATTR, nodeid, &owner);
        }
    }
    let after = fs::metadata(lower(&dir, "f")).unwrap();
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_eq!(fs::read_dir(dir.path().join("lower")).unwrap().count(), 1);
}

/// The kernel follows links itself; a request names the link.
#[test]
fn links_are_not_followed() {
    let (dir, mut server) = server();
    let target = dir.path().join("outside");
    fs::write(&target, "secret").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&target, lower(&dir, "link")).unwrap();
    let link = server.look_up("link");
    let set = |valid: u32, size: u64, mode: u32| {
        let args = Args::new().words(&[valid, 0]).longs(&[0, size, 0, 0, 0, 0]);
        args.words(&[0, 0, 0, mode, 0, UID, GID, 0])
    };
    assert_ne!(server.errno(SETATTR, link, &set(8, 0, 0).0), 0, "truncate");
    server.ask(SETATTR, link, &set(1, 0, 0o777).0);
    server.ask(SETATTR, link, &set(2 | 4, 0, 0).0);
    server.ask(SETATTR, link, &set(16 | 32, 0, 0).0);
    server.ask(SETXATTR, link, &Args::new().words(&[1, 0, 0, 0]).text(b"user.x").text(b"").0);
    let below = Args::new().text(b"x");
    server.refuses(Errno::NOTDIR, LOOKUP, link, &below);
    let meta = fs::metadata(&target).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (6, 0o600));
    assert!(meta.modified().unwrap().elapsed().unwrap() < Duration::from_secs(60));
}
