//! One inode that the kernel knows.

use std::ffi::OsStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::stat::Identity;
use super::table::ROOT_ID;

/// An inode: who it is, and how to find it again once its descriptor has been closed.
#[derive(Debug)]
pub struct Inode {
    /// The number by which the kernel calls it.
    pub nodeid: u64,
    /// The lower file that it stands for.
    pub identity: Identity,
    /// Its type, which an identity never changes.
    pub kind: FileType,
    found: Mutex<Found>,
}

/// A name that stands for an inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory's nodeid.
    pub parent: u64,
    /// The name in it.
    pub name: Box<OsStr>,
}

/// Where an inode was last seen, and its handle once that has been asked for.
#[derive(Debug)]
struct Found {
    place: Option<Place>,
    /// Few inodes ever have one: boxed, it takes little room in the others.
    handle: Option<Box<(i32, Box<[u8]>)>>,
}

/// How a descriptor is made again.
#[derive(Debug, Clone)]
pub enum Locator {
    /// The root: its descriptor is always open.
    Root,
    /// From the parent, by the name that it was last seen under; checked against the identity.
    Walk {
        /// The parent directory's nodeid.
        parent: u64,
        /// The name there.
        name: Box<OsStr>,
    },
    /// By file handle, whatever its name is now.
    Handle {
        /// The handle's type.
        kind: i32,
        /// The handle's bytes.
        data: Box<[u8]>,
    },
}

impl Inode {
    /// An inode to be entered in the table.
    pub(super) fn new(nodeid: u64, identity: Identity, kind: FileType, locator: Locator) -> Self {
        let mut found = Found { place: None, handle: None };
        found.add(locator);
        Self { nodeid, identity, kind, found: Mutex::new(found) }
    }

    /// A copy of the present locator: the lock is not held while it is used.
    pub(super) fn locator(&self) -> Locator {
        match &*self.lock() {
            Found { handle: Some(handle), .. } => {
                let (kind, data) = &**handle;
                Locator::Handle { kind: *kind, data: data.clone() }
            }
            Found { place: Some(Place { parent, name }), .. } => {
                Locator::Walk { parent: *parent, name: name.clone() }
            }
            Found { place: None, handle: None } => Locator::Root,
        }
    }

    /// The name that it was last seen under; the root has none.
    pub(super) fn place(&self) -> Option<Place> {
        self.lock().place.clone()
    }

    /// Takes a newer way to find the inode. A handle is never given up for a name. Returns the
    /// name that it was seen under before, if that was another one.
    pub(super) fn relocate(&self, newer: Locator) -> Option<Place> {
        // The root has no name, whatever leads to it.
        if self.nodeid == ROOT_ID { None } else { self.lock().add(newer) }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
}

impl Found {
    fn add(&mut self, newer: Locator) -> Option<Place> {
        match newer {
            Locator::Root => None,
            Locator::Handle { kind, data } => {
                self.handle = Some(Box::new((kind, data)));
                None
            }
            Locator::Walk { parent, name } => {
                let newer = Place { parent, name };
                let same = self.place.as_ref() == Some(&newer);
                if same { None } else { self.place.replace(newer) }
            }
        }
    }
}
