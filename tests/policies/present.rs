//! Rights go by what is stored now: what others change below, and what somebody then does who had
//! another right before, by a name or by a descriptor from before. Compared with the kernel's mount of a
//! tree of its own.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, XattrFlags, chmod,
    chownat, fchmod, fchown, fsetxattr, futimens, ioctl_getflags, ioctl_setflags, linkat, rename,
    setxattr, unlink, utimensat,
};

use rustix::process::fchdir;

use crate::common::mount::{free, temp_dir};
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{
    ACL_ACCESS, Caller, Errno, GROUP_OBJ, MAP, MASK, Mount, NO_ID, OTHER, UNMAPPED, USER, USER_OBJ,
    acl, chown, get_xattr, kernel, lo, open, put_dir, put_file, raw, set_mode, stat,
};

crate::common::tests!(
    owners_changed_below,
    owners_changed_below_without_a_cache,
    owners_changed_below_with_io_cached,
    owners_changed_below_for_a_time,
    owners_changed_below_and_another_server,
);

/// Who owned the file, and who owns it then.
const FORMER: u32 = 1000;
const NEW: u32 = 1001;

const CHANGES: [&str; 5] = ["nothing", "owner", "group", "owner and group", "unmapped owner"];
const CALLS: [&str; 13] = [
    "chmod",
    "chmod g+s",
    "times",
    "times now",
    "chgrp",
    "chown",
    "acl",
    "attribute",
    "flags",
    "extended flags",
    "link",
    "unlink",
    "rename",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Name,
    Descriptor,
    /// As the working directory.
    Cwd,
}

impl By {
    /// Whether it can be the object of such a call without one of its names.
    fn suits(self, call: &str) -> bool {
        self == By::Name
            || !(matches!(call, "unlink" | "rename") || (self == By::Cwd && call == "link"))
    }
}

struct Case {
    change: &'static str,
    call: &'static str,
    by: By,
    caller: u32,
    place: String,
    fd: Option<OwnedFd>,
}

impl Case {
    fn what(&self) -> String {
        let Self { change, call, by, caller, .. } = self;
        format!("{change} changed, then {call} by {by:?} of {caller}")
    }

    fn caller(&self) -> Caller {
        // In both groups before, and in one of them afterwards.
        Caller::user(self.caller).groups(&[self.caller, 2000])
    }

    fn change(&self, lower: &Path) {
        let file = lower.join(&self.place).join("f");
        let (uid, gid) = match self.change {
            "owner" => (Some(lo(NEW)), None),
            "group" => (None, Some(lo(3000))),
            "owner and group" => (Some(lo(NEW)), Some(lo(NEW))),
            "unmapped owner" => (Some(UNMAPPED), None),
            _ => return,
        };
        chown(&file, uid, gid).unwrap();
    }

    fn call(&self, upper: &Path) -> Result<(), Errno> {
        let dir = upper.join(&self.place);
        let cwd = self.fd.as_ref().filter(|_| self.by == By::Cwd);
        let file = if cwd.is_some() { PathBuf::from(".") } else { dir.join("f") };
        let times = |nsec| Timestamps {
            last_access: Timespec { tv_sec: 7, tv_nsec: nsec },
            last_modification: Timespec { tv_sec: 7, tv_nsec: nsec },
        };
        let value = acl(&[
            (USER_OBJ, 6, NO_ID),
            (USER, 7, self.caller),
            (GROUP_OBJ, 4, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 4, NO_ID),
        ]);
        let none = XattrFlags::empty();
        let group = Some(Gid::from_raw(2000));
        let own = Some(rustix::fs::Uid::from_raw(self.caller));
        let mode = Mode::from_raw_mode(if self.call == "chmod g+s" { 0o2755 } else { 0o711 });
        let time = if self.call == "times" { times(0) } else { times(UTIME_NOW) };
        let fd = self.fd.as_ref().filter(|_| self.by == By::Descriptor);
        let opened = || open(&file, OFlags::RDONLY, 0);
        self.caller().run(|| {
            if let Some(cwd) = cwd {
                fchdir(cwd)?;
            }
            match (self.call, fd) {
                ("chmod" | "chmod g+s", None) => chmod(&file, mode),
                ("chmod" | "chmod g+s", Some(fd)) => fchmod(fd, mode),
                ("times" | "times now", None) => utimensat(CWD, &file, &time, AtFlags::empty()),
                ("times" | "times now", Some(fd)) => futimens(fd, &time),
                ("chgrp", None) => chownat(CWD, &file, None, group, AtFlags::empty()),
                ("chgrp", Some(fd)) => fchown(fd, None, group),
                ("chown", None) => chownat(CWD, &file, own, None, AtFlags::empty()),
                ("chown", Some(fd)) => fchown(fd, own, None),
                ("acl", None) => setxattr(&file, ACL_ACCESS, &value, none),
                ("acl", Some(fd)) => fsetxattr(fd, ACL_ACCESS, &value, none),
                ("attribute", None) => setxattr(&file, "user.x", b"1", none),
                ("attribute", Some(fd)) => fsetxattr(fd, "user.x", b"1", none),
                ("link", None) => linkat(CWD, &file, CWD, dir.join("g"), AtFlags::empty()),
                ("link", Some(fd)) => {
                    let path = idshift::lower::proc_path(fd.as_fd());
                    linkat(CWD, path, CWD, dir.join("g"), AtFlags::SYMLINK_FOLLOW)
                }
                ("flags", None) => set_flags(&opened()?),
                ("flags", Some(fd)) => set_flags(fd),
                ("extended flags", None) => set_extended_flags(&opened()?),
                ("extended flags", Some(fd)) => set_extended_flags(fd),
                ("unlink", _) => unlink(&file),
                _ => rename(&file, dir.join("g")),
            }
        })
    }

