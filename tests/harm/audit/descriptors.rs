//! What a server has open, by kinds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::common::{Mount, OFlags};

/// One descriptor of a server.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) number: i64,
    pub(super) flags: OFlags,
    pub(super) kind: Kind,
    /// The numbers of what listens to changes, and of the lower directory.
    pub(super) group: i64,
    pub(super) root: i64,
    /// What it leads to, for telling whether another one leads to the same.
    pub(super) file: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Root,
    Handles,
    Below,
    Opened,
    Fuse,
    Group,
    Memory,
    Socket,
    Event,
    Null,
    Load,
    Size,
    Signals,
}

impl Kind {
    pub(super) const ALL: [Self; 13] = [
        Kind::Root,
        Kind::Handles,
        Kind::Below,
        Kind::Opened,
        Kind::Fuse,
        Kind::Group,
        Kind::Memory,
        Kind::Socket,
        Kind::Event,
        Kind::Null,
        Kind::Load,
        Kind::Size,
        Kind::Signals,
    ];

    /// At the head of a column, what it is, and what can be reached by it.
    pub(super) fn words(self) -> [&'static str; 3] {
        match self {
            Kind::Root => [
                "root",
                "the lower directory (O_PATH)",
                "the lower tree: the server's own mount of it, which is nodev and nosuid and has nothing above",
            ],
            Kind::Handles => [
                "by handle",
                "the lower directory again, for open_by_handle_at",
                "the lower tree, and by their handles all files of its file system",
            ],
            Kind::Below => ["below", "a file of the lower tree (O_PATH)", "that file"],
            Kind::Opened => ["opened", "a file that a caller has open", "that file"],
            Kind::Fuse => [
                "fuse",
                "/dev/fuse, on a read-only nodev mount of its own",
                "the requests and answers of this mount; files that are open here, for the kernel to read and write",
            ],
            Kind::Group => [
                "fanotify",
                "what listens to changes below (cache=coherent)",
                "when files are used that are named or open here, by which process, and their names and handles: files below, and /dev/null, /proc/loadavg and statm",
            ],
            Kind::Memory => [
                "memory",
                "the inode table (memfd), sealed against changes of length",
                "memory that the next server reads with restart=on (docs/security.md)",
            ],
            Kind::Socket => [
                "socket",
                "the lines to the helper, and one to itself for signals",
                "the helper, which hears fixed messages (docs/security.md)",
            ],
            Kind::Event => ["event", "eventfd(2)", "itself"],
            Kind::Null => ["null", "/dev/null, on a read-only nodev mount of its own", "nothing"],
            Kind::Load => [
                "load",
                "/proc/loadavg, on a read-only mount of its own",
                "how many threads want to run on this machine",
            ],
            Kind::Size => [
                "size",
                "/proc/self/statm, on a read-only mount of its own",
                "how much memory this process takes",
            ],
            Kind::Signals => [
                "signals",
                "signalfd(2) of the supervisor (restart=on)",
                "the signals of whoever reads it, so the server's own",
            ],
        }
    }
}

/// All that a server has open.
pub(super) fn of(server: u32, mount: &Mount) -> Vec<Descriptor> {
    let number_of = |path: String| fs::metadata(path).map(|found| found.ino()).ok();
    let load = number_of("/proc/loadavg".to_owned());
    let size = number_of(format!("/proc/{server}/statm"));
    let lower = fs::metadata(mount.low("")).unwrap();
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten() {
        let number: i64 = entry.file_name().to_str().unwrap().parse().unwrap();
        let info = fs::read_to_string(format!("/proc/{server}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = OFlags::from_bits_retain(u32::from_str_radix(flags, 8).unwrap());
        let name = fs::read_link(entry.path()).unwrap();
        let found = fs::metadata(entry.path()).unwrap();
        let is_path = flags.contains(OFlags::PATH);
        let of_lower = found.dev() == lower.dev();
        let kind = match name.to_str().unwrap() {
            // Whoever started this test may have given it one.
            name if name.starts_with("pipe:") && number <= 2 => continue,
            name if name.starts_with("socket:") => Kind::Socket,
            "anon_inode:[eventfd]" => Kind::Event,
            "anon_inode:[signalfd]" => Kind::Signals,
            "anon_inode:[fanotify]" => Kind::Group,
            name if name.starts_with("/memfd:") => Kind::Memory,
            _ if found.file_type().is_char_device() && found.rdev() == libc::makedev(1, 3) => {
                Kind::Null
            }
            _ if found.file_type().is_char_device() && found.rdev() == libc::makedev(10, 229) => {
                Kind::Fuse
            }
            _ if of_lower && found.ino() == lower.ino() => {
                if is_path {
                    Kind::Root
                } else {
                    Kind::Handles
                }
            }
            _ if of_lower && is_path => Kind::Below,
            _ if of_lower => Kind::Opened,
            _ if found.is_file() && Some(found.ino()) == load => Kind::Load,
            _ if found.is_file() && Some(found.ino()) == size => Kind::Size,
            other => panic!("{number} is of no kind that is known here: {other} ({info})"),
        };
        all.insert(
            number,
            Descriptor {
                number,
                flags,
                kind,
                group: -1,
                root: -1,
                file: (found.dev(), found.ino()),
            },
        );
    }
    let mut all: Vec<Descriptor> = all.into_values().collect();
    let of = |kind| all.iter().find(|one| one.kind == kind).map_or(-1, |one| one.number);
    let (group, root) = (of(Kind::Group), of(Kind::Root));
    for one in &mut all {
        (one.group, one.root) = (group, root);
    }
    all
}

/// What a descriptor of a server leads to.
pub(super) fn leads_to(server: u32, number: u64) -> (u64, u64) {
    let found = fs::metadata(place(server, number)).unwrap();
    (found.dev(), found.ino())
}

fn place(server: u32, number: u64) -> PathBuf {
    Path::new("/proc").join(server.to_string()).join("fd").join(number.to_string())
}
