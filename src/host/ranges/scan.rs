//! Finding user namespaces: through their processes, through the namespaces around those, and
//! where their files are bind-mounted. One that only an open file or an idmapped mount keeps alive
//! is not found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::host::mountinfo;
use crate::host::namespaces::{self, Identity};
use crate::host::ranges::UserNamespace;
use crate::shift::sources::NamespaceMaps;
use crate::sys::nsfs;

/// What was found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Those other than this process's own.
    pub namespaces: Vec<UserNamespace>,
    /// What could not be seen, and why.
    pub notes: Vec<String>,
}

/// The ids of all processes that `/proc` shows.
pub fn process_ids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Looks for user namespaces. Processes that end meanwhile are left out. `tell` hears how many have
/// been looked at, of how many.
pub fn scan(tell: &mut dyn FnMut(usize, usize)) -> Scan {
    let mut search = Search { own: namespaces::own().ok(), ..Search::default() };
    let own_maps = namespaces::maps_in("/proc/self".as_ref()).unwrap_or_default();
    let processes = process_ids();
    for (done, pid) in processes.iter().enumerate() {
        tell(done, processes.len());
        search.look_at(*pid, &own_maps);
    }
    search.look_at_mounts();
    search.look_around();
    search.finish()
}

#[derive(Default)]
struct Search {
    own: Option<Identity>,
    known: BTreeMap<Identity, UserNamespace>,
    /// Namespaces of processes that this user may not look at.
    hidden: Vec<UserNamespace>,
    /// Namespaces around others; those with processes are known by the end.
    around: Vec<(Identity, OwnedFd)>,
    notes: Vec<String>,
}

impl Search {
    fn look_at(&mut self, pid: u32, own_maps: &NamespaceMaps) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let name = || {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            (pid, name.trim_end().to_owned())
        };
        let file = match File::open(process.join("ns/user")) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                // Its map may be read all the same, only not whose it is.
                if let Ok(maps) = namespaces::maps_in(&process)
                    && maps != *own_maps
                {
                    self.add_hidden(maps, name());
                }
                return;
            }
            Err(_) => return,
        };
        let Ok(identity) = namespaces::identity(&file) else { return };
        if Some(identity) == self.own {
            return;
        }
        if let Some(known) = self.known.get_mut(&identity) {
            known.processes.push(name());
        } else if let Ok(maps) = namespaces::maps_in(&process) {
            self.add(identity, &file, maps, vec![name()]);
        }
    }

    fn add_hidden(&mut self, maps: NamespaceMaps, process: (u32, String)) {
        match self.hidden.iter_mut().find(|known| known.maps == maps) {
            Some(known) => known.processes.push(process),
            None => self.hidden.push(UserNamespace {
                identity: None,
                owner: None,
                ancestors: Vec::new(),
                processes: vec![process],
                maps,
            }),
        }
    }

    fn add(
        &mut self,
        identity: Identity,
        file: &File,
        maps: NamespaceMaps,
        processes: Vec<(u32, String)>,
    ) {
        let mut ancestors = Vec::new();
        let mut parent = nsfs::parent(file);
        // Ends at this process's own namespace, whose parent is out of reach.
        while let Ok(above) = parent.map(File::from) {
            let Ok(identity) = namespaces::identity(&above) else { break };
            ancestors.push(identity);
            parent = nsfs::parent(&above);
            if Some(identity) != self.own && !self.known.contains_key(&identity) {
                self.around.push((identity, above.into()));
            }
        }
        let owner = nsfs::owner(file).ok();
        let identity_known = Some(identity);
        let namespace =
            UserNamespace { identity: identity_known, owner, ancestors, processes, maps };
        self.known.insert(identity, namespace);
    }

    fn look_at_mounts(&mut self) {
        let Ok(table) = fs::read("/proc/self/mountinfo") else { return };
        for mount in mountinfo::parse(&table) {
            if mount.fs_type == "nsfs" && mount.root.to_string_lossy().starts_with("user:[") {
                let Ok(file) = File::open(&mount.mountpoint) else { continue };
                self.look_behind(&file, &mount.mountpoint);
            }
        }
    }

    fn look_around(&mut self) {
        for (_, file) in std::mem::take(&mut self.around) {
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            self.look_behind(&File::from(file), path.as_ref());
        }
    }

    /// A namespace that was not found through a process.
    fn look_behind(&mut self, file: &File, path: &Path) {
        let Ok(identity) = namespaces::identity(file) else { return };
        if Some(identity) == self.own || self.known.contains_key(&identity) {
            return;
        }
        match namespaces::maps_behind(path) {
            Ok(maps) => self.add(identity, file, maps, Vec::new()),
            Err(why) => {
                let note = format!("user namespace {} has no process, and {why}", identity.1);
                self.notes.push(note);
            }
        }
    }

    fn finish(self) -> Scan {
        let Self { mut notes, hidden, known, .. } = self;
        if !hidden.is_empty() {
            notes.push(
                "some processes may not be looked at by this user: their namespaces are told \
                 apart by their maps alone, and who made them is unknown; root sees more"
                    .to_owned(),
            );
        }
        Scan { namespaces: known.into_values().chain(hidden).collect(), notes }
    }
}
