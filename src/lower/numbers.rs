//! The inode numbers that the mount shows.
//!
//! All that the mount shows is one device to its callers, while what lies below may be several: btrfs
//! subvolumes, submounts, the layers of an overlay. Two files of two devices must not have one
//! number: tar and rsync would take them for one file and copy wrong contents.
//!
//! | lower file | shown number |
//! |---|---|
//! | on the root's device | its own |
//! | on another one | an index of that device from bit 40 on, and its own number below that |
//! | … whose number is 2^40 or more | bit 63, and a hash of index and number |
//!
//! With `submounts` the root's own numbers from 2^40 on are hashed as well, so that they are in
//! nobody's way. Without, what can lie on another device has no such neighbours: a btrfs counts its
//! inodes from 256 on, and an overlay that gives large numbers is one device.
//!
//! An index must be the same after the next mount, when the kernel gives the devices other numbers. A
//! subvolume's is its id, which statx(2) says (Linux 6.10). Others are made of what the file system
//! says of itself (`f_fsid`), which includes its UUID; of an overlay's layer, what its file handles
//! say of the layer; where there is neither, of the path of the mount point.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::FileType;

use super::stat::{Identity, LowerStat};
use crate::sys::handle;

/// Where the index stands in a shown number.
const INDEX_AT: u32 = 40;
/// Indices below are ids of subvolumes, those from here up are hashes.
const HASHED: u64 = 1 << 22;
/// No shown number has another index.
const INDICES: u64 = 1 << 23;
/// Set in a shown number that is a hash.
const IS_HASH: u64 = 1 << 63;

/// Which other devices there may be below.
#[derive(Debug)]
enum Others {
    /// None that anybody would make.
    None,
    /// Subvolumes: a directory may be the root of one.
    Subvolumes,
    /// Mounts: anything may be one.
    Submounts,
    /// The layers of an overlay, if it shows them as devices: then every file that is no directory is
    /// on one of them, so that any tells ([`Layers`]).
    Layers(AtomicU8),
}

/// What is known of an overlay's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    Unknown,
    OneDevice,
    SeveralDevices,
}

/// How the numbers of lower files are shown.
#[derive(Debug)]
pub(super) struct Numbers {
    root: Identity,
    others: Others,
    /// The index of each other device that has been seen, by its `st_dev`.
    indices: RwLock<HashMap<u64, u64>>,
}

impl Numbers {
    /// For a tree with this root, which lies on a file system of this type (`f_type`).
    pub(super) fn new(root: Identity, submounts: bool, fs_type: i64) -> Self {
        let others = match fs_type {
            _ if submounts => Others::Submounts,
            libc::BTRFS_SUPER_MAGIC => Others::Subvolumes,
            libc::OVERLAYFS_SUPER_MAGIC => Others::Layers(AtomicU8::new(Layers::Unknown as u8)),
            _ => Others::None,
        };
        Self { root, others, indices: RwLock::default() }
    }

    /// The number of a file with this stat. `file` is a descriptor of it, and asked for only when its
    /// device has not been seen before.
    pub(super) fn shown<F: AsFd>(&self, stat: &LowerStat, file: impl FnOnce() -> Option<F>) -> u64 {
        let Identity { dev, ino, .. } = stat.identity();
        self.learn_layers(stat);
        if dev == self.root.dev { self.of_root(ino) } else { folded(self.index(stat, file), ino) }
    }

    /// The number of a file that is called `ino` on this device, if that is known.
    pub(super) fn on_device(&self, dev: u64, ino: u64) -> Option<u64> {
        if dev == self.root.dev {
            return Some(self.of_root(ino));
        }
        Some(folded(self.known(dev)?, ino))
    }

    /// Whether a listing does not say the number of an entry of this type, or says the one that
    /// something else has which is mounted there: then the entry itself has to be looked at.
    pub(super) fn must_be_looked_at(&self, kind: FileType) -> bool {
        match &self.others {
            Others::None => false,
            Others::Subvolumes => matches!(kind, FileType::Directory | FileType::Unknown),
            Others::Submounts => true,
            Others::Layers(known) => known.load(Ordering::Relaxed) != Layers::OneDevice as u8,
        }
    }

    /// Gives the mounts below their indices, in the order of their paths: two copies of one file
    /// system say the same of themselves, and the first that is seen has the index.
    pub(super) fn enter_mount(&self, mount: BorrowedFd<'_>, path: &[u8]) {
        let Ok(stat) = LowerStat::of(mount) else { return };
        let dev = stat.identity().dev;
        if dev != self.root.dev && self.known(dev).is_none() {
            let key = key_of(mount).unwrap_or_else(|| hash_bytes(path));
            self.enter(dev, key);
        }
    }

    fn of_root(&self, ino: u64) -> u64 {
        let in_the_way = matches!(self.others, Others::Submounts) && ino >> INDEX_AT != 0;
        if in_the_way { hashed(0, ino) } else { ino }
    }

