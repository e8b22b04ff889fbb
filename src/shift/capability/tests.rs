//! Tests of the parent module.
#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use proptest::prelude::*;

use super::*;
use crate::shift::id::INVALID;
use crate::shift::idmap::{Extent, IdMap};

fn maps(extents: &[(u32, u32, u32)]) -> Maps {
    let extents = extents.iter().map(|&(l, u, c)| Extent::from_raw(l, u, c).unwrap()).collect();
    Maps { uids: IdMap::new(extents).unwrap(), gids: IdMap::identity() }
}

fn shifted() -> Maps {
    maps(&[(0, 100_000, 10)])
}

const BITS: [u8; 16] = *b"0123456789abcdef";

fn v2(flags: u32) -> Vec<u8> {
    [&(REVISION_2 | flags).to_le_bytes()[..], &BITS].concat()
}

fn v3(flags: u32, root: u32) -> Vec<u8> {
    encode(REVISION_3 | flags, BITS, root)
}

#[test]
fn revision_2_counts_for_the_lower_root() {
    assert_eq!(up(&v2(EFFECTIVE), &shifted()), v3(EFFECTIVE, 100_000));
    assert_eq!(up(&v2(0), &maps(&[(5, 5, 1)])), v3(0, INVALID));
    assert_eq!(up(&v2(EFFECTIVE), &maps(&[(0, 0, 1)])), v2(EFFECTIVE));
    assert_eq!(up(&v2(EFFECTIVE), &Maps::identity()), v2(EFFECTIVE));
}

#[test]
fn revision_3_root_is_shifted() {
    assert_eq!(up(&v3(0, 3), &shifted()), v3(0, 100_003));
    assert_eq!(up(&v3(EFFECTIVE, 10), &shifted()), v3(EFFECTIVE, INVALID));
    assert_eq!(up(&v3(0, INVALID), &shifted()), v3(0, INVALID));
    assert_eq!(down(&v3(EFFECTIVE, 100_003), &shifted()), Ok(v3(EFFECTIVE, 3)));
}

#[test]
fn revision_1_keeps_its_bits_and_gets_a_root() {
    let v1 = [&(REVISION_1 | EFFECTIVE).to_le_bytes()[..], &BITS[..8]].concat();
    let mut bits = BITS;
    bits[8..].fill(0);
    assert_eq!(up(&v1, &shifted()), encode(REVISION_3 | EFFECTIVE, bits, 100_000));
    assert_eq!(up(&v1, &Maps::identity()), v1);
    assert_eq!(down(&v1, &shifted()), Err(XattrError::Malformed));
}

#[test]
fn written_as_on_an_idmapped_mount() {
    // Root in the mount is stored as lower uid 7.
    let seven = maps(&[(7, 0, 1)]);
    assert_eq!(down(&v2(EFFECTIVE), &seven), Ok(v3(EFFECTIVE, 7)));
    // Also for root itself revision 3 is stored.
    assert_eq!(down(&v2(0), &maps(&[(0, 0, 1)])), Ok(v3(0, 0)));
    assert_eq!(down(&v3(0, 100_000), &shifted()), Ok(v3(0, 0)));
    // Root of the machine means nothing on a mount that does not show it.
    assert_eq!(down(&v2(0), &shifted()), Err(XattrError::UnmappedId));
    assert_eq!(down(&v3(0, INVALID), &shifted()), Err(XattrError::UnmappedId));
}

#[test]
fn without_a_map_bytes_stay() {
    for value in [v2(1), v3(0, 5), b"junk".to_vec(), Vec::new()] {
        assert_eq!(up(&value, &Maps::identity()), value);
        assert_eq!(down(&value, &Maps::identity()), Ok(value));
    }
}

#[test]
fn other_formats() {
    let maps = shifted();
    for wrong in [
        v2(0)[..19].to_vec(),
        v3(0, 0)[..23].to_vec(),
        [v2(0), vec![0]].concat(),
        [v3(0, 0), vec![0]].concat(),
        encode(REVISION_2, BITS, 0),
        encode(0x0400_0000, BITS, 0),
        vec![0, 0, 0],
    ] {
        assert_eq!(up(&wrong, &maps), wrong);
        assert_eq!(down(&wrong, &maps), Err(XattrError::Malformed));
    }
    // A flag that reading refuses, but exec does not look at: it still must not escape the shift.
    assert_eq!(up(&v2(2), &maps), v3(2, 100_000));
    assert_eq!(down(&v3(2, 100_000), &maps), Err(XattrError::Malformed));
    assert_eq!(down(&[], &maps), Ok(Vec::new()));
}

proptest! {
    #[test]
    fn round_trip(bits: [u8; 16], effective: bool, root in 0u32..12) {
        let flags = u32::from(effective);
        let stored = encode(REVISION_3 | flags, bits, root);
        let seen = up(&stored, &shifted());
        if root < 10 {
            prop_assert_eq!(down(&seen, &shifted()), Ok(stored));
        } else {
            prop_assert_eq!(down(&seen, &shifted()), Err(XattrError::UnmappedId));
        }
    }

    #[test]
    fn nothing_that_exec_honours_passes_unshifted(
        revision in 0u32..5, flags in 0u32..4, rest in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let value = [&((revision << 24) | flags).to_le_bytes()[..], &rest].concat();
        let seen = up(&value, &shifted());
        // `get_vfs_caps_from_disk` honours a revision of its own length only.
        let honoured = matches!((revision, value.len()), (1, SIZE_1) | (2, SIZE_2) | (3, SIZE_3));
        if honoured {
            prop_assert_eq!(seen.len(), SIZE_3);
            let root = u32::from_le_bytes([seen[20], seen[21], seen[22], seen[23]]);
            prop_assert!(root == INVALID || (100_000..100_010).contains(&root));
        } else {
            prop_assert_eq!(seen, value);
        }
    }

    #[test]
    fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..32)) {
        let _seen = up(&value, &shifted());
        if let Ok(stored) = down(&value, &shifted()) {
            prop_assert!(stored.is_empty() || stored.len() == SIZE_3);
        }
    }
}
