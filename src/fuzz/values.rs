//! What files carry: ACLs, capabilities, owners in attributes, kept bits; and directory records.

use crate::lower::dirents;
use crate::shift::acl::{self, Unmapped};
use crate::shift::capability;
use crate::shift::deny_groups::DenyGroups;
use crate::shift::id::Kind;
use crate::shift::idmap::{Extent, IdMap, Maps};
use crate::shift::ownership::{self, Stored};
use crate::shift::set_id::Shadow;
use crate::shift::unmapped::UnmappedOwners;

/// Maps of several shapes: an offset with holes, the end of all ids, everything.
fn several_maps() -> [Maps; 3] {
    fn map<K: Kind>(extents: &[(u32, u32, u32)]) -> IdMap<K> {
        let extent = |&(lower, upper, count)| Extent::from_raw(lower, upper, count).unwrap();
        IdMap::new(extents.iter().map(extent).collect()).unwrap()
    }
    [
        Maps { uids: map(&[(0, 100_000, 1000), (2000, 5, 1)]), gids: map(&[(0, 7, 1)]) },
        Maps { uids: map(&[(0, u32::MAX - 9, 9)]), gids: IdMap::identity() },
        Maps::identity(),
    ]
}

/// An ACL: no translation makes it longer; what goes up whole comes down as it was; what is cut
/// has no more rights than before.
pub(super) fn acl(input: &[u8]) {
    for maps in several_maps() {
        for unmapped in [Unmapped::Placeholder, Unmapped::Drop] {
            let Ok(shown) = acl::up(input, &maps, unmapped) else { continue };
            assert!(shown.len() <= input.len());
            match acl::down(&shown, &maps) {
                Ok(stored) if shown.len() == input.len() => assert_eq!(stored, input),
                Ok(stored) => assert!(stored.len() < input.len()),
                // An unmapped id, which is stored by nobody.
                Err(_) => assert!(!maps.is_identity() && unmapped == Unmapped::Placeholder),
            }
        }
        if let Ok(stored) = acl::down(input, &maps) {
            assert_eq!(stored.len(), input.len());
        }
    }
    for policy in [DenyGroups::Off, DenyGroups::Group, DenyGroups::All] {
        if let Ok(cut) = policy.acl(input) {
            assert!(no_new_rights(&cut, input));
            assert_eq!(policy.acl(&cut).as_ref(), Ok(&cut), "cutting twice cuts no more");
        }
    }
    if let Ok(cut) = UnmappedOwners::Restrict.acl(input) {
        assert!(cut.len() <= input.len());
    }
}

/// Entry for entry, the permissions of `cut` are among those of `whole`.
fn no_new_rights(cut: &[u8], whole: &[u8]) -> bool {
    let permissions = |value: &[u8]| -> Vec<u16> {
        let entries = value.get(4..).unwrap_or_default().chunks_exact(8);
        entries.map(|entry| u16::from_le_bytes([entry[2], entry[3]])).collect()
    };
    let (cut, whole) = (permissions(cut), permissions(whole));
    cut.len() == whole.len() && cut.iter().zip(&whole).all(|(cut, whole)| cut & !whole == 0)
}

/// File capabilities: of known size after any translation, and back where they came from.
pub(super) fn capability(input: &[u8]) {
    for maps in several_maps() {
        let shown = capability::up(input, &maps);
        assert!(shown.len() <= input.len().max(24));
        let Ok(stored) = capability::down(input, &maps) else { continue };
        assert!(stored.len() <= 24 || maps.uids.is_identity());
        if stored.is_empty() || maps.uids.is_identity() {
            continue;
        }
        let again = capability::down(&capability::up(&stored, &maps), &maps);
        assert_eq!(again.as_ref(), Ok(&stored), "what was stored is shown and stored the same");
    }
}

/// Owners in attributes: what is read is written in a form that reads the same, and short.
pub(super) fn override_stat(input: &[u8]) {
    if let Ok(stored) = Stored::parse(input) {
        let text = stored.to_string();
        assert_eq!(Stored::parse(text.as_bytes()), Ok(stored));
        assert!(text.len() <= ownership::MAX / 2);
        assert_eq!(stored.mode & !0o7777, 0);
    }
    if let Ok(label) = std::str::from_utf8(input)
        && let Some(attribute) = ownership::attribute(Some(label))
    {
        assert!(ownership::is_reserved(attribute.as_bytes()));
        assert!(attribute.len() <= 255);
    }
    let capitals = input.to_ascii_uppercase();
    assert_eq!(ownership::is_reserved(input), ownership::is_reserved(&capitals));
}

/// Kept set-ID bits: exactly one text for each value, and never other bits.
pub(super) fn kept(input: &[u8]) {
    if let Some(shadow) = Shadow::parse(input) {
        assert_eq!(shadow.to_string().as_bytes(), input);
        assert_eq!(shadow.bits & !0o6000, 0);
    }
}

/// Directory records: each is within the bytes and takes some of them.
pub(super) fn dirents(input: &[u8]) {
    let mut rest = input;
    while let Some((dirent, after)) = dirents::parse(rest) {
        assert!(after.len() < rest.len());
        assert!(dirent.name.len() < rest.len() - after.len());
        assert!(!dirent.name.as_encoded_bytes().contains(&0));
        rest = after;
    }
}
