//! What a file system answers to a row of calls, in words: made twice, on the lower file system
//! itself and through the mount, the two lists must be the same.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, OFlags, RenameFlags, Timespec,
    Timestamps,
};
use rustix::io::Errno;

use crate::common::{
    ACL_ACCESS, BASE, Caller, GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ, acl, chown, create,
    eventually, get_xattr, list_xattr, lo, mkdir, open, parse_acl, raw, set_mode, set_xattr,
};

/// Shown for lower root, who owns what sshd makes.
pub(crate) const LOGIN: u32 = 30_000;

/// One side: a directory, and what the ids are there.
pub(crate) struct Side {
    pub(crate) root: PathBuf,
    /// Lower ids, not upper ones.
    pub(crate) lower: bool,
}

/// What was asked, and what the answer was.
pub(crate) type Seen = Vec<(&'static str, String)>;

impl Side {
    fn id(&self, upper: u32) -> u32 {
        if self.lower { lo(upper) } else { upper }
    }

    /// An id of this side as an upper one; what the map does not have is nobody.
    fn label(&self, id: u32) -> String {
        match (self.lower, id) {
            (true, 0) | (false, LOGIN) => "login".into(),
            (true, BASE..40_000) => (id - BASE).to_string(),
            (false, 0..20_000) => id.to_string(),
            _ => "nobody".into(),
        }
    }

    fn as_user<T: Send>(&self, upper: u32, call: impl FnOnce() -> T + Send) -> T {
        Caller::user(self.id(upper)).run(call)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Owner, mode, links and size of a file.
    pub(crate) fn look(&self, path: &Path) -> String {
        match fs::symlink_metadata(path) {
            Ok(seen) => format!(
                "{}:{} {:o} {} links {} bytes",
                self.label(seen.uid()),
                self.label(seen.gid()),
                seen.mode(),
                if seen.is_dir() { 0 } else { seen.nlink() },
                if seen.is_dir() { 0 } else { seen.len() },
            ),
            Err(error) => error.kind().to_string(),
        }
    }

    fn after<T>(&self, done: Result<T, Errno>, path: &Path) -> String {
        done.map_or_else(|errno| errno.to_string(), |_| self.look(path))
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, Errno>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(errno) => errno.to_string(),
    }
}

/// All of it, in this order: later answers rest on earlier ones.
pub(crate) fn everything(side: &Side) -> Seen {
    let mut seen = births(side);
    seen.extend(changes(side));
    seen.extend(names(side));
    seen.extend(contents(side));
    seen.extend(attributes(side));
    seen
}

fn births(side: &Side) -> Seen {
    let file = side.path("file");
    let born = side.as_user(1000, || create(&file, 0o640).map(drop));
    let dir = side.path("dir");
    let made = side.as_user(1000, || mkdir(&dir, 0o750));
    let link = side.path("link");
    let linked = side.as_user(1000, || rustix::fs::symlink("file", &link));
    let fifo = side.path("fifo");
    let node =
        side.as_user(1000, || rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0));
    let set_gid = side.path("set-gid");
    let inherited = side.path("set-gid/file");
    mkdir(&set_gid, 0o755).ok();
    chown(&set_gid, Some(side.id(1000)), Some(side.id(7))).ok();
    set_mode(&set_gid, 0o2775).ok();
    let below = side.as_user(1000, || create(&inherited, 0o640).map(drop));
    let by_member = side.path("set-gid/by-member");
    let member = Caller::user(side.id(2000)).groups(&[side.id(3), side.id(7)]);
    let belongs = member.run(|| create(&by_member, 0o640).map(drop));
    let tmpfile = side.as_user(1000, || open(&side.root, OFlags::TMPFILE | OFlags::RDWR, 0o600));
    vec![
        ("a file of 1000", side.after(born, &file)),
        ("a directory of 1000", side.after(made, &dir)),
        ("a symbolic link of 1000", side.after(linked, &link)),
        ("where it leads", said(rustix::fs::readlink(&link, Vec::new()))),
        ("a fifo of 1000", side.after(node, &fifo)),
        ("a file in a set-group-ID directory", side.after(below, &inherited)),
        ("a file there by a member of the group alone", side.after(belongs, &by_member)),
        ("O_TMPFILE", said(tmpfile.map(drop))),
    ]
}

fn changes(side: &Side) -> Seen {
    let file = side.path("file");
    let mut seen = Seen::new();
    let given = chown(&file, Some(side.id(5)), Some(side.id(6)));
    seen.push(("chown by root", side.after(given, &file)));
    let foreign = side.as_user(2000, || open(&file, OFlags::RDWR, 0).map(drop));
    seen.push(("opened by a stranger", said(foreign)));
    let taken = side.as_user(2000, || chown(&file, Some(side.id(2000)), None));
    seen.push(("chown by a stranger", said(taken)));
    let changed = set_mode(&file, 0o4711);
    seen.push(("chmod by root", side.after(changed, &file)));
    let changed = side.as_user(5, || set_mode(&file, 0o600));
    seen.push(("chmod by the owner", side.after(changed, &file)));
    for (what, seconds, nanoseconds) in [
        ("a time", 1_000_000_000, 123_456_789),
        ("an odd second", 1_000_000_001, 0),
        ("a time before 1970", -1000, 0),
    ] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty());
        let now = fs::symlink_metadata(&file).map(|seen| (seen.mtime(), seen.mtime_nsec()));
        seen.push((what, format!("{} {:?}", said(set), now.ok())));
    }
    seen
}

