//! The mounts that run now, in every mount namespace that can be seen. The kernel shows where they are but
//! not their maps: these are asked for, because what they were made from may have changed since.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use crate::cli::status::map::maps;
use crate::host::mountinfo;
use crate::host::ranges::{MountClaim, scan::process_ids};
use crate::plain;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) mounts: Vec<MountClaim>,
    pub(super) notes: Vec<String>,
}

/// Looks for mounts, and asks their servers.
pub(super) fn mounts() -> Running {
    let mut running = Running::default();
    for Seen { seen_by, mount } in places() {
        let path = match seen_by {
            None => mount.mountpoint.clone(),
            Some(pid) => {
                let inside = mount.mountpoint.strip_prefix("/").unwrap_or(&mount.mountpoint);
                PathBuf::from(format!("/proc/{pid}/root")).join(inside)
            }
        };
        match maps(&path, mount.id) {
            Ok((pid, maps)) => {
                // In a container it has another number there.
                let pid = seen_by.filter(|_| !is_of_this_program(pid)).unwrap_or(pid);
                running.mounts.push(MountClaim { mountpoint: mount.mountpoint, pid, maps });
            }
            Err(why) => running.notes.push(format!(
                "the map of the mount at {} cannot be told: {why}",
                plain::path(&mount.mountpoint)
            )),
        }
    }
    running
}

/// A mount, and a process that sees it where this one does not.
struct Seen {
    seen_by: Option<u32>,
    mount: mountinfo::Mount,
}

/// Each idshift mount once: a new mount namespace begins with a copy of all mounts.
fn places() -> Vec<Seen> {
    let mut namespaces = HashSet::new();
    let mut file_systems = HashSet::new();
    let mut places = Vec::new();
    let processes = std::iter::once(None).chain(process_ids().into_iter().map(Some));
    for seen_by in processes {
        let proc = match seen_by {
            None => PathBuf::from("/proc/self"),
            Some(pid) => PathBuf::from(format!("/proc/{pid}")),
        };
        let Ok(namespace) = fs::read_link(proc.join("ns/mnt")) else { continue };
        if !namespaces.insert(namespace) {
            continue;
        }
        let table = fs::read(proc.join("mountinfo")).unwrap_or_default();
        let mounts = mountinfo::parse(&table).into_iter().filter(mountinfo::Mount::is_idshift);
        for mount in mounts {
            if file_systems.insert(mount.device) {
                places.push(Seen { seen_by, mount });
            }
        }
    }
    places
}

fn is_of_this_program(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.contains("idshift") || name.starts_with("mount.fuse")
}
