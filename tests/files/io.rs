//! Reading, writing and everything else on open files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::raw::Mapping;
use crate::common::{
    self, AtFlags, CWD, Caller, Errno, Mount, OFlags, assert_errno, eventually, exists, lo,
    machine, mode, open, put_dir, put_file, stat,
};
use rustix::fs::{FallocateFlags, fallocate, fstat, fsync, linkat};

crate::common::tests!(
    read_and_write,
    big_file_by_odd_pieces,
    open_flags,
    rights_are_checked_at_open,
    exclusive_create_race,
    append_by_two_writers,
    truncate_at_open,
    offsets_over_four_gibibytes,
    sync_reaches_the_lower_file,
    unlinked_while_open,
    open_descriptor_outlives_rename_and_chmod,
    shared_mapping,
    mapping_and_write_agree,
    two_descriptors_agree,
    fallocate_modes,
    holes_and_data,
    copy_between_files,
    sendfile_and_splice,
    vectored_and_empty,
    direct_io,
    direct_writes_leave_no_old_pages,
    noatime_is_for_owners,
    atime_follows_reading,
    fifo_carries_data,
    socket_carries_data,
    exec_a_program,
    program_made_through_the_mount_runs_below,
    files_made_with_io_cached_are_closed,
    running_program_is_changed_with_io_cached,
    written_below_is_read_above,
    full_reads_by_many_threads,
    file_size_limit_is_the_lowers,
);

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    let byte = |index: usize| u8::try_from((index * 31 + seed * 17 + (index >> 8)) % 251).unwrap();
    (0..length).map(byte).collect()
}

fn rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn read_and_write() {
    let mount = Mount::new();
    for length in [0, 1, 4_095, 4_096, 4_097, 131_071, 131_072, 1_048_577] {
        let data = pattern(length, length);
        let name = format!("f{length}");
        std::fs::write(mount.up(&name), &data).unwrap();
        assert!(std::fs::read(mount.up(&name)).unwrap() == data, "read back {length}");
        assert!(std::fs::read(mount.low(&name)).unwrap() == data, "stored {length}");
        assert_eq!(stat(&mount.up(&name)).st_size, i64::try_from(length).unwrap());
        assert_eq!(stat(&mount.up(&name)).st_blocks, stat(&mount.low(&name)).st_blocks);
    }
}

fn big_file_by_odd_pieces() {
    let mount = Mount::new();
    let data = pattern(9_000_000, 5);
    let mut file = rw(&mount.up("file"));
    for piece in data.chunks(77_777) {
        file.write_all(piece).unwrap();
    }
    assert!(std::fs::read(mount.low("file")).unwrap() == data);
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut seen = Vec::new();
    let mut piece = vec![0; 33_333];
    loop {
        let count = file.read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        seen.extend_from_slice(&piece[..count]);
    }
    assert!(seen == data);
    assert_eq!(file.read_at(&mut piece, 8_999_990).unwrap(), 10, "short at the end");
    assert_eq!(file.read_at(&mut piece, 9_000_001).unwrap(), 0, "nothing behind the end");
}

fn open_flags() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"content", 0o644, lo(0), lo(0));
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
    });
    let path = mount.up("file");
    let read_only = open(&path, OFlags::RDONLY, 0).unwrap();
    assert_errno!(rustix::io::write(&read_only, b"x"), Errno::BADF);
    let write_only = open(&path, OFlags::WRONLY, 0).unwrap();
    assert_errno!(rustix::io::read(&write_only, &mut [0_u8; 1]), Errno::BADF);
    for flags in [OFlags::SYNC, OFlags::DSYNC, OFlags::NONBLOCK, OFlags::NOCTTY, OFlags::LARGEFILE]
    {
        let fd = open(&path, OFlags::RDWR | flags, 0).unwrap();
        assert_eq!(rustix::io::pwrite(&fd, b"C", 0).unwrap(), 1, "{flags:?}");
    }
    assert_errno!(open(&path, OFlags::DIRECTORY, 0), Errno::NOTDIR);
    assert_errno!(open(&mount.up("dir"), OFlags::RDWR, 0), Errno::ISDIR);
    let dir = open(&mount.up("dir"), OFlags::RDONLY, 0).unwrap();
    assert_errno!(rustix::io::read(&dir, &mut [0_u8; 1]), Errno::ISDIR);
    fsync(&dir).unwrap();
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"Content");
}

