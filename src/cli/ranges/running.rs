//! The mounts that run now, in every mount namespace that can be seen. The kernel shows where they are but
//! not their maps: these are asked for, because what they were made from may have changed since.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use crate::cli::status::ask::{Answer, Asking, PATIENCE};
use crate::host::mountinfo;
use crate::host::ranges::{MountClaim, scan::process_ids};
use crate::plain;
use crate::report::{MapPart, Question};
use crate::shift::id::Kind;
use crate::shift::idmap::{Extent, IdMap, Maps};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) mounts: Vec<MountClaim>,
    pub(super) notes: Vec<String>,
}

/// Looks for mounts, and asks their servers.
pub(super) fn mounts() -> Running {
    let mut running = Running::default();
    for Place { seen_by, mount } in places() {
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
struct Place {
    seen_by: Option<u32>,
    mount: mountinfo::Mount,
}

/// Each idshift mount once: a new mount namespace begins with a copy of all mounts.
fn places() -> Vec<Place> {
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
                places.push(Place { seen_by, mount });
            }
        }
    }
    places
}

fn is_of_this_program(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.contains("idshift") || name.starts_with("mount.fuse")
}

/// The process that serves a mount, and its maps.
fn maps(path: &Path, mount: u64) -> Result<(u32, Maps), String> {
    let (pid, uids) = map(path, mount, b'u')?;
    let (_, gids) = map(path, mount, b'g')?;
    Ok((pid, Maps { uids, gids }))
}

fn map<K: Kind>(path: &Path, mount: u64, kind: u8) -> Result<(u32, IdMap<K>), String> {
    let mut extents = Vec::new();
    loop {
        let from = u32::try_from(extents.len()).map_err(|error| error.to_string())?;
        let part = ask(path, mount, &MapPart::question(kind, from))?;
        let MapPart { pid, all, extents: part } = part;
        let is_done = part.is_empty() || extents.len() + part.len() >= all;
        for (lower, upper, count) in part {
            let extent =
                Extent::from_raw(lower, upper, count).map_err(|error| error.to_string())?;
            extents.push(extent);
        }
        if is_done {
            return IdMap::new(extents).map(|map| (pid, map)).map_err(|error| error.to_string());
        }
    }
}

fn ask(path: &Path, mount: u64, question: &[u8]) -> Result<MapPart, String> {
    let answer = Asking::start(path, Question::Map, question)
        .and_then(|mut asking| asking.wait(Instant::now() + PATIENCE))
        .map_err(|error| error.to_string())?;
    match answer {
        Answer::Text(id, _) | Answer::Failed(Some(id), _) if id != mount => {
            Err("another mount covers it".to_owned())
        }
        Answer::Text(_, text) => {
            MapPart::parse(&text).ok_or_else(|| "its server is of another version".to_owned())
        }
        Answer::Hung => Err("its server does not answer".to_owned()),
        Answer::Failed(_, Errno::PERM | Errno::ACCESS) => {
            Err("only root and the user who mounted may ask its server".to_owned())
        }
        Answer::Failed(_, Errno::NOTCONN | Errno::CONNABORTED) => {
            Err("its server has died".to_owned())
        }
        Answer::Failed(_, Errno::INVAL) => Err("its server is of an older version".to_owned()),
        Answer::Failed(_, errno) => Err(errno.to_string()),
    }
}
