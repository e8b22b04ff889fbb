//! Calls on what a file holds: reading, writing, space, locks, mappings.

use super::{Answer, Args, Hands, OPEN_FLAGS, check, done};

const FALLOCATE: &[(&str, i32)] = &[
    ("KEEP", libc::FALLOC_FL_KEEP_SIZE),
    ("PUNCH", libc::FALLOC_FL_PUNCH_HOLE),
    ("ZERO", libc::FALLOC_FL_ZERO_RANGE),
    ("COLLAPSE", libc::FALLOC_FL_COLLAPSE_RANGE),
    ("INSERT", libc::FALLOC_FL_INSERT_RANGE),
];
const WHENCE: &[(&str, i32)] = &[
    ("SET", libc::SEEK_SET),
    ("CUR", libc::SEEK_CUR),
    ("END", libc::SEEK_END),
    ("DATA", libc::SEEK_DATA),
    ("HOLE", libc::SEEK_HOLE),
];
const FLOCK: &[(&str, i32)] =
    &[("SH", libc::LOCK_SH), ("EX", libc::LOCK_EX), ("UN", libc::LOCK_UN)];
const LOCK_TYPES: &[(&str, i32)] =
    &[("RD", libc::F_RDLCK), ("WR", libc::F_WRLCK), ("UN", libc::F_UNLCK)];

/// `length` bytes that depend on the seed and on where they are.
pub fn pattern(length: usize, seed: i64) -> Vec<u8> {
    let mut state = seed.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(b'a' + (state % 26) as u8);
    }
    bytes
}

/// FNV-1a: enough to tell two files apart that were not made to collide.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Hands {
    pub(super) fn data_call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        if call == "truncate" {
            let path = self.path(args.word(0))?;
            // SAFETY: a live C string.
            return done(unsafe { libc::truncate(path.as_ptr(), args.number(1)) });
        }
        let fd = self.slot(args.word(0))?;
        // SAFETY: no pointers in these.
        unsafe {
            match call {
                "ftruncate" => return done(libc::ftruncate(fd, args.number(1))),
                "fallocate" => {
                    let mode = args.flags(1, FALLOCATE);
                    return done(libc::fallocate(fd, mode, args.number(2), args.number(3)));
                }
                "seek" => {
                    let whence = args.flags(1, WHENCE);
                    let is_directory =
                        |stat: libc::stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
                    if fstat(fd).is_ok_and(is_directory) {
                        // Offsets in a directory are cookies of its file system.
                        return Ok("directory".to_owned());
                    }
                    return check(libc::lseek(fd, args.number(2), whence)).map(|at| at.to_string());
                }
                "setfl" => {
                    return done(libc::fcntl(fd, libc::F_SETFL, args.flags(1, OPEN_FLAGS)));
                }
                "fsync" => return done(libc::fsync(fd)),
                "fdatasync" => return done(libc::fdatasync(fd)),
                "syncfs" => return done(libc::syncfs(fd)),
                "flock" => return done(libc::flock(fd, args.flags(1, FLOCK) | libc::LOCK_NB)),
                _ => {}
            }
        }
        match call {
            "read" | "pread" => read(call, fd, args),
            "write" | "pwrite" => write(call, fd, args),
            "copy" => self.copy(fd, args),
            "lock" | "getlk" => lock(call, fd, args),
            "storm" => storm(fd, args),
            "count" => count(fd, args),
            "mmapw" => map(fd, args, true),
            "mmapr" => map(fd, args, false),
            _ => panic!("no call is named {call:?}"),
        }
    }

    /// `copy FROM OFFSET TO OFFSET LENGTH`: copy_file_range.
    fn copy(&self, from: i32, args: &Args<'_>) -> Answer {
        let to = self.slot(args.word(2))?;
        let (mut at, mut to_at) = (args.number(1), args.number(3));
        let length = args.number(4).cast_unsigned() as usize;
        // SAFETY: both offsets are live.
        let copied =
            unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut to_at, length, 0) };
        check(copied).map(|copied| copied.to_string())
    }
}

/// `read SLOT LENGTH`, `pread SLOT OFFSET LENGTH`.
fn read(call: &str, fd: i32, args: &Args<'_>) -> Answer {
    let last = if call == "read" { 1 } else { 2 };
    let mut bytes = vec![0_u8; args.number(last).cast_unsigned() as usize];
    // SAFETY: the buffer is as long as it says.
    let got = unsafe {
        let (buffer, length) = (bytes.as_mut_ptr().cast(), bytes.len());
        if call == "read" {
            libc::read(fd, buffer, length)
        } else {
            libc::pread(fd, buffer, length, args.number(1))
        }
    };
    let got = check(got)?.cast_unsigned();
    Ok(format!("{got} {:x}", hash(&bytes[..got])))
}