fn rights_are_checked_at_open() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"secret", 0o640, lo(1000), lo(50));
    });
    let try_open =
        |caller: Caller, flags| caller.run(|| open(&mount.up("file"), flags, 0).map(drop));
    assert_eq!(try_open(Caller::user(1000), OFlags::RDWR), Ok(()));
    assert_eq!(try_open(Caller::user(7).groups(&[50]), OFlags::RDONLY), Ok(()));
    assert_errno!(try_open(Caller::user(7).groups(&[50]), OFlags::WRONLY), Errno::ACCESS);
    assert_errno!(try_open(Caller::user(7), OFlags::RDONLY), Errno::ACCESS);
    assert_errno!(try_open(Caller::user(lo(1000)), OFlags::RDONLY), Errno::ACCESS);
    assert_errno!(try_open(Caller::user(7), OFlags::WRONLY | OFlags::TRUNC), Errno::ACCESS);
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"secret");
    // A descriptor keeps the rights that it was opened with.
    let fd = Caller::user(1000).run(|| open(&mount.up("file"), OFlags::RDWR, 0)).unwrap();
    common::set_mode(&mount.up("file"), 0).unwrap();
    Caller::user(7).run(|| assert_eq!(rustix::io::pwrite(&fd, b"S", 0), Ok(1)));
}

fn exclusive_create_race() {
    let mount = Mount::new();
    for round in 0..20 {
        let path = mount.up(format!("file-{round}"));
        let winners: usize = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..4).map(|_| scope.spawn(|| common::create(&path, 0o600).is_ok())).collect();
            tries.into_iter().map(|one| usize::from(one.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
    }
}

fn append_by_two_writers() {
    let mount = Mount::new();
    let path = mount.up("log");
    std::thread::scope(|scope| {
        for writer in [b'a', b'b'] {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for _ in 0..500 {
                    file.write_all(&[writer; 16]).unwrap();
                }
            });
        }
    });
    let log = std::fs::read(mount.low("log")).unwrap();
    assert_eq!(log.len(), 2 * 500 * 16, "no record overwrote another");
    assert!(log.chunks(16).all(|record| record.iter().all(|byte| *byte == record[0])));
    // A positioned write on an O_APPEND descriptor appends too, on Linux.
    let fd = open(&path, OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    rustix::io::pwrite(&fd, b"end", 0).unwrap();
    assert!(std::fs::read(mount.low("log")).unwrap().ends_with(b"end"));
}

fn truncate_at_open() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), &pattern(100_000, 1), 0o666, lo(1000), lo(1000));
    });
    assert_eq!(std::fs::read(mount.up("file")).unwrap().len(), 100_000);
    let fd =
        Caller::user(7).run(|| open(&mount.up("file"), OFlags::RDWR | OFlags::TRUNC, 0)).unwrap();
    assert_eq!(fstat(&fd).unwrap().st_size, 0);
    assert_eq!(stat(&mount.low("file")).st_size, 0);
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"");
    rustix::io::write(&fd, b"new").unwrap();
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"new");
}

fn offsets_over_four_gibibytes() {
    let mount = Mount::new();
    let file = rw(&mount.up("sparse"));
    let far = (1_u64 << 32) + 12_345;
    let farther = (1_u64 << 42) + 7;
    file.write_all_at(b"far away", far).unwrap();
    file.write_all_at(b"farther", farther).unwrap();
    let mut seen = [0; 8];
    file.read_exact_at(&mut seen, far).unwrap();
    assert_eq!(&seen, b"far away");
    file.read_exact_at(&mut seen, far - (1 << 32)).unwrap();
    assert_eq!(seen, [0; 8], "not at the offset cut to 32 bits");
    let size = farther + 7;
    assert_eq!(file.metadata().unwrap().len(), size);
    let lower = File::open(mount.low("sparse")).unwrap();
    lower.read_exact_at(&mut seen[..7], farther).unwrap();
    assert_eq!(&seen[..7], b"farther");
    assert!(stat(&mount.up("sparse")).st_blocks < 100, "it stays sparse");
    file.set_len(1 << 33).unwrap();
    assert_eq!(stat(&mount.low("sparse")).st_size, 1 << 33);
}

