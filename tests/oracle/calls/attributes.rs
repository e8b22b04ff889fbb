//! Calls on attributes: mode, owner, times, what may be done, what is there.

use std::ffi::CString;
use std::os::fd::RawFd;

use super::{Answer, Args, Hands, check, done};

const ACCESS: &[(&str, i32)] =
    &[("F", libc::F_OK), ("R", libc::R_OK), ("W", libc::W_OK), ("X", libc::X_OK)];
const AT_FLAGS: &[(&str, i32)] =
    &[("EACCESS", libc::AT_EACCESS), ("NOFOLLOW", libc::AT_SYMLINK_NOFOLLOW)];
/// Times before this are the test's own; later ones are "now".
const EXPLICIT: i64 = 1_000_000_000;

impl Hands {
    pub(super) fn attribute_call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        match call {
            "fchmod" | "fchown" | "futime" | "fstat" | "getflags" | "setflags" => {
                open_file_call(call, self.slot(args.word(0))?, args)
            }
            "stat" | "lstat" => {
                let (dir, path) = self.place(args.word(0))?;
                let nofollow = if call == "lstat" { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
                stat(dir, &path, nofollow)
            }
            "btime" => {
                let (dir, path) = self.place(args.word(0))?;
                let stat = statx(dir, &path, libc::AT_SYMLINK_NOFOLLOW, libc::STATX_BTIME)?;
                Ok((stat.stx_mask & libc::STATX_BTIME != 0).to_string())
            }
            "statfs" => statfs(&self.path(args.word(0))?),
            _ => self.path_call(call, args),
        }
    }

    fn path_call(&self, call: &str, args: &Args<'_>) -> Answer {
        let (dir, path) = self.place(args.word(0))?;
        let path = path.as_ptr();
        // SAFETY: the path is a live C string, and so are the times.
        done(unsafe {
            match call {
                "chmod" => {
                    let flags = args.flags(2, AT_FLAGS);
                    if flags == 0 {
                        libc::fchmodat(dir, path, args.octal(1), 0)
                    } else {
                        // The C library emulates the flag; this is fchmodat2 (Linux 6.6).
                        libc::syscall(FCHMODAT2, dir, path, args.octal(1), flags) as i32
                    }
                }
                "chown" => libc::fchownat(dir, path, args.id(1), args.id(2), 0),
                "lchown" => {
                    let flags = libc::AT_SYMLINK_NOFOLLOW;
                    libc::fchownat(dir, path, args.id(1), args.id(2), flags)
                }
                "utime" => {
                    let times = times(args);
                    let times = times.as_ref().map_or(std::ptr::null(), |times| times.as_ptr());
                    libc::utimensat(dir, path, times, args.flags(3, AT_FLAGS))
                }
                // The C library emulates flags where faccessat2 is missing; here they are the
                // kernel's (Linux 5.8).
                "access" => {
                    let (mode, flags) = (args.flags(1, ACCESS), args.flags(2, AT_FLAGS));
                    libc::syscall(libc::SYS_faccessat2, dir, path, mode, flags) as i32
                }
                _ => panic!("no call is named {call:?}"),
            }
        })
    }
}

/// `fchmodat2` (Linux 6.6); one number on all architectures.
const FCHMODAT2: libc::c_long = 452;
/// `_IOR('f', 1, long)` and `_IOW('f', 2, long)`.
const GETFLAGS: libc::c_ulong = 0x8008_6601;
const SETFLAGS: libc::c_ulong = 0x4008_6602;

fn open_file_call(call: &str, fd: RawFd, args: &Args<'_>) -> Answer {
    // SAFETY: no pointers but to live values of the types that the calls take.
    unsafe {
        match call {
            "fchmod" => done(libc::fchmod(fd, args.octal(1))),
            "fchown" => done(libc::fchown(fd, args.id(1), args.id(2))),
            "futime" => {
                let times = times(args);
                let times = times.as_ref().map_or(std::ptr::null(), |times| times.as_ptr());
                done(libc::futimens(fd, times))
            }
            "fstat" => stat(fd, c"", libc::AT_EMPTY_PATH),
            "getflags" => {
                let mut flags: libc::c_long = 0;
                check(libc::ioctl(fd, GETFLAGS, &raw mut flags))?;
                Ok(format!("{:x}", flags as u32))
            }
            "setflags" => {
                let flags = libc::c_long::from(i32::from_str_radix(args.word(1), 16).expect("hex"));
                done(libc::ioctl(fd, SETFLAGS, &raw const flags))
            }
            _ => panic!("no call is named {call:?}"),
        }
    }
}

/// Access and modification time: `now`, `omit` or `seconds.nanoseconds` each; `null` for none.
fn times(args: &Args<'_>) -> Option<[libc::timespec; 2]> {
    let one = |n| match args.word(n) {
        "now" => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        "omit" => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        exact => {
            let (seconds, nanoseconds) = exact.split_once('.').expect("seconds.nanoseconds");
            let number = |text: &str| text.parse().expect("a number");
            libc::timespec { tv_sec: number(seconds), tv_nsec: number(nanoseconds) }
        }
    };
    (args.word(1) != "null").then(|| [one(1), one(2)])
}

/// A time as far as two equal trees must agree on it.
pub fn time(time: &libc::statx_timestamp) -> String {
    if time.tv_sec < EXPLICIT {
        format!("{}.{:09}", time.tv_sec, time.tv_nsec)
    } else {
        "now".into()
    }
}

/// A statx of the fields in the mask.
pub fn statx(dir: RawFd, path: &std::ffi::CStr, flags: i32, mask: u32) -> Result<libc::statx, i32> {
    // SAFETY: a live C string, and a whole `struct statx` to write to.
    unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        check(libc::statx(dir, path.as_ptr(), flags, mask, &raw mut stat))?;
        Ok(stat)
    }
}

/// What two equal trees must agree on in a stat: no inode number, no block count (allocation may
/// be delayed), no device of the file system. The size of a directory belongs to its file system.
pub fn describe(stat: &libc::statx) -> String {
    let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
    format!(
        "mode={:o} uid={} gid={} nlink={} size={} rdev={}:{} atime={} mtime={}",
        stat.stx_mode,
        stat.stx_uid,
        stat.stx_gid,
        stat.stx_nlink,
        if kind == libc::S_IFDIR { 0 } else { stat.stx_size },
        stat.stx_rdev_major,
        stat.stx_rdev_minor,
        // Looking at a symlink moves its access time, and what the kernel remembers is not looked at.
        if kind == libc::S_IFLNK { "-".into() } else { time(&stat.stx_atime) },
        time(&stat.stx_mtime),
    )
}

fn stat(dir: RawFd, path: &std::ffi::CStr, flags: i32) -> Answer {
    statx(dir, path, flags, libc::STATX_BASIC_STATS).map(|stat| describe(&stat))
}

/// What does not change while others work on the same file system.
fn statfs(path: &CString) -> Answer {
    // SAFETY: a live C string, and a whole `struct statfs` to write to.
    unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        check(libc::statfs(path.as_ptr(), &raw mut stat))?;
        Ok(format!(
            "blocks={} files={} bsize={} frsize={} namelen={}",
            stat.f_blocks,
            stat.f_files != 0,
            stat.f_bsize,
            stat.f_frsize,
            stat.f_namelen
        ))
    }
}
