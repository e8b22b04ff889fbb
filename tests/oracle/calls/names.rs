//! Calls on names: making, removing, renaming, listing, and running what a name stands for.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Answer, Args, Hands, check, done, errno, text};
use crate::step::encode;

const AT_FLAGS: &[(&str, i32)] =
    &[("FOLLOW", libc::AT_SYMLINK_FOLLOW), ("EMPTY", libc::AT_EMPTY_PATH)];
const RENAME_FLAGS: &[(&str, i32)] = &[("NOREPLACE", 1), ("EXCHANGE", 2), ("WHITEOUT", 4)];
const TYPES: &[(&str, i32)] = &[
    ("fifo", libc::S_IFIFO.cast_signed()),
    ("char", libc::S_IFCHR.cast_signed()),
    ("block", libc::S_IFBLK.cast_signed()),
    ("sock", libc::S_IFSOCK.cast_signed()),
    ("file", libc::S_IFREG.cast_signed()),
];

impl Hands {
    pub(super) fn name_call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        match call {
            "exec" => return self.exec(args),
            "install" => return install(args),
            "list" => return self.list(args),
            "readlink" => return self.readlink(args),
            _ => {}
        }
        let (dir, path) = self.place(args.word(0))?;
        let path = path.as_ptr();
        // SAFETY: all path pointers are of C strings that live to the end of their arm's call.
        done(unsafe {
            match call {
                "mkdir" => libc::mkdirat(dir, path, args.octal(1)),
                "mknod" => {
                    let kind = super::named(args.word(1), TYPES).cast_unsigned();
                    let device = args.0.get(3).map_or(0, |_| device_number(args.word(3)));
                    libc::mknodat(dir, path, kind | args.octal(2), device)
                }
                "symlink" => {
                    let (dir, name) = self.place(args.word(1))?;
                    libc::symlinkat(text(args.word(0)).as_ptr(), dir, name.as_ptr())
                }
                "link" => {
                    let (to_dir, to) = self.place(args.word(1))?;
                    libc::linkat(dir, path, to_dir, to.as_ptr(), args.flags(2, AT_FLAGS))
                }
                "unlink" => libc::unlinkat(dir, path, 0),
                "rmdir" => libc::unlinkat(dir, path, libc::AT_REMOVEDIR),
                "rename" => {
                    let (to_dir, to) = self.place(args.word(1))?;
                    let flags = args.flags(2, RENAME_FLAGS).cast_unsigned();
                    libc::renameat2(dir, path, to_dir, to.as_ptr(), flags)
                }
                "socket" => bind_socket(path),
                "chdir" => libc::chdir(path),
                _ => panic!("no call is named {call:?}"),
            }
        })
    }

    fn readlink(&self, args: &Args<'_>) -> Answer {
        let (dir, path) = self.place(args.word(0))?;
        let mut target = vec![0_u8; 4096];
        // SAFETY: the buffer is as long as it says.
        let got = unsafe {
            libc::readlinkat(dir, path.as_ptr(), target.as_mut_ptr().cast(), target.len())
        };
        let got = check(got)?.cast_unsigned();
        Ok(encode(&target[..got]))
    }

    /// `list PATH`: the names with their types, sorted.
    fn list(&self, args: &Args<'_>) -> Answer {
        let (dir, path) = self.place(args.word(0))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a live C string.
        let fd = check(unsafe { libc::openat(dir, path.as_ptr(), flags) })?;
        let mut names = Vec::new();
        // SAFETY: fdopendir takes the descriptor over and closedir closes it; each entry is read
        // before the next readdir.
        unsafe {
            let stream = libc::fdopendir(fd);
            if stream.is_null() {
                return Err(errno());
            }
            loop {
                *libc::__errno_location() = 0;
                let entry = libc::readdir64(stream);
                if entry.is_null() {
                    break;
                }
                let name = CStr::from_ptr((&raw const (*entry).d_name).cast());
                names.push(format!("{}:{}", encode(name.to_bytes()), (*entry).d_type));
            }
            let failed = *libc::__errno_location();
            libc::closedir(stream);
            if failed != 0 {
                return Err(failed);
            }
        }
        names.sort();
        Ok(names.join(" "))
    }

    /// `exec PATH`: runs the program there (a copy of cat, see `install`) on its own status, and
    /// answers with the ids and capabilities that it got.
    fn exec(&self, args: &Args<'_>) -> Answer {
        let path = self.path(args.word(0))?;
        let (mut output, mut failure) = ([0; 2], [0; 2]);
        // SAFETY: the arrays hold two descriptors each. The process has one thread, so the child
        // may do what it likes until it runs the program; its strings were made before the fork.
        unsafe {
            check(libc::pipe2(output.as_mut_ptr(), libc::O_CLOEXEC))?;
            check(libc::pipe2(failure.as_mut_ptr(), libc::O_CLOEXEC))?;
            let argv = [c"cat".as_ptr(), c"/proc/self/status".as_ptr(), std::ptr::null()];
            let child = check(libc::fork())?;
            if child == 0 {
                libc::dup2(output[1], 1);
                libc::execv(path.as_ptr(), argv.as_ptr());
                let failed = errno().to_ne_bytes();
                libc::write(failure[1], failed.as_ptr().cast(), failed.len());
                libc::_exit(127);
            }
            for fd in [output[1], failure[1]] {
                libc::close(fd);
            }
            let status = read_all(OwnedFd::from_raw_fd(output[0]));
            let failed = read_all(OwnedFd::from_raw_fd(failure[0]));
            libc::waitpid(child, std::ptr::null_mut(), 0);
            if let Ok(failed) = failed.try_into() {
                return Err(i32::from_ne_bytes(failed));
            }
            Ok(credentials(&String::from_utf8_lossy(&status)))
        }
    }
}

