//! Ids outside the map that callers bring along: whose a new file is (`creators=`), and what a change
//! of owner to such an id stores (`chown=`). `owned-by=` is both, with everything else that
//! makes a tree one person's.
//!
//! What must stay true: nothing is stored with an id that neither the map nor the option names; whoever
//! makes a file as somebody else makes no set-ID program and no device of it; ids inside the map are
//! stored as ever.

use crate::shift::id::{Id, Lower, Upper};
use crate::shift::idmap::IdMap;

/// What a caller outside the map makes (`creators=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Creators {
    /// Nothing, as on the kernel's idmapped mount.
    #[default]
    Refuse,
    /// Files of the ids that own what is unmapped (`unmapped=squash`).
    Squash,
}

/// What a change of owner to an id outside the map does (`chown=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignOwners {
    /// It fails, as on the kernel's idmapped mount.
    #[default]
    Refuse,
    /// It succeeds, and the owner stays.
    Ignore,
}

/// The id of a new file, of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Born<I> {
    /// The caller's own.
    Own(I),
    /// The one that stands in for a caller outside the map.
    Squashed(I),
}

impl<I: Copy> Born<I> {
    /// As it is stored.
    pub fn id(self) -> I {
        match self {
            Born::Own(id) | Born::Squashed(id) => id,
        }
    }

    /// Whether it is somebody else's than the caller's.
    pub fn is_squashed(self) -> bool {
        matches!(self, Born::Squashed(_))
    }
}

impl Creators {
    /// The stored id of what a caller makes: `caller` is the caller's id, `stand_in` the one that owns
    /// what is unmapped. `None` if the caller makes nothing.
    pub fn born<K>(
        self,
        map: &IdMap<K>,
        caller: Option<Id<K, Upper>>,
        stand_in: Option<Id<K, Upper>>,
    ) -> Option<Born<Id<K, Lower>>> {
        let down = |id: Option<Id<K, Upper>>| id.and_then(|id| map.down(id));
        match self {
            Creators::Refuse => down(caller).map(Born::Own),
            Creators::Squash => {
                down(caller).map(Born::Own).or_else(|| down(stand_in).map(Born::Squashed))
            }
        }
    }
}

/// An id that the map does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside;

impl ForeignOwners {
    /// The id to store when a file's owner is changed to `asked`; `None` leaves the one that is there.
    /// `present` is the stored one, and `stand_in` what is shown in place of unmapped ones: a file
    /// that is shown as `asked` already stays whose it is.
    pub fn stores<K>(
        self,
        map: &IdMap<K>,
        asked: Option<Id<K, Upper>>,
        present: Option<Id<K, Lower>>,
        stand_in: Option<Id<K, Upper>>,
    ) -> Result<Option<Id<K, Lower>>, Outside> {
        let down = asked.and_then(|id| map.down(id));
        match self {
            ForeignOwners::Refuse => down.map(Some).ok_or(Outside),
            ForeignOwners::Ignore => {
                let unmapped = present.is_none_or(|id| map.up(id).is_none());
                let shown_so = unmapped && asked.is_some() && asked == stand_in;
                Ok(down.filter(|_| !shown_so))
            }
        }
    }
}

