//! The worlds, made when first asked for and shared by all trials.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::maps::MapSpec;
use crate::side::Shown;
use crate::storage::Storage;
use crate::world::World;

type Shared<T> = Arc<Mutex<Option<T>>>;

/// Everything that has to be undone at the end.
pub struct Pool {
    shown: [Shown; 2],
    place: tempfile::TempDir,
    storages: Mutex<BTreeMap<&'static str, Result<Arc<Storage>, String>>>,
    worlds: Mutex<BTreeMap<[&'static str; 3], Shared<World>>>,
}

impl Pool {
    pub fn new(shown: [Shown; 2]) -> Self {
        let place = tempfile::tempdir().expect("a directory for mounts");
        // All callers must be able to reach the mounts.
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))
            .expect("its mode");
        Self { shown, place, storages: Mutex::default(), worlds: Mutex::default() }
    }

    /// What stands in for the oracle.
    pub fn shown(&self) -> Shown {
        self.shown[0]
    }

    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Whether this kind of lower file system can be had here.
    pub fn storage(&self, kind: &'static str) -> Result<Arc<Storage>, String> {
        let mut storages = self.storages.lock().unwrap_or_else(PoisonError::into_inner);
        let storage =
            storages.entry(kind).or_insert_with(|| Storage::make(kind, self.place()).map(Arc::new));
        storage.clone()
    }

    /// Does something in the world of this storage, map and options of idshift. A world in which a panic left
    /// something half done is made anew.
    pub fn with<R>(
        &self,
        kind: &'static str,
        map: MapSpec,
        options: &'static str,
        act: impl FnOnce(&mut World) -> R,
    ) -> Result<R, String> {
        let storage = self.storage(kind)?;
        let shared = {
            let mut worlds = self.worlds.lock().unwrap_or_else(PoisonError::into_inner);
            worlds.entry([kind, map.name, options]).or_default().clone()
        };
        let mut world = shared.lock().unwrap_or_else(|poisoned| {
            let mut world = poisoned.into_inner();
            *world = None;
            world
        });
        if world.is_none() {
            *world = Some(World::new(storage, map, options, self.shown, self.place())?);
        }
        let world = world.as_mut().ok_or("made above")?;
        Ok(act(world))
    }

    /// Unmounts everything. Worlds first: their lower trees are on the storages.
    pub fn close(self: Arc<Self>) {
        self.worlds.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.storages.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