    fn learn_layers(&self, stat: &LowerStat) {
        let Others::Layers(known) = &self.others else { return };
        if known.load(Ordering::Relaxed) == Layers::Unknown as u8
            && stat.kind() != FileType::Directory
        {
            let one = stat.identity().dev == self.root.dev;
            let learnt = if one { Layers::OneDevice } else { Layers::SeveralDevices };
            known.store(learnt as u8, Ordering::Relaxed);
        }
    }

    fn known(&self, dev: u64) -> Option<u64> {
        self.indices.read().unwrap_or_else(PoisonError::into_inner).get(&dev).copied()
    }

    fn index<F: AsFd>(&self, stat: &LowerStat, file: impl FnOnce() -> Option<F>) -> u64 {
        let dev = stat.identity().dev;
        let known = self.known(dev);
        let direct = matches!(self.others, Others::Subvolumes);
        if let Some(id) = stat.subvolume.filter(|id| direct && (1..HASHED).contains(id)) {
            // The device of a subvolume that was removed may be another one's by now.
            if known != Some(id) {
                self.indices.write().unwrap_or_else(PoisonError::into_inner).insert(dev, id);
            }
            return id;
        }
        // The root of a subvolume may be that of another one than before, for the same reason.
        let may_be_new = direct && stat.identity().ino == BTRFS_ROOT;
        if let Some(index) = known.filter(|_| !may_be_new) {
            return index;
        }
        let key = file().and_then(|file| key_of(file.as_fd()));
        match (key, known) {
            (Some(key), _) => self.enter(dev, key),
            (None, Some(index)) => index,
            (None, None) => self.enter(dev, dev),
        }
    }

    /// The index of a device that is told from others by `key`. No two devices have the same.
    fn enter(&self, dev: u64, key: u64) -> u64 {
        let mut indices = self.indices.write().unwrap_or_else(PoisonError::into_inner);
        let first = HASHED + mix(key) % (INDICES - HASHED);
        if indices.get(&dev) == Some(&first) {
            return first;
        }
        indices.remove(&dev);
        let free = |index: &u64| !indices.values().any(|taken| taken == index);
        let index = (first..INDICES).chain(HASHED..first).find(free).unwrap_or(first);
        indices.insert(dev, index);
        index
    }
}

/// The inode number of each subvolume's root (`BTRFS_FIRST_FREE_OBJECTID`).
const BTRFS_ROOT: u64 = 256;

/// What tells a file system from others, and stays when it is mounted anew; `None` if it says
/// nothing of that kind.
fn key_of(file: BorrowedFd<'_>) -> Option<u64> {
    let layer = handle::layer_of(file).map(|layer| hash_bytes(&layer));
    let id = rustix::fs::fstatvfs(file).ok()?.f_fsid;
    if id == 0 {
        return layer;
    }
    Some(mix(id) ^ layer.unwrap_or(0))
}

fn folded(index: u64, ino: u64) -> u64 {
    if ino >> INDEX_AT == 0 { index << INDEX_AT | ino } else { hashed(index, ino) }
}

fn hashed(index: u64, ino: u64) -> u64 {
    IS_HASH | mix(mix(index) ^ ino)
}

/// Spreads 64 bits, one to one (splitmix64). Not the standard library's, which may be another one
/// with the next release: the numbers must stay.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(mix(bytes.len() as u64), |hash, byte| mix(hash ^ u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: Identity = Identity { mount: 0, dev: 1, ino: 2, born: 0 };

    #[test]
    fn the_roots_numbers_are_shown_as_they_are() {
        for (submounts, ino, shown) in
            [(false, 7, 7), (true, 7, 7), (false, u64::MAX, u64::MAX), (true, 1 << 40, 0)]
        {
            let numbers = Numbers::new(ROOT, submounts, 0);
            let number = numbers.on_device(1, ino);
            assert!(number == Some(shown) || shown == 0 && number.unwrap_or(0) & IS_HASH != 0);
        }
    }

    #[test]
    fn a_device_has_its_index_for_itself_and_at_every_mount() {
        let numbers = Numbers::new(ROOT, true, 0);
        let first = numbers.enter(5, 42);
        let copy = numbers.enter(6, 42);
        assert_ne!(first, copy);
        assert_eq!(numbers.enter(5, 42), first);
        assert_eq!(Numbers::new(ROOT, true, 0).enter(9, 42), first);
        assert_eq!(
            first, 7_040_661,
            "another number for the same tree is another file to a backup"
        );
        assert_eq!(numbers.on_device(5, 3), Some(first << 40 | 3));
        assert_eq!(numbers.on_device(7, 3), None);
    }

    proptest! {
        #[test]
        fn two_files_never_have_one_number(
            a in (1..INDICES, 0..1_u64 << 40), b in (1..INDICES, 0..1_u64 << 40)
        ) {
            let same = folded(a.0, a.1) == folded(b.0, b.1);
            prop_assert_eq!(same, a == b);
            prop_assert!(folded(a.0, a.1) >= 1 << 40 && folded(a.0, a.1) & IS_HASH == 0);
        }
    }
}
