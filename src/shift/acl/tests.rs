//! Tests of the parent module.
#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use proptest::prelude::*;

use super::*;
use crate::shift::id::INVALID;
use crate::shift::idmap::Extent;

/// Lower uid 0.. is shown as 100.., gid 0.. as 200..: ten each.
fn maps() -> Maps {
    Maps {
        uids: IdMap::new(vec![Extent::from_raw(0, 100, 10).unwrap()]).unwrap(),
        gids: IdMap::new(vec![Extent::from_raw(0, 200, 10).unwrap()]).unwrap(),
    }
}

/// As [`maps`], and the placeholder is somebody's.
fn maps_with_the_last_id() -> Maps {
    let mut maps = maps();
    let extents = vec![Extent::from_raw(0, PLACEHOLDER, 1).unwrap()];
    maps.uids = IdMap::new(extents).unwrap();
    maps
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(permissions.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

const USER: u16 = 2;
const GROUP: u16 = 8;
const BASE: [(u16, u16, u32); 4] =
    [(1, 7, INVALID), (4, 5, INVALID), (0x10, 7, INVALID), (0x20, 4, INVALID)];

#[test]
fn named_ids_are_shifted_each_by_its_kind_and_the_others_stay() {
    let stored = acl(&[BASE[0], (USER, 6, 3), BASE[1], (GROUP, 4, 3), BASE[2], BASE[3]]);
    let seen = acl(&[BASE[0], (USER, 6, 103), BASE[1], (GROUP, 4, 203), BASE[2], BASE[3]]);
    assert_eq!(up(&stored, &maps(), Unmapped::Placeholder).unwrap(), seen);
    assert_eq!(down(&seen, &maps()).unwrap(), stored);
}

#[test]
fn an_unmapped_entry_gives_nobody_anything_and_cannot_be_written_back() {
    let stored = acl(&[BASE[0], (USER, 7, 50), BASE[1], (GROUP, 7, INVALID), BASE[2], BASE[3]]);
    let seen = up(&stored, &maps(), Unmapped::Placeholder).unwrap();
    let placeholder =
        acl(&[BASE[0], (USER, 0, PLACEHOLDER), BASE[1], (GROUP, 0, PLACEHOLDER), BASE[2], BASE[3]]);
    assert_eq!(seen, placeholder);
    assert_eq!(down(&seen, &maps()), Err(XattrError::UnmappedId));

    let seen = up(&stored, &maps(), Unmapped::Drop).unwrap();
    assert_eq!(seen, acl(&BASE));
}

#[test]
fn the_placeholder_is_not_used_where_it_is_somebody() {
    let maps = maps_with_the_last_id();
    let stored = acl(&[BASE[0], (USER, 6, 0), (USER, 7, 1), BASE[1], BASE[2], BASE[3]]);
    let seen = acl(&[BASE[0], (USER, 6, PLACEHOLDER), BASE[1], BASE[2], BASE[3]]);
    assert_eq!(up(&stored, &maps, Unmapped::Placeholder).unwrap(), seen);
    assert_eq!(
        down(&seen, &maps).unwrap(),
        acl(&[BASE[0], (USER, 6, 0), BASE[1], BASE[2], BASE[3]])
    );
}

#[test]
fn setting_an_unmapped_or_invalid_id_fails() {
    for (tag, id) in [(USER, 99), (USER, 203), (GROUP, 103), (USER, INVALID), (GROUP, INVALID)] {
        assert_eq!(down(&acl(&[(tag, 7, id)]), &maps()), Err(XattrError::UnmappedId), "{tag} {id}");
    }
}

#[test]
fn broken_values() {
    let maps = maps();
    let good = acl(&BASE);
    for length in 0..good.len() {
        let cut = &good[..length];
        if length == 0 {
            assert_eq!(down(cut, &maps), Ok(Vec::new()), "removal");
        } else if length >= HEADER && (length - HEADER).is_multiple_of(ENTRY) {
            assert_eq!(down(cut, &maps).unwrap(), cut);
        } else {
            assert_eq!(down(cut, &maps), Err(XattrError::Malformed), "{length}");
            assert_eq!(up(cut, &maps, Unmapped::Drop), Err(XattrError::Malformed), "{length}");
        }
    }
    assert_eq!(down(&acl(&[(3, 7, 0)]), &maps), Err(XattrError::Malformed));
    assert_eq!(down(&[1, 0, 0, 0], &maps), Err(XattrError::Version));
    assert_eq!(up(&[1, 0, 0, 0], &maps, Unmapped::Drop), Err(XattrError::Version));
}

fn entries() -> impl Strategy<Value = Vec<(u16, u16, u32)>> {
    let tag = prop::sample::select(vec![1u16, 2, 4, 8, 0x10, 0x20]);
    let id = prop_oneof![0u32..12, Just(PLACEHOLDER), Just(INVALID), any::<u32>()];
    prop::collection::vec((tag, 0u16..8, id), 0..12)
}

proptest! {
    #[test]
    fn round_trip(entries in entries()) {
        let stored = acl(&entries);
        let seen = up(&stored, &maps(), Unmapped::Placeholder).unwrap();
        prop_assert_eq!(seen.len(), stored.len());
        let mapped = |&(tag, _, id): &(u16, u16, u32)| !matches!(tag, USER | GROUP) || id < 10;
        match down(&seen, &maps()) {
            Ok(again) => {
                prop_assert!(entries.iter().all(mapped));
                prop_assert_eq!(&again, &stored);
            }
            Err(error) => {
                prop_assert_eq!(error, XattrError::UnmappedId);
                prop_assert!(!entries.iter().all(mapped));
            }
        }
        // What is left out is exactly what is unmapped.
        let kept: Vec<_> = entries.iter().copied().filter(mapped).collect();
        let seen = up(&stored, &maps(), Unmapped::Drop).unwrap();
        prop_assert_eq!(down(&seen, &maps()).unwrap(), acl(&kept));
    }

    #[test]
    fn what_goes_up_is_always_decodable_by_the_kernel(
        entries in entries(), last_id: bool, placeholder: bool,
    ) {
        let maps = if last_id { maps_with_the_last_id() } else { maps() };
        let choice = if placeholder { Unmapped::Placeholder } else { Unmapped::Drop };
        let seen = up(&acl(&entries), &maps, choice).unwrap();
        for entry in seen[HEADER..].as_chunks::<ENTRY>().0 {
            let tag = u16::from_le_bytes([entry[0], entry[1]]);
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            prop_assert!(!matches!(tag, USER | GROUP) || id != INVALID);
        }
    }

    #[test]
    fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..64), version: bool) {
        let mut value = value;
        if version {
            value.splice(0..0, VERSION.to_le_bytes());
        }
        let _seen = up(&value, &maps(), Unmapped::Placeholder);
        let _stored = down(&value, &maps());
    }
}