const S_IFMT: u32 = 0o170_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Whether a node may be made of this mode and device number where no devices are to be: all but
/// devices, and the whiteout of overlays (0:0), which opens nothing.
pub fn is_harmless_node(mode: u32, device: u64) -> bool {
    match mode & S_IFMT {
        S_IFCHR => device == 0,
        S_IFBLK => false,
        _ => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::shift::id::Uid;
    use crate::shift::idmap::Extent;
    use proptest::prelude::*;

    /// Stored 20 is shown as 1000, 21 as 1001.
    fn map() -> IdMap<Uid> {
        IdMap::new(vec![Extent::from_raw(20, 1000, 2).unwrap()]).unwrap()
    }

    fn up(raw: u32) -> Option<Id<Uid, Upper>> {
        Id::new(raw)
    }

    fn low(raw: u32) -> Option<Id<Uid, Lower>> {
        Id::new(raw)
    }

    #[test]
    fn truth_table_of_creators() {
        use Born::{Own, Squashed};
        let own = |raw| low(raw).map(Own);
        let squashed = |raw| low(raw).map(Squashed);
        let none = None;
        for (policy, caller, stand_in, born) in [
            (Creators::Refuse, up(1000), None, own(20)),
            (Creators::Refuse, up(1001), up(1000), own(21)),
            (Creators::Refuse, up(0), up(1000), none),
            (Creators::Refuse, up(20), up(1000), none), // a stored number means nothing above
            (Creators::Refuse, None, up(1000), none),
            (Creators::Squash, up(1000), up(1000), own(20)),
            (Creators::Squash, up(1001), up(1000), own(21)),
            (Creators::Squash, up(0), up(1000), squashed(20)),
            (Creators::Squash, up(20), up(1001), squashed(21)),
            (Creators::Squash, up(65_534), up(1000), squashed(20)),
            (Creators::Squash, None, up(1000), squashed(20)),
            (Creators::Squash, up(0), None, none),
            (Creators::Squash, up(0), up(5), none), // not in the map itself
        ] {
            assert_eq!(policy.born(&map(), caller, stand_in), born, "{policy:?} {caller:?}");
        }
    }

    #[test]
    fn truth_table_of_foreign_owners() {
        let keeps = Ok(None);
        let stores = |raw| Ok(low(raw));
        for (policy, asked, present, stand_in, stored) in [
            (ForeignOwners::Refuse, up(1001), low(20), None, stores(21)),
            (ForeignOwners::Refuse, up(1000), low(7), up(1000), stores(20)),
            (ForeignOwners::Refuse, up(33), low(20), None, Err(Outside)),
            (ForeignOwners::Refuse, up(33), low(7), up(1000), Err(Outside)),
            (ForeignOwners::Refuse, None, low(20), None, Err(Outside)),
            // Ids inside the map are stored as ever.
            (ForeignOwners::Ignore, up(1001), low(20), None, stores(21)),
            (ForeignOwners::Ignore, up(1001), low(20), up(1000), stores(21)),
            (ForeignOwners::Ignore, up(1000), low(20), up(1000), stores(20)),
            (ForeignOwners::Ignore, up(1000), low(21), up(1000), stores(20)),
            (ForeignOwners::Ignore, up(1001), low(7), up(1000), stores(21)),
            (ForeignOwners::Ignore, up(1000), low(7), None, stores(20)),
            // Others leave the owner.
            (ForeignOwners::Ignore, up(33), low(20), None, keeps),
            (ForeignOwners::Ignore, up(33), low(7), up(1000), keeps),
            (ForeignOwners::Ignore, up(20), low(21), up(1000), keeps),
            (ForeignOwners::Ignore, up(65_534), low(7), None, keeps),
            (ForeignOwners::Ignore, None, low(20), up(1000), keeps),
            // It is shown so already.
            (ForeignOwners::Ignore, up(1000), low(7), up(1000), keeps),
            (ForeignOwners::Ignore, up(1000), None, up(1000), keeps),
        ] {
            let result = policy.stores(&map(), asked, present, stand_in);
            assert_eq!(result, stored, "{policy:?} {asked:?} over {present:?}");
        }
    }

    #[test]
    fn truth_table_of_nodes() {
        for (mode, device, harmless) in [
            (0o100_644, 0, true),
            (0o010_644, 0, true),
            (0o140_755, 0, true),
            (0o020_600, 0, true),
            (0o020_600, 0x0103, false),
            (0o060_600, 0x0801, false),
            (0o060_600, 0, false),
        ] {
            assert_eq!(is_harmless_node(mode, device), harmless, "{mode:o} {device:#x}");
        }
    }

    proptest! {
        /// Whoever asks for what: what is stored is an id that the map names.
        #[test]
        fn nothing_is_stored_that_the_map_does_not_name(
            caller: u32, stand_in: u32, present: u32, squash: bool, ignore: bool,
        ) {
            let (caller, stand_in, present) = (up(caller), up(stand_in), low(present));
            let named = |id: Id<Uid, Lower>| map().up(id).is_some();
            let creators = if squash { Creators::Squash } else { Creators::Refuse };
            let born = creators.born(&map(), caller, stand_in);
            prop_assert!(born.is_none_or(|born| named(born.id())));
            let foreign = if ignore { ForeignOwners::Ignore } else { ForeignOwners::Refuse };
            let stored = foreign.stores(&map(), caller, present, stand_in).ok().flatten();
            prop_assert!(stored.is_none_or(named));
        }
    }
}