/// `write SLOT LENGTH SEED`, `pwrite SLOT OFFSET LENGTH SEED`.
fn write(call: &str, fd: i32, args: &Args<'_>) -> Answer {
    let first = if call == "write" { 1 } else { 2 };
    let bytes = pattern(args.number(first).cast_unsigned() as usize, args.number(first + 1));
    // SAFETY: the buffer is as long as it says.
    let put = unsafe {
        let (buffer, length) = (bytes.as_ptr().cast(), bytes.len());
        if call == "write" {
            libc::write(fd, buffer, length)
        } else {
            libc::pwrite(fd, buffer, length, args.number(1))
        }
    };
    check(put).map(|put| put.to_string())
}

/// `lock SLOT posix|ofd RD|WR|UN START LENGTH` sets without waiting; `getlk` asks.
fn lock(call: &str, fd: i32, args: &Args<'_>) -> Answer {
    let open_file = args.has(1, "ofd");
    // SAFETY: all bytes zero are a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = args.flags(2, LOCK_TYPES) as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = args.number(3);
    lock.l_len = args.number(4);
    let command = match (call, open_file) {
        ("lock", false) => libc::F_SETLK,
        ("lock", true) => libc::F_OFD_SETLK,
        (_, false) => libc::F_GETLK,
        (_, true) => libc::F_OFD_GETLK,
    };
    // SAFETY: `lock` is live and of the type that these commands take.
    check(unsafe { libc::fcntl(fd, command, &raw mut lock) })?;
    if call == "lock" {
        return Ok(String::new());
    }
    // The holder's process id differs between the sides; that there is one must not.
    Ok(format!("{} {} {} holder:{}", lock.l_type, lock.l_start, lock.l_len, lock.l_pid.signum()))
}

/// `storm SLOT COUNT LENGTH SEED` writes the same bytes again and again: what two callers append at
/// once must all be there in the end.
fn storm(fd: i32, args: &Args<'_>) -> Answer {
    let bytes = pattern(args.number(2).cast_unsigned() as usize, args.number(3));
    for _ in 0..args.number(1) {
        // SAFETY: the buffer is as long as it says.
        let put = check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })?;
        assert_eq!(put.cast_unsigned(), bytes.len(), "a short write");
    }
    Ok(String::new())
}

/// `count SLOT posix|ofd|flock TIMES` adds one to the number in a file, each time under a lock that
/// it waits for: two callers at once miss none.
fn count(fd: i32, args: &Args<'_>) -> Answer {
    // SAFETY: all bytes zero are a valid `struct flock`; it stays live; the buffer is as long as
    // it says.
    unsafe {
        let locked = |how: i32| {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = how as i16;
            let flock = if how == libc::F_UNLCK { libc::LOCK_UN } else { libc::LOCK_EX };
            check(match args.word(1) {
                "flock" => libc::flock(fd, flock),
                "ofd" => libc::fcntl(fd, libc::F_OFD_SETLKW, &raw mut lock),
                _ => libc::fcntl(fd, libc::F_SETLKW, &raw mut lock),
            })
        };
        for _ in 0..args.number(2) {
            locked(libc::F_WRLCK)?;
            let mut text = [b'0'; 8];
            check(libc::pread(fd, text.as_mut_ptr().cast(), text.len(), 0))?;
            let number: u32 = String::from_utf8_lossy(&text).parse().map_err(|_| libc::EIO)?;
            let text = format!("{:08}", number + 1);
            check(libc::pwrite(fd, text.as_ptr().cast(), text.len(), 0))?;
            locked(libc::F_UNLCK)?;
        }
    }
    Ok(String::new())
}

fn fstat(fd: i32) -> Result<libc::stat, i32> {
    // SAFETY: a whole `struct stat` to write to.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd, &raw mut stat))?;
        Ok(stat)
    }
}

/// `mmapw SLOT OFFSET LENGTH SEED` writes through a shared mapping, `mmapr SLOT OFFSET LENGTH`
/// reads through one. Only inside the file: beyond its end lies a signal.
fn map(fd: i32, args: &Args<'_>, writes: bool) -> Answer {
    let (offset, length) = (args.number(1), args.number(2).cast_unsigned() as usize);
    // SAFETY: the mapping is used within the file's size,
    // which only this worker's caller changes meanwhile, and unmapped before the end.
    unsafe {
        let stat = fstat(fd)?;
        let end = offset.cast_unsigned() as usize + length;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || (stat.st_size as usize) < end {
            return Ok("outside".to_owned());
        }
        let protection = if writes { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let start =
            libc::mmap(std::ptr::null_mut(), end.max(1), protection, libc::MAP_SHARED, fd, 0);
        if start == libc::MAP_FAILED {
            return Err(super::errno());
        }
        let bytes = std::slice::from_raw_parts_mut(start.cast::<u8>(), end);
        let part = &mut bytes[offset.cast_unsigned() as usize..];
        if writes {
            part.copy_from_slice(&pattern(length, args.number(3)));
            libc::msync(start, end, libc::MS_SYNC);
        }
        let answer = format!("{:x}", hash(part));
        libc::munmap(start, end.max(1));
        Ok(answer)
    }
}