fn names(side: &Side) -> Seen {
    let (file, other) = (side.path("file"), side.path("other"));
    let mut seen = Seen::new();
    let moved = rustix::fs::rename(&file, &other);
    seen.push(("rename", side.after(moved, &other)));
    fs::write(&file, "over").ok();
    let noreplace =
        |from: &Path, to: &Path, flags| rustix::fs::renameat_with(CWD, from, CWD, to, flags);
    seen.push(("RENAME_NOREPLACE", said(noreplace(&file, &other, RenameFlags::NOREPLACE))));
    seen.push(("RENAME_EXCHANGE", said(noreplace(&file, &other, RenameFlags::EXCHANGE))));
    let over = rustix::fs::rename(&file, &other);
    seen.push(("rename onto a file", said(over)));
    let hard = side.path("hard");
    let linked = rustix::fs::link(&other, &hard);
    let same = || {
        let number = |path: &Path| fs::symlink_metadata(path).ok().map(|seen| seen.ino());
        (number(&other) == number(&hard)).to_string()
    };
    seen.push(("a hard link", linked.map_or_else(|e| e.to_string(), |()| same())));
    for (what, name) in
        [("a name of 255 bytes", "n".repeat(255)), ("a name in German", "Übung".into())]
    {
        let path = side.path(&name);
        seen.push((what, said(create(&path, 0o600).map(drop))));
    }
    let bytes = side.root.join(OsStr::from_bytes(b"no\xff\xfetext"));
    seen.push(("a name that is not UTF-8", said(create(&bytes, 0o600).map(drop))));
    let many = side.path("many");
    mkdir(&many, 0o755).ok();
    for number in 0..300 {
        File::create(many.join(format!("{number:04}"))).ok();
    }
    let mut listed: Vec<_> =
        fs::read_dir(&many).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    listed.sort();
    listed.dedup();
    seen.push(("a listing", listed.len().to_string()));
    let full = rustix::fs::rmdir(&many);
    seen.push(("rmdir of a full directory", said(full)));
    fs::remove_dir_all(&many).ok();
    seen.push(("after its removal", side.look(&many)));
    seen
}

fn contents(side: &Side) -> Seen {
    let path = side.path("contents");
    let mut seen = Seen::new();
    let block: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
    let mut file = File::from(create(&path, 0o600).unwrap());
    file.write_all(&block).unwrap();
    file.sync_all().unwrap();
    seen.push(("three megabytes", (fs::read(&path).unwrap() == block).to_string()));
    let mut appending = File::options().append(true).open(&path).unwrap();
    appending.write_all(b"more").unwrap();
    drop(appending);
    seen.push(("appended", fs::metadata(&path).unwrap().len().to_string()));
    seen.push((
        "truncated",
        said(raw::truncate(&path, 5000).map(|()| fs::read(&path).unwrap().len())),
    ));
    let mut four = [0; 4];
    seen.push(("read behind the end", format!("{:?}", file.read_at(&mut four, 6000).ok())));
    match raw::Mapping::shared(file.as_fd(), 4096, true) {
        Ok(mapping) => {
            mapping.set(17, b'!');
            mapping.sync().unwrap();
            drop(mapping);
            seen.push(("a shared mapping", fs::read(&path).unwrap()[17].to_string()));
        }
        Err(errno) => seen.push(("a shared mapping", errno.to_string())),
    }
    let more = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100_000);
    seen.push(("fallocate", said(more)));
    seen.push(("flock", said(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive))));
    let gone = fs::remove_file(&path);
    file.rewind().unwrap();
    file.write_all(b"still here").unwrap();
    file.rewind().unwrap();
    let mut text = [0; 10];
    let read = file.read_exact(&mut text);
    seen.push((
        "used after its removal",
        format!("{gone:?} {:?} {}", read.is_ok(), String::from_utf8_lossy(&text)),
    ));
    drop(file);
    // Some rename it until the last descriptor goes; that reaches them a little later.
    let left = || {
        fs::read_dir(&side.root).unwrap().any(|entry| {
            let name = entry.unwrap().file_name();
            name == "contents" || name.to_string_lossy().contains("fuse_hidden")
        })
    };
    eventually("nothing is left of a removed file", || !left());
    seen
}

fn attributes(side: &Side) -> Seen {
    let path = side.path("attributed");
    File::create(&path).unwrap();
    chown(&path, Some(side.id(1000)), Some(side.id(1000))).ok();
    let mut seen = Seen::new();
    seen.push(("user.* set", side.as_user(1000, || said(set_xattr(&path, "user.note", b"text")))));
    seen.push(("user.* read", said(get_xattr(&path, "user.note"))));
    let names = list_xattr(&path).map(|mut names| {
        names.retain(|name| name.starts_with("user."));
        names
    });
    seen.push(("attributes listed", said(names)));
    seen.push(("trusted.* set", said(set_xattr(&path, "trusted.note", b"text"))));
    let entries = [
        (USER_OBJ, 6, NO_ID),
        (USER, 6, side.id(33)),
        (GROUP_OBJ, 0, NO_ID),
        (MASK, 6, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    seen.push(("an ACL set", said(set_xattr(&path, ACL_ACCESS, &acl(&entries)))));
    let shown = get_xattr(&path, ACL_ACCESS).map(|value| {
        let entry = parse_acl(&value).into_iter().find(|entry| entry.0 == USER);
        entry.map(|(_, rights, id)| (side.label(id), rights))
    });
    seen.push(("an ACL read", said(shown)));
    seen.push(("the mode with it", side.look(&path)));
    seen
}