fn sync_reaches_the_lower_file() {
    let mount = Mount::new();
    let mut file = rw(&mount.up("file"));
    file.write_all(b"data").unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"data");
    let dir = File::open(mount.up("")).unwrap();
    dir.sync_all().unwrap();
    rustix::fs::syncfs(&dir).unwrap();
}

fn unlinked_while_open() {
    let mount = Mount::new();
    let file = Caller::user(1000).run(|| common::create(&mount.up("file"), 0o600)).unwrap();
    let mut file = File::from(file);
    file.write_all(b"before").unwrap();
    std::fs::remove_file(mount.up("file")).unwrap();
    assert!(!exists(&mount.low("file")), "no hidden name is left behind");
    assert_eq!(mount.low("").read_dir().unwrap().count(), 0);
    file.write_all(b" after").unwrap();
    let mut seen = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "before after");
    let stat = fstat(&file).unwrap();
    assert_eq!((stat.st_nlink, stat.st_size, stat.st_uid), (0, 12, 1000));
    file.set_len(3).unwrap();
    assert_eq!(fstat(&file).unwrap().st_size, 3);
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o640)).unwrap();
    assert_eq!(fstat(&file).unwrap().st_mode & 0o7777, 0o640);
    // A file whose last name is gone gets no new one.
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let again = linkat(CWD, name, CWD, mount.up("again"), AtFlags::SYMLINK_FOLLOW);
    assert_errno!(again, Errno::NOENT);
    // A new file of that name is another one.
    std::fs::write(mount.up("file"), "new").unwrap();
    assert_eq!(fstat(&file).unwrap().st_size, 3);
}

fn open_descriptor_outlives_rename_and_chmod() {
    let mount = Mount::with(common::MAP, |lower| {
        put_dir(&lower.join("dir"), 0o755, lo(0), lo(0));
        put_file(&lower.join("dir/file"), b"x", 0o644, lo(0), lo(0));
    });
    let mut file = rw(&mount.up("dir/file"));
    std::fs::rename(mount.up("dir"), mount.up("moved")).unwrap();
    std::fs::rename(mount.up("moved/file"), mount.up("other")).unwrap();
    file.write_all(b"written after").unwrap();
    assert_eq!(std::fs::read(mount.up("other")).unwrap(), b"written after");
    assert_eq!(std::fs::read(mount.low("other")).unwrap(), b"written after");
    assert_eq!(fstat(&file).unwrap().st_ino, stat(&mount.up("other")).st_ino);
}

fn shared_mapping() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), &pattern(10_000, 3), 0o666, lo(0), lo(0));
    });
    let file = rw(&mount.up("file"));
    let mapping = Mapping::shared(file.as_fd(), 10_000, true).unwrap();
    let expected = pattern(10_000, 3);
    assert!((0..10_000).all(|index| mapping.get(index) == expected[index]));
    mapping.set(0, b'!');
    mapping.set(9_999, b'?');
    mapping.sync().unwrap();
    let stored = std::fs::read(mount.low("file")).unwrap();
    assert_eq!((stored[0], stored[9_999], stored[5]), (b'!', b'?', expected[5]));
    // Another mapping of the same file shows the same bytes, before any sync.
    let other = File::open(mount.up("file")).unwrap();
    let other = Mapping::shared(other.as_fd(), 10_000, false).unwrap();
    mapping.set(77, b'#');
    assert_eq!(other.get(77), b'#');
}

