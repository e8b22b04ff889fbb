//! Who keeps a mount busy.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mountinfo;

/// A process with something open below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its name, as in `/proc/PID/comm`.
    pub name: String,
    /// What it has there: "working directory", "open file", …
    pub what: &'static str,
    /// The path that it has.
    pub path: PathBuf,
}

/// The processes that this user may look at and that have their working directory, their root,
/// their program or an open file at or below `mountpoint`. Only links in `/proc` are read, so a
/// mount whose server hangs does not matter. One entry per process.
pub fn of(mountpoint: &Path) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut holders: Vec<Holder> = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| holder(pid, mountpoint))
        .collect();
    holders.sort_by_key(|holder| holder.pid);
    holders
}

/// What keeps a mount busy without any process that has something open there, in words: mounts
/// inside, loop devices, swap files, and sockets that are bound to a name.
pub fn without_process(mountpoint: &Path) -> Vec<String> {
    let inside = |path: &Path| path.starts_with(mountpoint);
    let mut found = Vec::new();
    for mount in mountinfo::read().unwrap_or_default() {
        if inside(&mount.mountpoint) && mount.mountpoint != mountpoint {
            let (kind, point) = (&mount.fs_type, mount.mountpoint.display());
            found.push(format!("a mount of type {kind} is inside: 'umount {point}'"));
        }
    }
    for device in fs::read_dir("/sys/block").into_iter().flatten().filter_map(Result::ok) {
        let file = fs::read(device.path().join("loop/backing_file")).unwrap_or_default();
        let file = Path::new(OsStr::from_bytes(file.trim_ascii_end()));
        if inside(file) {
            let device = device.file_name();
            let device = device.display();
            found.push(format!(
                "the loop device /dev/{device} uses {}: 'losetup -d /dev/{device}' when nothing is \
                 mounted from it",
                file.display()
            ));
        }
    }
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    found.extend(
        words(&swaps, 0)
            .filter(|path| inside(path))
            .map(|path| format!("{0} is a swap file: 'swapoff {0}'", path.display())),
    );
    // Num, RefCount, Protocol, Flags, Type, St, Inode, Path (proc_net_unix(5)).
    let sockets = fs::read("/proc/net/unix").unwrap_or_default();
    found.extend(words(&sockets, 7).filter(|path| inside(path)).map(|path| {
        format!("a socket is bound to {}: end the program that listens there", path.display())
    }));
    found
}

/// The word at this place of each line but the first, as a path.
fn words(table: &[u8], at: usize) -> impl Iterator<Item = &Path> {
    table.split(|byte| *byte == b'\n').skip(1).filter_map(move |line| {
        let word = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(at)?;
        Some(Path::new(OsStr::from_bytes(word)))
    })
}

fn holder(pid: u32, mountpoint: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let below = |link: &Path| fs::read_link(link).ok().filter(|path| path.starts_with(mountpoint));
    let known = [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")];
    let found = known
        .into_iter()
        .find_map(|(link, what)| Some((what, below(&process.join(link))?)))
        .or_else(|| {
            let mut open = fs::read_dir(process.join("fd")).ok()?.filter_map(Result::ok);
            open.find_map(|entry| Some(("open file", below(&entry.path())?)))
        })?;
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    Some(Holder { pid, name: name.trim_end().to_owned(), what: found.0, path: found.1 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn a_bound_socket_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        assert_eq!(without_process(&path), Vec::<String>::new());
        let _socket = std::os::unix::net::UnixListener::bind(path.join("s")).unwrap();
        let found = without_process(&path);
        assert!(found.len() == 1 && found[0].contains("socket is bound"), "{found:?}");
    }

    #[test]
    fn an_open_file_is_found_and_a_neighbour_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("mnt");
        fs::create_dir(&inside).unwrap();
        let open = fs::File::create(inside.join("file")).unwrap();
        let found = of(&inside.canonicalize().unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, std::process::id());
        assert_eq!(found[0].what, "open file");
        assert!(found[0].path.ends_with("mnt/file"));
        drop(open);
        assert_eq!(of(&directory.path().join("mn")), []);
    }
}
