//! The maps of other user namespaces, as this process sees them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shift::id::INVALID;
use crate::shift::map_error::RawExtent;
use crate::shift::sources::{Namespace, NamespaceMaps, parse_proc_map};
use crate::sys::nsfs;

/// What tells namespaces apart: device and number of their file (namespaces(7)).
pub type Identity = (u64, u64);

/// The identity of the namespace behind a file.
pub fn identity(file: &File) -> io::Result<Identity> {
    file.metadata().map(|it| (it.dev(), it.ino()))
}

/// The identity of this process's own user namespace.
pub fn own() -> io::Result<Identity> {
    identity(&File::open("/proc/self/ns/user")?)
}

/// The map of a user namespace for a `userns:` spec: inside id, and the id that this process has
/// for it. Every id of the map has one; if one had none, that is an error naming it.
pub fn maps(namespace: &Namespace) -> Result<NamespaceMaps, String> {
    let maps = match namespace {
        Namespace::Pid(pid) => maps_of_process(*pid)?,
        Namespace::Path(path) => maps_of_file(path)?,
    };
    let own = maps_in("/proc/self".as_ref()).map_err(|error| error.to_string())?;
    for (kind, extents, own) in [("uid", &maps.uids, &own.uids), ("gid", &maps.gids, &own.gids)] {
        if extents.is_empty() {
            return Err(format!(
                "the namespace has no {kind} map yet; whoever made it writes one first (to \
                 /proc/PID/{kind}_map, or with new{kind}map)"
            ));
        }
        for extent in extents {
            is_all_here(kind, *extent, own)?;
        }
    }
    Ok(maps)
}

/// Whether the upper side of an extent, which the kernel translates by its first id alone
/// (`proc_uid_seq_show` in kernel/user_namespace.c), lies in one extent of this namespace's own.
fn is_all_here(kind: &str, extent: RawExtent, own: &[RawExtent]) -> Result<(), String> {
    let RawExtent { lower, upper, count } = extent;
    let covers = |own: &RawExtent| own.lower <= upper && upper - own.lower < own.count;
    let here = own.iter().find(|own| covers(own)).map_or(0, |own| own.count - (upper - own.lower));
    if upper == INVALID || count > here {
        let id = u64::from(lower) + if upper == INVALID { 0 } else { u64::from(here) };
        return Err(format!(
            "{kind} {id} of that namespace has no number in the namespace of this command; run it \
             in the one above (the host's knows all ids)"
        ));
    }
    Ok(())
}

fn maps_of_process(pid: u32) -> Result<NamespaceMaps, String> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let maps = maps_in(&process).map_err(|error| gone(pid, &error))?;
    // The kernel shows the map of one's own namespace in the ids of the one above.
    let same = match File::open(process.join("ns/user")).and_then(|file| identity(&file)) {
        Ok(identity) => own().is_ok_and(|own| own == identity),
        // Others' processes may not be looked at; their map may.
        Err(_) => maps_in("/proc/self".as_ref()).is_ok_and(|own| own == maps),
    };
    Ok(if same { as_seen_inside(maps) } else { maps })
}

fn gone(pid: u32, error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::SRCH) => format!("there is no process {pid}"),
        _ => format!("the map of process {pid} cannot be read: {error}"),
    }
}

/// Every id of the namespace as itself.
fn as_seen_inside(mut maps: NamespaceMaps) -> NamespaceMaps {
    for extent in maps.uids.iter_mut().chain(&mut maps.gids) {
        extent.upper = extent.lower;
    }
    maps
}

/// The maps of a process as they stand in its directory of `/proc`.
pub fn maps_in(process: &Path) -> io::Result<NamespaceMaps> {
    let map = |name: &str| {
        let text = fs::read_to_string(process.join(name))?;
        parse_proc_map(&text).map_err(io::Error::other)
    };
    Ok(NamespaceMaps { uids: map("uid_map")?, gids: map("gid_map")? })
}

fn maps_of_file(path: &Path) -> Result<NamespaceMaps, String> {
    let file = open(path)?;
    if own().ok() == identity(&file).ok() {
        let maps = maps_in("/proc/self".as_ref()).map_err(|error| error.to_string())?;
        return Ok(as_seen_inside(maps));
    }
    maps_behind(path)
}