fn mapping_and_write_agree() {
    let mount = Mount::new();
    let file = rw(&mount.up("file"));
    file.write_all_at(&[b'.'; 8_192], 0).unwrap();
    let mapping = Mapping::shared(file.as_fd(), 8_192, true).unwrap();
    for index in (0..8_192).step_by(97) {
        file.write_all_at(b"w", index as u64).unwrap();
        assert_eq!(mapping.get(index), b'w', "written bytes show in the mapping");
        let index = (index + 13) % 8_192;
        mapping.set(index, b'm');
        let mut seen = [0];
        file.read_exact_at(&mut seen, index as u64).unwrap();
        assert_eq!(&seen, b"m", "mapped bytes show in reads");
    }
}

fn two_descriptors_agree() {
    let mount = Mount::new();
    let writer = rw(&mount.up("file"));
    let reader = File::open(mount.up("file")).unwrap();
    for round in 0..50_u8 {
        let data = pattern(5_000, round.into());
        let offset = u64::from(round) * 100;
        writer.write_all_at(&data, offset).unwrap();
        let mut seen = vec![0; 5_000];
        reader.read_exact_at(&mut seen, offset).unwrap();
        assert!(seen == data, "round {round}");
    }
}

fn fallocate_modes() {
    let mount = Mount::new();
    let file = rw(&mount.up("file"));
    fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
    assert_eq!(stat(&mount.up("file")).st_size, 100_000);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 100_000, 100_000).unwrap();
    assert_eq!(stat(&mount.up("file")).st_size, 100_000);
    assert_eq!(stat(&mount.low("file")).st_size, 100_000);
    assert!(stat(&mount.low("file")).st_blocks >= 200_000 / 512);
    file.write_all_at(&vec![1; 100_000], 0).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, 4_096, 8_192).unwrap();
    let data = std::fs::read(mount.up("file")).unwrap();
    assert!(data[4_096..12_288].iter().all(|byte| *byte == 0));
    assert_eq!((data[4_095], data[12_288]), (1, 1));
    fallocate(&file, FallocateFlags::ZERO_RANGE, 20_000, 1_000).unwrap();
    assert_eq!(std::fs::read(mount.up("file")).unwrap()[20_500], 0);
    assert_errno!(fallocate(&file, FallocateFlags::empty(), 0, 0), Errno::INVAL);
    let read_only = File::open(mount.up("file")).unwrap();
    assert_errno!(fallocate(&read_only, FallocateFlags::empty(), 0, 10), Errno::BADF);
}

fn holes_and_data() {
    let mount = Mount::new();
    let file = rw(&mount.up("file"));
    file.write_all_at(&[1; 4_096], 65_536).unwrap();
    file.set_len(1 << 20).unwrap();
    let seek = |whence| rustix::fs::seek(&file, whence);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Ok(65_536));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(65_536)), Ok(69_632));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(0));
    assert_errno!(seek(rustix::fs::SeekFrom::Data(100_000)), Errno::NXIO);
    assert_errno!(seek(rustix::fs::SeekFrom::Data(1 << 21)), Errno::NXIO);
    assert_eq!(seek(rustix::fs::SeekFrom::End(-1)), Ok((1 << 20) - 1));
    assert_eq!(seek(rustix::fs::SeekFrom::Current(5)), Ok((1 << 20) + 4));
}

fn copy_between_files() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("from"), &pattern(300_000, 9), 0o644, lo(0), lo(0));
    });
    let from = File::open(mount.up("from")).unwrap();
    let to = rw(&mount.up("to"));
    let (mut offset_in, mut offset_out) = (1_000, 5);
    let mut left = 200_000;
    while left > 0 {
        let count = rustix::fs::copy_file_range(
            &from,
            Some(&mut offset_in),
            &to,
            Some(&mut offset_out),
            left,
        )
        .unwrap();
        assert!(count > 0);
        left -= count;
    }
    let copied = std::fs::read(mount.up("to")).unwrap();
    assert_eq!(copied.len(), 200_005);
    assert!(copied[5..] == pattern(300_000, 9)[1_000..201_000]);
    assert!(std::fs::read(mount.low("to")).unwrap() == copied);
    // cp by the standard library, from outside into the mount.
    let outside = mount.beside().join("outside");
    std::fs::write(&outside, pattern(50_000, 2)).unwrap();
    std::fs::copy(&outside, mount.up("inside")).unwrap();
    assert!(std::fs::read(mount.low("inside")).unwrap() == pattern(50_000, 2));
}

