//! Leaving the control groups of whoever starts a mount (cgroups(7)).
//!
//! Container managers end everything that is in a container's control group, or in that of the process that watches
//! the container (conmon, a containerd shim), and a server that was started from there with it. What it leaves is a mount
//! that answers ENOTCONN. So such a server moves as far up in each hierarchy as it may: root to the top, an ordinary
//! user to the top of what is delegated to that user.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::mountinfo::{self, Mount};

/// The group below one that takes no processes itself, because it hands controllers on.
const NAME: &str = "idshift";
/// Who is in a group. Writing 0 moves the writer.
const MEMBERS: &str = "cgroup.procs";

/// A mounted hierarchy, and where this process is in it.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    top: PathBuf,
    /// The path of this process' group, from the top.
    own: PathBuf,
}

/// Moves this process up. The error names the groups that it stays in.
pub fn leave() -> Result<(), String> {
    let hierarchies = hierarchies().map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let stays: Vec<String> = hierarchies.iter().filter_map(|one| move_up(one).err()).collect();
    if stays.is_empty() { Ok(()) } else { Err(stays.join("; ")) }
}

/// Removes the groups that [`leave`] has made, where nobody is in them any more.
pub fn tidy() {
    for hierarchy in hierarchies().unwrap_or_default() {
        for above in groups(&hierarchy) {
            // One with members, or that is not there, stays as it is.
            fs::remove_dir(above.join(NAME)).ok();
        }
    }
}

fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    Ok(understand(&own, &mountinfo::read()?))
}

/// Brings the lines `ID:CONTROLLERS:PATH` together with what is mounted.
fn understand(own: &str, mounts: &[Mount]) -> Vec<Hierarchy> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = |mount: &&Mount| match controllers.split(',').next() {
            None | Some("") => mount.fs_type == "cgroup2",
            Some(first) => {
                mount.fs_type == "cgroup" && mount.fs_options.split(',').any(|o| o == first)
            }
        };
        // Where the mount shows only a part, the path is below that; where it is not, it is another namespace's.
        let own = |mount: &Mount| Some(Path::new(path).strip_prefix(&mount.root).ok()?.to_owned());
        mounts
            .iter()
            .filter(is_it)
            .find_map(|mount| Some(Hierarchy { own: own(mount)?, top: mount.mountpoint.clone() }))
    };
    let all = own.lines().filter_map(line);
    all.filter(|one| one.own.components().all(|part| matches!(part, Component::Normal(_))))
        .collect()
}

/// The groups from the top down to this process' own, without that one.
fn groups(hierarchy: &Hierarchy) -> Vec<PathBuf> {
    let Hierarchy { top, own } = hierarchy;
    let mut above: Vec<PathBuf> = own.ancestors().skip(1).map(|path| top.join(path)).collect();
    above.reverse();
    above
}

fn move_up(hierarchy: &Hierarchy) -> Result<(), String> {
    let above = groups(hierarchy);
    let mut why = None;
    for group in &above {
        match enter(group) {
            Ok(()) => return Ok(()),
            Err(error) => why = Some(error),
        }
    }
    // Who is at the top already has nothing to leave.
    why.map_or(Ok(()), |error| {
        Err(format!("{}: {error}", hierarchy.top.join(&hierarchy.own).display()))
    })
}

fn enter(group: &Path) -> io::Result<()> {
    match fs::write(group.join(MEMBERS), "0") {
        // It hands controllers on, so its processes are in groups below it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
            let below = group.join(NAME);
            match fs::create_dir(&below) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => fs::write(below.join(MEMBERS), "0"),
            }
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, table: &str) -> Vec<(String, String)> {
        let shown = |path: PathBuf| path.display().to_string();
        let all = understand(own, &mountinfo::parse(table.as_bytes()));
        all.into_iter().map(|one| (shown(one.top), shown(one.own))).collect()
    }

    fn pair(top: &str, own: &str) -> (String, String) {
        (top.to_owned(), own.to_owned())
    }

    #[test]
    fn hierarchies_of_both_versions() {
        let own = "4:memory:/a\n3:cpu,cpuacct:/x/y\n1:name=systemd:/\n0::/user.slice/app.scope\n";
        let table = "\
            30 1 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            found(own, table),
            [
                pair("/sys/fs/cgroup/cpu", "x/y"),
                pair("/sys/fs/cgroup/systemd", ""),
                pair("/sys/fs/cgroup/unified", "user.slice/app.scope"),
            ]
        );
    }

    #[test]
    fn what_is_mounted_is_a_part_of_the_hierarchy() {
        let table = "33 30 0:30 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/box/a/b\n", table), [pair("/sys/fs/cgroup", "a/b")]);
        assert_eq!(found("0::/elsewhere\n", table), []);
        assert_eq!(found("0::/../up\n", "33 30 0:30 / /c rw - cgroup2 cgroup2 rw\n"), []);
    }

    #[test]
    fn from_the_top_down() {
        let one = Hierarchy { top: "/c".into(), own: "a/b".into() };
        assert_eq!(groups(&one), [Path::new("/c"), Path::new("/c/a")]);
        let top = Hierarchy { top: "/c".into(), own: PathBuf::new() };
        assert_eq!(groups(&top), Vec::<PathBuf>::new());
        assert_eq!(move_up(&top), Ok(()));
    }
}
