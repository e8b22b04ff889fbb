//! Who keeps a mount busy.

use std::fs;
use std::path::{Path, PathBuf};

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