fn sendfile_and_splice() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("from"), &pattern(60_000, 4), 0o644, lo(0), lo(0));
    });
    let from = File::open(mount.up("from")).unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let to = rw(&mount.up("to"));
    let mut done = 0;
    while done < 60_000 {
        let flags = rustix::pipe::SpliceFlags::empty();
        let count = rustix::pipe::splice(&from, None, &writer, None, 16_384, flags).unwrap();
        let mut left = count;
        while left > 0 {
            left -= rustix::pipe::splice(&reader, None, &to, None, left, flags).unwrap();
        }
        done += count;
    }
    assert!(std::fs::read(mount.low("to")).unwrap() == pattern(60_000, 4));
}

fn vectored_and_empty() {
    let mount = Mount::new();
    let mut file = rw(&mount.up("file"));
    let parts = [std::io::IoSlice::new(b"one "), std::io::IoSlice::new(b"two")];
    assert_eq!(file.write_vectored(&parts).unwrap(), 7);
    assert_eq!(file.write(b"").unwrap(), 0);
    assert_eq!(std::fs::read(mount.low("file")).unwrap(), b"one two");
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

fn direct_io() {
    #[repr(align(4096))]
    struct Page([u8; 4_096]);
    let mount = Mount::new();
    let path = mount.up("file");
    let fd = match open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT, 0o600) {
        Err(Errno::INVAL) => common::skip("needs a lower file system with O_DIRECT"),
        other => other.unwrap(),
    };
    let page = Page([7; 4_096]);
    assert_eq!(rustix::io::pwrite(&fd, &page.0, 4_096).unwrap(), 4_096);
    let mut back = Page([0; 4_096]);
    assert_eq!(rustix::io::pread(&fd, &mut back.0[..], 4_096).unwrap(), 4_096);
    assert!(back.0 == page.0);
    assert_eq!(stat(&mount.low("file")).st_size, 8_192);
    assert!(std::fs::read(&path).unwrap()[4_096..] == page.0, "a cached read sees it");
}

/// Direct writes, asynchronous and not, buffered ones and ones through a mapping, beside readers that
/// fill the cache: whoever reads after a write sees it.
fn direct_writes_leave_no_old_pages() {
    #[repr(align(4096))]
    struct Block([u8; LENGTH]);
    const LENGTH: usize = 16_384;
    for options in ["", ",io=cached", ",io=cached,cache=exclusive", ",cache=none"] {
        let mount = Mount::with(&format!("{}{options}", common::MAP), |_| ());
        let path = mount.up("file");
        std::fs::write(&path, vec![0; LENGTH]).unwrap();
        let direct = match open(&path, OFlags::RDWR | OFlags::DIRECT, 0) {
            Err(Errno::INVAL) => common::skip("needs a lower file system with O_DIRECT"),
            other => other.unwrap(),
        };
        let buffered = rw(&path);
        let mapping = Mapping::shared(buffered.as_fd(), LENGTH, true).unwrap();
        let aio = common::raw::Aio::new().unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let file = File::open(&path).unwrap();
                    let mut room = vec![0; LENGTH];
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        file.read_at(&mut room, 0).unwrap();
                    }
                });
            }
            let round = |n: u8| {
                let block = Block([n; LENGTH]);
                let done = match n % 4 {
                    0 => rustix::io::pwrite(&direct, &block.0, 0).unwrap(),
                    1 => buffered.write_at(&block.0, 0).unwrap(),
                    _ => usize::try_from(aio.write(direct.as_fd(), &block.0, 0).unwrap()).unwrap(),
                };
                let seen = std::fs::read(&path).unwrap();
                (done, seen.iter().filter(|byte| **byte != n).count(), mapping.get(LENGTH - 1))
            };
            let start = Instant::now();
            let mut wrong = None;
            for n in (1..=250).cycle() {
                let seen = round(n);
                wrong = Some((n, seen)).filter(|_| seen != (LENGTH, 0, n));
                if wrong.is_some() || start.elapsed() > Duration::from_secs(2) {
                    break;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(wrong, None, "{options}: (written, old bytes read, mapped)");
        });
    }
}

