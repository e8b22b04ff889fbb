//! What a worker can do: one call of the kernel for each name, with the answer as one line.
//!
//! Values that differ between two equal trees for a good reason (inode numbers, the time now) are
//! left out of the answers; `observe.rs` compares them in the way that fits each.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::step::decode;

pub mod attributes;
pub mod data;
mod names;
mod uring;
pub mod xattrs;

/// What a call gave: its value as words, or its errno.
pub type Answer = Result<String, i32>;

/// What a worker holds: its open descriptors, by slot.
#[derive(Default)]
pub struct Hands {
    slots: BTreeMap<String, OwnedFd>,
}

/// The arguments of a call.
pub struct Args<'a>(Vec<&'a str>);

impl Args<'_> {
    pub fn word(&self, n: usize) -> &str {
        self.0.get(n).copied().unwrap_or_else(|| panic!("argument {n} is missing in {:?}", self.0))
    }

    pub fn has(&self, n: usize, word: &str) -> bool {
        self.0.get(n).is_some_and(|arg| arg.split('|').any(|part| part == word))
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn number(&self, n: usize) -> i64 {
        self.word(n).parse().unwrap_or_else(|_| panic!("no number: {:?}", self.word(n)))
    }

    pub fn octal(&self, n: usize) -> u32 {
        u32::from_str_radix(self.word(n), 8).unwrap_or_else(|_| panic!("octal: {}", self.word(n)))
    }

    /// An id; `-1` is the value that leaves an owner as it is.
    pub fn id(&self, n: usize) -> u32 {
        if self.word(n) == "-1" { u32::MAX } else { self.word(n).parse().expect("an id") }
    }

    /// Names of flags, joined by `|`.
    pub fn flags(&self, n: usize, table: &[(&str, i32)]) -> i32 {
        let words = self.0.get(n).copied().unwrap_or("0").split('|');
        words.map(|word| named(word, table)).fold(0, |all, one| all | one)
    }
}

/// The value of a name in a table; a `0` and plain numbers stand for themselves.
pub fn named(word: &str, table: &[(&str, i32)]) -> i32 {
    let found = table.iter().find(|(name, _)| *name == word).map(|&(_, value)| value);
    found.or_else(|| word.parse().ok()).unwrap_or_else(|| panic!("no flag is called {word:?}"))
}

/// A C string of a word's bytes.
pub fn text(word: &str) -> CString {
    CString::new(decode(word)).expect("no NUL in a word")
}

/// The errno of the last call.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Turns -1 into the errno.
pub fn check<T: Copy + PartialOrd + From<i8>>(returned: T) -> Result<T, i32> {
    if returned < T::from(0) { Err(errno()) } else { Ok(returned) }
}

/// An answer without a value.
pub fn done(returned: i32) -> Answer {
    check(returned).map(|_| String::new())
}

impl Hands {
    /// Carries out one request and says how it went.
    pub fn answer(&mut self, request: &str) -> String {
        let mut words = request.split(' ');
        let call = words.next().unwrap_or_default();
        let args = Args(words.collect());
        if call == "reset" {
            return self.reset(args.word(0));
        }
        match self.call(call, &args) {
            Ok(value) if value.is_empty() => "ok".to_owned(),
            Ok(value) => format!("ok {value}"),
            Err(NO_SLOT) => "no such slot".to_owned(),
            Err(errno) => errno_name(errno),
        }
    }

    /// Forgets everything and goes to another directory.
    fn reset(&mut self, directory: &str) -> String {
        self.slots.clear();
        // SAFETY: a live C string; umask has no pointers.
        let moved = unsafe {
            libc::umask(0o022);
            libc::chdir(text(directory).as_ptr())
        };
        if moved == 0 { "ok".to_owned() } else { errno_name(errno()) }
    }

