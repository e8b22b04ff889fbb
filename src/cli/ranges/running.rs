//! The mounts that run now. The kernel shows where they are but not their maps, so these are read
//! where they were given: from the command lines of the servers, by this program's own parsers.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use crate::cli;
use crate::cli::mount::Call;
use crate::config::MountFlags;
use crate::host::mountinfo;
use crate::host::ranges::{Mount, scan::process_ids};
use crate::host::sources::Host;
use crate::mount::options::{Options, Origin};
use crate::plain;
use crate::shift::idmap::Maps;
use crate::shift::sources::{Namespace, NamespaceMaps, OwnIds, Sources};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) mounts: Vec<Mount>,
    pub(super) notes: Vec<String>,
}

/// Looks for servers of this program among the processes.
pub(super) fn mounts() -> Running {
    let mut running = Running::default();
    for pid in process_ids() {
        let Some((call, origin)) = call_of(pid) else { continue };
        let Some(mountpoint) = mountpoint_of(pid, &call) else { continue };
        let server = server_of(pid);
        match maps_of(pid, &call, origin) {
            Ok(None) => {}
            Ok(Some(maps)) => {
                let mount = Mount { mountpoint, pid: server, maps };
                // While a mount comes up there are two processes with its command line.
                let is_same = |known: &Mount| {
                    known.mountpoint == mount.mountpoint && known.maps == mount.maps
                };
                if !running.mounts.iter().any(is_same) {
                    running.mounts.push(mount);
                }
            }
            Err(why) => running.notes.push(format!(
                "the map of the mount at {} (process {pid}) cannot be told any more: {why}",
                plain::path(&mountpoint)
            )),
        }
    }
    running
}

/// A server in its sandbox sees no mounts; its keeper does, which is its child and has its command
/// line.
fn server_of(pid: u32) -> u32 {
    let line = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).ok();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = after_name.split_whitespace().nth(1).and_then(|parent| parent.parse().ok());
    parent.filter(|parent| line(*parent).is_some_and(|same| line(pid) == Some(same))).unwrap_or(pid)
}

fn call_of(pid: u32) -> Option<(Call, Origin)> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = line.strip_suffix(&[0])?;
    let args: Vec<OsString> =
        line.split(|byte| *byte == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect();
    let name = Path::new(args.first()?).file_name()?.to_string_lossy().into_owned();
    if name.contains("idshift") { cli::mount_call(&args) } else { None }
}

/// Where the server's mount is, if it is there: as that process sees it, whatever the relative
/// path in its command line was relative to.
fn mountpoint_of(pid: u32, call: &Call) -> Option<PathBuf> {
    let table = fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
    let mut points = mountinfo::parse(&table)
        .into_iter()
        .filter(mountinfo::Mount::is_idshift)
        .map(|mount| mount.mountpoint)
        .collect::<Vec<_>>();
    points.reverse(); // the uppermost first
    let wanted = places(pid).into_iter().map(|place| plain(&place.join(&call.mountpoint)));
    let wanted: Vec<PathBuf> = wanted.collect();
    let exact = points.iter().find(|point| wanted.contains(point));
    let tail = plain(&call.mountpoint);
    exact
        .or_else(|| points.iter().find(|point| !tail.is_absolute() && point.ends_with(&tail)))
        .or_else(|| {
            // A path with symbolic links in it.
            let resolved = mountinfo::resolve_mountpoint(&call.mountpoint).ok()?;
            points.iter().find(|point| call.mountpoint.is_absolute() && **point == resolved)
        })
        .cloned()
}

/// What relative paths may be relative to: a server in the background has left the directory in
/// which it was started.
fn places(pid: u32) -> Vec<PathBuf> {
    let working = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let shell = variables
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"PWD="))
        .map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
    working.into_iter().chain(shell).collect()
}

/// A path without `.` and `..`, as far as letters go.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// The map of a server; `None` if this command makes no mount.
fn maps_of(pid: u32, call: &Call, origin: Origin) -> Result<Option<Maps>, String> {
    let options = Options::parse(&call.options, origin, MountFlags::default());
    let options = options.map_err(|error| error.to_string())?;
    if options.remount || call.fake {
        return Ok(None);
    }
    let specs = [options.maps, call.maps.clone()].concat();
    let sources = Server { places: places(pid) };
    Maps::from_specs(&specs, &sources).map(Some).map_err(|error| error.to_string())
}

/// This machine, with relative paths as the server had them.
struct Server {
    places: Vec<PathBuf>,
}

impl Sources for Server {
    fn file(&self, path: &Path) -> io::Result<String> {
        let there = self.places.iter().find_map(|place| Host.file(&place.join(path)).ok());
        there.map_or_else(|| Host.file(path), Ok)
    }

    fn namespace(&self, namespace: &Namespace) -> Result<NamespaceMaps, String> {
        Host.namespace(namespace)
    }

    fn own_ids(&self, user: &str) -> Result<OwnIds, String> {
        Host.own_ids(user)
    }

    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        Host.uid(name)
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        Host.gid(name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_detours() {
        assert_eq!(plain("/a/./b/../c".as_ref()), Path::new("/a/c"));
        assert_eq!(plain("./mnt".as_ref()), Path::new("mnt"));
        assert_eq!(plain("/..".as_ref()), Path::new("/"));
    }

    #[test]
    fn this_process_is_no_server() {
        assert!(call_of(std::process::id()).is_none());
        assert!(places(std::process::id()).contains(&std::env::current_dir().unwrap()));
    }
}