    /// What is stored in the end.
    fn stored(&self, lower: &Path) -> String {
        let dir = lower.join(&self.place);
        let mut all: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let stat = stat(&path);
                let attributes = [ACL_ACCESS, "user.x"].map(|name| get_xattr(&path, name).ok());
                let old = stat.st_mtime == 7;
                let flags = open(&path, OFlags::RDONLY, 0).and_then(ioctl_getflags).unwrap();
                let dump = !flags.contains(IFlags::NODUMP);
                let (mode, uid, gid) = (stat.st_mode, stat.st_uid, stat.st_gid);
                let name = path.file_name().unwrap().to_owned();
                format!(
                    "{} {mode:o} {uid} {gid} {} {old} {dump} {attributes:?}",
                    name.display(),
                    stat.st_nlink
                )
            })
            .collect();
        all.sort_unstable();
        all.join("\n")
    }
}

fn set_flags(fd: &OwnedFd) -> Result<(), Errno> {
    ioctl_setflags(fd, ioctl_getflags(fd)? | IFlags::NODUMP)
}

/// `FS_IOC_FSSETXATTR` of `FS_XFLAG_NODUMP`.
fn set_extended_flags(fd: &OwnedFd) -> Result<(), Errno> {
    let mut flags = [0_u32; 7];
    raw::ioctl(fd.as_fd(), 0x801c_581f, &mut flags)?;
    flags[0] |= 0x80;
    raw::ioctl(fd.as_fd(), 0x401c_5820, &mut flags).map(drop)
}

fn cases(lower: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for change in CHANGES {
        for call in CALLS {
            for by in [By::Name, By::Descriptor, By::Cwd].into_iter().filter(|by| by.suits(call)) {
                for caller in [FORMER, NEW, 0] {
                    let place = cases.len().to_string();
                    put_dir(&lower.join(&place), 0o777, lo(0), lo(0));
                    set_mode(&lower.join(&place), 0o1777).unwrap();
                    let file = lower.join(&place).join("f");
                    if by == By::Cwd {
                        put_dir(&file, 0o755, lo(FORMER), lo(2000));
                    } else {
                        put_file(&file, b"x", 0o644, lo(FORMER), lo(2000));
                    }
                    cases.push(Case { change, call, by, caller, place, fd: None });
                }
            }
        }
    }
    cases
}

/// What each case comes to on a mount.
fn outcomes(
    upper: &Path,
    lower: &Path,
    wait: Duration,
) -> Vec<(String, By, Result<(), Errno>, String)> {
    let mut cases = cases(lower);
    for case in &mut cases {
        let file = upper.join(&case.place).join("f");
        assert_eq!(stat(&file).st_uid, FORMER);
        if case.by != By::Name {
            case.fd = Some(case.caller().run(|| open(&file, OFlags::RDONLY, 0)).unwrap());
        }
    }
    // What the kernel was told while files were new, it does not remember for long.
    sleep(Duration::from_millis(1100));
    for case in &cases {
        stat(&upper.join(&case.place).join("f"));
    }
    for case in &cases {
        case.change(lower);
    }
    sleep(wait);
    let done = cases.iter().map(|case| {
        let result = case.call(upper);
        (case.what(), case.by, result, case.stored(lower))
    });
    done.collect()
}

fn compare(options: &str, wait: Duration) {
    needs_idshift();
    needs_real_root("the kernel's mount, to compare with");
    let ours = Mount::with(&format!("{MAP},{options}"), |_| ());
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o777, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    kernel::mount(MAP, &lower, &upper);
    let natively = outcomes(&upper, &lower, Duration::ZERO);
    free(&upper);
    let seen = outcomes(&ours.up(""), &ours.low(""), wait);
    let mut wrong = Vec::new();
    for ((what, by, result, stored), (_, _, native, natively_stored)) in seen.iter().zip(&natively)
    {
        // A descriptor's file and the working directory are not looked up: whoever has got a right since is refused until
        // somebody asks for the attributes (docs/semantics.md).
        let unnamed = *by != By::Name;
        let late = unnamed && native.is_ok() && result.is_err();
        let errno_alone = native.is_err() && result.is_err() && unnamed;
        if late || (errno_alone && stored == natively_stored) {
            continue;
        }
        if (result, stored) != (native, natively_stored) {
            wrong.push(format!(
                "{what}: {result:?}, natively {native:?}\n{stored}\n{natively_stored}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), seen.len(), wrong.join("\n"));
}

const SOON: Duration = Duration::from_millis(100);

fn owners_changed_below() {
    compare("cache=coherent", SOON);
}

fn owners_changed_below_without_a_cache() {
    compare("cache=none", Duration::ZERO);
}

fn owners_changed_below_with_io_cached() {
    compare("cache=coherent,io=cached", SOON);
}

fn owners_changed_below_for_a_time() {
    compare("cache=ttl:0.2", Duration::from_millis(300));
}

fn owners_changed_below_and_another_server() {
    compare("cache=coherent,restart=on", SOON);
}