fn open(path: &Path) -> Result<File, String> {
    let file = File::open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::ACCESS) => {
            "this user may not look at the namespace of that process; give userns:PID, or run it \
             as root"
                .to_owned()
        }
        _ => format!("cannot open it: {error}"),
    })?;
    if nsfs::is_user_namespace(&file) {
        return Ok(file);
    }
    Err("this is no user namespace; give the file ns/user of a process, or what it is bind-mounted \
         on"
    .to_owned())
}

/// The hidden argument of `idshift map` that makes a process enter a namespace.
pub const ENTER: &str = "enter-namespace";

/// The maps of the namespace behind a file, which may have no process: a child of this process
/// enters it, and the child's maps are read from here. It must not be this process's own.
pub fn maps_behind(path: &Path) -> Result<NamespaceMaps, String> {
    let mut guest =
        Guest::start(path).map_err(|error| format!("cannot start a process: {error}"))?;
    guest.wait_until_inside()?;
    let process = PathBuf::from(format!("/proc/{}", guest.0.id()));
    maps_in(&process).map_err(|error| format!("the map of the namespace cannot be read: {error}"))
}

/// A child process in another namespace. It ends with the value, or with this process.
struct Guest(Child);

impl Guest {
    fn start(path: &Path) -> io::Result<Self> {
        Command::new(std::env::current_exe()?)
            .args(["map", ENTER])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }

    /// The child says one line: nothing, or why it could not enter.
    fn wait_until_inside(&mut self) -> Result<(), String> {
        let mut said = Vec::new();
        if let Some(pipe) = &mut self.0.stdout {
            pipe.read_to_end(&mut said).map_err(|error| error.to_string())?;
        }
        match String::from_utf8_lossy(&said).trim_end() {
            INSIDE => Ok(()),
            "" => Err("the process that was to enter the namespace has ended".to_owned()),
            why => Err(why.to_owned()),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The child waits for the end of its stdin.
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

const INSIDE: &str = "inside";

/// The child's side: enters the namespace, says so, and stays until nobody needs it any more.
/// This process must have one thread. Nothing is done in the namespace.
pub fn enter_and_wait(path: &Path) {
    say!("{}", enter(path).err().as_deref().unwrap_or(INSIDE));
    // The parent reads to the end.
    if let Ok(null) = File::options().write(true).open("/dev/null")
        && rustix::stdio::dup2_stdout(null).is_ok()
    {
        io::stdin().read_to_end(&mut Vec::new()).ok();
    }
}

fn enter(path: &Path) -> Result<(), String> {
    let file = open(path)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::User)).map_err(|errno| {
        match errno {
            Errno::PERM => {
                "only root, or the user who made it, may enter the namespace to see its \
                            map; for one with a process in it, userns:PID needs no right"
                    .to_owned()
            }
            errno => format!("cannot enter the namespace to see its map: {errno}"),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn extent(lower: u32, upper: u32, count: u32) -> RawExtent {
        RawExtent { lower, upper, count }
    }

    #[test]
    fn ids_without_a_number_here_are_named() {
        let own = [extent(0, 1000, 1), extent(1, 100_000, 10)];
        assert_eq!(is_all_here("uid", extent(0, 1, 10), &own), Ok(()));
        assert_eq!(is_all_here("uid", extent(5, 0, 1), &own), Ok(()));
        for (wrong, id) in [
            (extent(20, 1, 11), "uid 30 "),
            (extent(20, 0, 2), "uid 21 "),
            (extent(20, 50, 2), "uid 20 "),
            (extent(20, INVALID, 2), "uid 20 "),
        ] {
            let error = is_all_here("uid", wrong, &own).unwrap_err();
            assert!(error.starts_with(id), "{wrong}: {error}");
        }
    }

    #[test]
    fn ones_own_namespace_shows_every_id_as_itself() {
        let by_pid = maps(&Namespace::Pid(std::process::id())).unwrap();
        assert!(by_pid.uids.iter().all(|extent| extent.lower == extent.upper));
        let by_path = maps(&Namespace::Path("/proc/self/ns/user".into())).unwrap();
        assert_eq!(by_pid, by_path);
    }

    #[test]
    fn what_is_no_namespace_is_refused_with_a_reason() {
        let refused = |path: &str| maps(&Namespace::Path(path.into())).unwrap_err();
        assert!(refused("/proc/self/ns/mnt").contains("no user namespace"));
        assert!(refused("/dev/null").contains("no user namespace"));
        assert!(refused("/no such file").contains("cannot open it: No such file"));
        let error = maps(&Namespace::Pid(4_294_967_295)).unwrap_err();
        assert_eq!(error, "there is no process 4294967295");
    }
}