/// The lines of /proc/PID/status that say what a program may do.
fn credentials(status: &str) -> String {
    let wanted = ["Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    // Of the capabilities those that file systems look at, and none that the machine may lack.
    let words = |line: &str| -> Vec<String> {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let [name, mask] = &mut words[..]
            && name.starts_with("Cap")
        {
            let bits = u64::from_str_radix(mask, 16).expect("hex");
            *mask = format!("{:x}", bits & 0x00ff_ffff);
        }
        words
    };
    lines.map(|line| words(line).join(",")).collect::<Vec<_>>().join(" ")
}

fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd);
    std::io::Read::read_to_end(&mut file, &mut bytes).expect("a pipe");
    bytes
}

/// `install PATH`: puts a program there that `exec` can run.
fn install(args: &Args<'_>) -> Answer {
    let path = String::from_utf8(text(args.word(0)).into_bytes()).expect("a plain name");
    std::fs::copy("/bin/cat", &path).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    Ok(String::new())
}

/// `c1:3` or a plain number.
fn device_number(word: &str) -> libc::dev_t {
    let (major, minor) = word.split_once(':').expect("major:minor");
    libc::makedev(major.parse().expect("major"), minor.parse().expect("minor"))
}

/// Binds a unix socket to a name, which makes the node.
fn bind_socket(path: *const libc::c_char) -> i32 {
    // SAFETY: `path` is a live C string of the caller; the address is large enough for it, or the
    // test has given a name that no socket can have.
    unsafe {
        let name: CString = CStr::from_ptr(path).to_owned();
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        assert!(name.as_bytes().len() < address.sun_path.len(), "a name too long for a socket");
        for (to, from) in address.sun_path.iter_mut().zip(name.as_bytes()) {
            *to = from.cast_signed();
        }
        let raw = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let socket = OwnedFd::from_raw_fd(raw);
        let length = std::mem::size_of::<libc::sockaddr_un>() as u32;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
    }
}