fn noatime_is_for_owners() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"x", 0o644, lo(1000), lo(1000));
    });
    let open_it = |caller: Caller| {
        caller.run(|| open(&mount.up("file"), OFlags::RDONLY | OFlags::NOATIME, 0).map(drop))
    };
    assert_eq!(open_it(Caller::user(1000)), Ok(()));
    assert_errno!(open_it(Caller::user(1001)), Errno::PERM);
    assert_eq!(open_it(Caller::user(0)), Ok(()));
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOATIME);
    assert_eq!(options.open(mount.up("file")).unwrap().read_at(&mut [0], 0).unwrap(), 1);
}

fn atime_follows_reading() {
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), b"content", 0o644, lo(0), lo(0));
        // relatime renews an access time that is older than a day.
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        let times = std::fs::FileTimes::new().set_accessed(old).set_modified(old);
        File::options().write(true).open(lower.join("file")).unwrap().set_times(times).unwrap();
    });
    assert_eq!(stat(&mount.up("file")).st_atime, 1_000);
    std::fs::read(mount.up("file")).unwrap();
    assert!(stat(&mount.low("file")).st_atime > 1_000_000, "the lower file was read");
    let file = File::open(mount.up("file")).unwrap();
    let seen = fstat(&file).unwrap();
    assert!(seen.st_atime > 1_000_000, "and that shows above");
}

fn fifo_carries_data() {
    let mount = Mount::new();
    common::raw::mknod(&mount.up("fifo"), 0o010_666, 0).unwrap();
    let path = mount.up("fifo");
    std::thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&path, "through the pipe").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"through the pipe");
    });
}

fn socket_carries_data() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let mount = Mount::new();
    // The path of a socket is short.
    let listener = UnixListener::bind(mount.up("s")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            UnixStream::connect(mount.up("s")).unwrap().write_all(b"hello").unwrap();
        });
        let mut seen = String::new();
        listener.accept().unwrap().0.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "hello");
    });
}

/// Once it is closed, nothing holds a new program open for writing.
fn program_made_through_the_mount_runs_below() {
    let mount = Mount::new();
    std::fs::copy("/bin/true", mount.up("new")).unwrap();
    let runs = |path| std::process::Command::new(path).status().is_ok_and(|it| it.success());
    assert!(runs(mount.up("new")));
    eventually("the server has closed it", || runs(mount.low("new")));
}

/// Once the kernel opens files without asking, it does not say either when it closes what it has made.
fn files_made_with_io_cached_are_closed() {
    let options = format!("{},io=cached", common::MAP);
    let mount =
        Mount::with(&options, |lower| put_file(&lower.join("old"), b"x", 0o644, lo(0), lo(0)));
    assert_eq!(std::fs::read(mount.up("old")).unwrap(), b"x");
    for number in 0..300 {
        std::fs::write(mount.up(format!("new{number}")), format!("{number}")).unwrap();
    }
    let mut nameless = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o400)
        .custom_flags(libc::O_TMPFILE)
        .open(mount.up(""))
        .unwrap();
    nameless.write_all(b"nameless").unwrap();
    nameless.sync_all().unwrap();
    let held = |name| {
        let report = common::status::report(&mount.up("")).expect("a report");
        common::status::number(&report, name)
    };
    eventually("all are closed", || held("open_files") == 0);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless));
    linkat(CWD, path, CWD, mount.up("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    drop(nameless);
    assert_eq!(std::fs::read(mount.low("named")).unwrap(), b"nameless");
    for number in 0..300 {
        let text = std::fs::read_to_string(mount.low(format!("new{number}"))).unwrap();
        assert_eq!(text, number.to_string());
    }
    if machine().real_root {
        std::fs::copy("/bin/true", mount.up("program")).unwrap();
        let runs = |path| std::process::Command::new(path).status().is_ok_and(|it| it.success());
        assert!(runs(mount.up("program")));
        eventually("it does not stay busy below", || runs(mount.low("program")));
    }
}

/// Mode and times need no right to write, also not below, by way of a file that only the kernel has open.
fn running_program_is_changed_with_io_cached() {
    common::runner::needs_program("sleep");
    let options = format!("{},io=cached", common::MAP);
    let mount = Mount::with(&options, |lower| {
        put_file(&lower.join("sleep"), &std::fs::read("/bin/sleep").unwrap(), 0o755, lo(0), lo(0));
    });
    // From the second open on the kernel does not ask.
    drop(std::fs::read(mount.up("sleep")).unwrap());
    let file = File::open(mount.up("sleep")).unwrap();
    let mut sleeper =
        std::process::Command::new(mount.low("sleep")).arg("60").spawn().expect("sleep");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
    let dated = file.set_modified(time);
    let moded = rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o640));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(dated.is_ok() && moded.is_ok(), "{dated:?}, {moded:?}");
    let below = std::fs::metadata(mount.low("sleep")).unwrap();
    assert_eq!((below.modified().unwrap(), mode(&mount.low("sleep"))), (time, 0o640));
}