    fn call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        match call {
            "open" => self.open(args),
            "close" => self.slot(args.word(0)).map(|_| {
                self.slots.remove(args.word(0));
                String::new()
            }),
            "sleep" => {
                std::thread::sleep(std::time::Duration::from_millis(
                    args.number(0).cast_unsigned(),
                ));
                Ok(String::new())
            }
            "umask" => {
                // SAFETY: no pointers; one thread.
                unsafe { libc::umask(args.octal(0)) };
                Ok(String::new())
            }
            "mkdir" | "mknod" | "symlink" | "readlink" | "link" | "unlink" | "rmdir" | "rename"
            | "list" | "exec" | "install" | "socket" | "chdir" => self.name_call(call, args),
            "read" | "pread" | "write" | "pwrite" | "ftruncate" | "truncate" | "fallocate"
            | "copy" | "seek" | "fsync" | "fdatasync" | "syncfs" | "flock" | "lock" | "getlk"
            | "mmapw" | "mmapr" | "storm" | "count" | "setfl" => self.data_call(call, args),
            "chmod" | "fchmod" | "chown" | "lchown" | "fchown" | "utime" | "futime" | "access"
            | "stat" | "lstat" | "fstat" | "btime" | "statfs" | "getflags" | "setflags" => {
                self.attribute_call(call, args)
            }
            "uring" | "uringas" | "uringstat" => self.uring_call(call, args),
            "getx" | "setx" | "listx" | "rmx" | "fgetx" | "fsetx" | "lgetx" | "lsetx" => {
                self.xattr_call(call, args)
            }
            _ => panic!("no call is named {call:?}"),
        }
    }

    /// The descriptor in a slot.
    pub fn slot(&self, name: &str) -> Result<RawFd, i32> {
        self.slots.get(name).map(AsRawFd::as_raw_fd).ok_or(NO_SLOT)
    }

    /// A path word: `fd:1` and `fd:1/name` go through /proc/self/fd.
    pub fn path(&self, word: &str) -> Result<CString, i32> {
        let Some(rest) = word.strip_prefix("fd:") else { return Ok(text(word)) };
        let (slot, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let fd = self.slot(slot)?;
        Ok(text(&format!("/proc/self/fd/{fd}{rest}")))
    }

    /// A path word for the `*at` calls: as [`Hands::path`], and `at:1` or `at:1/name` starts at
    /// the descriptor itself.
    pub fn place(&self, word: &str) -> Result<(RawFd, CString), i32> {
        let Some(rest) = word.strip_prefix("at:") else {
            return Ok((libc::AT_FDCWD, self.path(word)?));
        };
        let (slot, rest) = rest.split_once('/').unwrap_or((rest, "%"));
        Ok((self.slot(slot)?, text(rest)))
    }

    /// `open SLOT PATH FLAGS [MODE]`. Never blocks: a fifo without a peer must not hang the test.
    fn open(&mut self, args: &Args<'_>) -> Answer {
        let (dir, path) = self.place(args.word(1))?;
        let flags = args.flags(2, OPEN_FLAGS) | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mode = if args.count() > 3 { args.octal(3) } else { 0 };
        // SAFETY: a live C string; the mode is passed whether or not the flags ask for it.
        let fd = check(unsafe { libc::openat(dir, path.as_ptr(), flags, mode) })?;
        // SAFETY: openat has just made this descriptor, and nothing else owns it.
        self.slots.insert(args.word(0).to_owned(), unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(String::new())
    }
}

/// Stands for "this slot is empty" among the errnos.
const NO_SLOT: i32 = -1;

pub const OPEN_FLAGS: &[(&str, i32)] = &[
    ("RDONLY", libc::O_RDONLY),
    ("WRONLY", libc::O_WRONLY),
    ("RDWR", libc::O_RDWR),
    ("CREAT", libc::O_CREAT),
    ("EXCL", libc::O_EXCL),
    ("TRUNC", libc::O_TRUNC),
    ("APPEND", libc::O_APPEND),
    ("TMPFILE", libc::O_TMPFILE),
    ("NOFOLLOW", libc::O_NOFOLLOW),
    ("PATH", libc::O_PATH),
    ("DIRECTORY", libc::O_DIRECTORY),
    ("NOATIME", libc::O_NOATIME),
    ("SYNC", libc::O_SYNC),
    ("DSYNC", libc::O_DSYNC),
    ("DIRECT", libc::O_DIRECT),
];

/// The name of an errno, for the errnos that file systems give.
pub fn errno_name(errno: i32) -> String {
    const NAMES: &[(&str, i32)] = &[
        ("EPERM", libc::EPERM),
        ("ENOENT", libc::ENOENT),
        ("EIO", libc::EIO),
        ("ENXIO", libc::ENXIO),
        ("EBADF", libc::EBADF),
        ("EAGAIN", libc::EAGAIN),
        ("ENOMEM", libc::ENOMEM),
        ("EACCES", libc::EACCES),
        ("EFAULT", libc::EFAULT),
        ("EBUSY", libc::EBUSY),
        ("EEXIST", libc::EEXIST),
        ("EXDEV", libc::EXDEV),
        ("ENODEV", libc::ENODEV),
        ("ENOTDIR", libc::ENOTDIR),
        ("EISDIR", libc::EISDIR),
        ("EINVAL", libc::EINVAL),
        ("ENFILE", libc::ENFILE),
        ("EMFILE", libc::EMFILE),
        ("ENOTTY", libc::ENOTTY),
        ("ETXTBSY", libc::ETXTBSY),
        ("EFBIG", libc::EFBIG),
        ("ENOSPC", libc::ENOSPC),
        ("ESPIPE", libc::ESPIPE),
        ("EROFS", libc::EROFS),
        ("EMLINK", libc::EMLINK),
        ("ERANGE", libc::ERANGE),
        ("EDEADLK", libc::EDEADLK),
        ("ENAMETOOLONG", libc::ENAMETOOLONG),
        ("ENOLCK", libc::ENOLCK),
        ("ENOSYS", libc::ENOSYS),
        ("ENOTEMPTY", libc::ENOTEMPTY),
        ("ELOOP", libc::ELOOP),
        ("ENODATA", libc::ENODATA),
        ("EOVERFLOW", libc::EOVERFLOW),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("ESTALE", libc::ESTALE),
        ("EUCLEAN", libc::EUCLEAN),
        ("E2BIG", libc::E2BIG),
        ("ENOEXEC", libc::ENOEXEC),
    ];
    let found = NAMES.iter().find(|(_, value)| *value == errno);
    found.map_or_else(|| format!("errno {errno}"), |(name, _)| (*name).to_owned())
}