fn exec_a_program() {
    common::runner::needs_program("true");
    let mount = Mount::with(common::MAP, |lower| {
        let program = std::fs::read("/bin/true").unwrap();
        put_file(&lower.join("true"), &program, 0o755, lo(0), lo(0));
        put_file(&lower.join("plain"), &program, 0o644, lo(0), lo(0));
        put_file(&lower.join("script"), b"#!/bin/sh\nexit 7\n", 0o711, lo(1000), lo(0));
    });
    let run = |name: &str| std::process::Command::new(mount.up(name)).status();
    assert!(Caller::user(1000).run(|| run("true")).unwrap().success());
    assert_eq!(
        Caller::user(1000).run(|| run("plain")).unwrap_err().raw_os_error(),
        Some(libc::EACCES)
    );
    assert_eq!(Caller::user(1000).run(|| run("script")).unwrap().code(), Some(7));
    // While a program runs, nobody may write to it.
    let mut sleeper = {
        // Written by another process: a descriptor of this one would live on in whatever another
        // test starts at this moment, and a program that is open for writing cannot be run.
        let mut copy = std::process::Command::new("cp");
        copy.arg("/bin/sleep").arg(mount.up("sleep"));
        assert!(copy.status().unwrap().success());
        std::process::Command::new(mount.up("sleep")).arg("60").spawn().unwrap()
    };
    let busy = open(&mount.up("sleep"), OFlags::WRONLY, 0).map(drop);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_errno!(busy, Errno::TXTBSY);
    assert_eq!(mode(&mount.low("true")), 0o755);
}

fn written_below_is_read_above() {
    let mount = Mount::with(&format!("{},cache=none", common::MAP), |lower| {
        put_file(&lower.join("file"), b"before", 0o644, lo(0), lo(0));
    });
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"before");
    std::fs::write(mount.low("file"), "after and longer").unwrap();
    assert_eq!(std::fs::read(mount.up("file")).unwrap(), b"after and longer");
    std::fs::write(mount.low("fresh"), "new").unwrap();
    assert_eq!(std::fs::read(mount.up("fresh")).unwrap(), b"new");
    std::fs::remove_file(mount.low("file")).unwrap();
    assert!(!exists(&mount.up("file")));
}

fn full_reads_by_many_threads() {
    let data = pattern(2_000_000, 8);
    let mount = Mount::with(common::MAP, |lower| {
        put_file(&lower.join("file"), &data, 0o644, lo(0), lo(0));
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(std::fs::read(mount.up("file")).unwrap() == data));
        }
    });
}

fn file_size_limit_is_the_lowers() {
    let mount = Mount::new();
    let file = rw(&mount.up("file"));
    let lower = rw(&mount.low("other"));
    let beyond = i64::MAX as u64 - 4_096;
    let errno =
        |file: &File| Errno::from_io_error(&file.write_at(b"x", beyond).unwrap_err()).unwrap();
    assert_eq!(errno(&file), errno(&lower));
}
