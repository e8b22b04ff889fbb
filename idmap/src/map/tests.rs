//! Tests of the parent module.
#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use proptest::prelude::*;

use super::*;

fn extent(lower: u32, upper: u32, count: u32) -> Extent<Uid> {
    Extent::from_raw(lower, upper, count).unwrap()
}

fn lower(raw: u32) -> LowerUid {
    LowerUid::new(raw).unwrap()
}

fn upper(raw: u32) -> UpperUid {
    UpperUid::new(raw).unwrap()
}

#[test]
fn borders_of_several_extents() {
    let map = IdMap::new(vec![extent(1000, 0, 1), extent(0, 100, 10), extent(20, 110, 5)]).unwrap();
    for (below, above) in [(1000, 0), (0, 100), (9, 109), (20, 110), (24, 114)] {
        assert_eq!(map.up(lower(below)), Some(upper(above)));
        assert_eq!(map.down(upper(above)), Some(lower(below)));
    }
    for id in [10, 19, 25, 999, 1001, INVALID - 1] {
        assert_eq!(map.up(lower(id)), None);
    }
    for id in [1, 99, 115, INVALID - 1] {
        assert_eq!(map.down(upper(id)), None);
    }
    assert_eq!(map.extents()[0], extent(1000, 0, 1));
}

#[test]
fn the_largest_ids() {
    let last = INVALID - 1;
    let map = IdMap::new(vec![extent(last, 0, 1), extent(0, last, 1)]).unwrap();
    assert_eq!(map.up(lower(last)), Some(upper(0)));
    assert_eq!(map.down(upper(last)), Some(lower(0)));
    assert_eq!(map.up(lower(last - 1)), None);
}

#[test]
fn identity_covers_all_and_is_recognised_in_pieces() {
    let identity = IdMap::<Uid>::identity();
    assert!(identity.is_identity());
    assert_eq!(identity.up(lower(INVALID - 1)), Some(upper(INVALID - 1)));
    let pieces = IdMap::new(vec![extent(5, 5, INVALID - 5), extent(0, 0, 5)]).unwrap();
    assert!(pieces.is_identity());
    assert_ne!(pieces, identity);
    assert_eq!(pieces.merged(), identity.merged());
    let most = IdMap::new(vec![extent(0, 0, INVALID - 1)]).unwrap();
    assert!(!most.is_identity());
    assert!(!IdMap::new(vec![extent(0, 1, INVALID - 1)]).unwrap().is_identity());
}

#[test]
fn no_extents_map_nothing() {
    let map = IdMap::<Gid>::new(Vec::new()).unwrap();
    assert_eq!(map.up(LowerGid::ROOT), None);
    assert_eq!(map.down(UpperGid::ROOT), None);
    assert!(map.is_empty() && !map.is_identity());
}

#[test]
fn overlap_names_both_in_the_order_written_and_the_side() {
    let error = IdMap::new(vec![extent(100, 0, 10), extent(91, 50, 10)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "uid extents 100:0:10 and 91:50:10 overlap: both cover lower (on disk) uid 100"
    );
    let error = IdMap::new(vec![extent(0, 0, 10), extent(20, 9, 1)]).unwrap_err();
    assert!(matches!(error, MapError::Overlap { side: Side::Upper, id: 9, .. }), "{error}");
    // A long one that reaches over its neighbour's neighbour still meets its neighbour.
    assert!(IdMap::new(vec![extent(0, 0, 100), extent(10, 200, 1), extent(20, 300, 1)]).is_err());
}

#[test]
fn impossible_extents() {
    let error = |lower, upper, count| Extent::<Uid>::from_raw(lower, upper, count).unwrap_err();
    assert!(matches!(error(0, 0, 0), MapError::ZeroCount { .. }));
    assert!(matches!(error(INVALID, 0, 1), MapError::InvalidId { side: Side::Lower, .. }));
    assert!(matches!(error(0, INVALID, 1), MapError::InvalidId { side: Side::Upper, .. }));
    assert!(matches!(error(1, 0, INVALID), MapError::PastEnd { side: Side::Lower, .. }));
    assert_eq!(
        error(0, 4_294_967_290, 6).to_string(),
        "extent 0:4294967290:6: its upper (in the mount) ids run to 4294967295, past the last \
         id, 4294967294; the count can be at most 5"
    );
}

/// Extents in a small space, so that they meet each other often.
fn small_extents() -> impl Strategy<Value = Vec<Extent<Uid>>> {
    let one = (0u32..40, 0u32..40, 1u32..8).prop_map(|(l, u, c)| extent(l, u, c));
    prop::collection::vec(one, 0..6)
}

/// What a list of extents says of a lower id, by looking at each.
fn brute(extents: &[Extent<Uid>], id: u32) -> Vec<u32> {
    let hits = extents.iter().map(Extent::raw).filter(|e| id >= e.lower && id - e.lower < e.count);
    hits.map(|e| e.upper + (id - e.lower)).collect()
}

proptest! {
    #[test]
    fn agrees_with_brute_force(extents in small_extents()) {
        let images: Vec<Vec<u32>> = (0..60).map(|id| brute(&extents, id)).collect();
        let mut hit: Vec<u32> = images.concat();
        let total = hit.len();
        hit.sort_unstable();
        hit.dedup();
        let injective = images.iter().all(|image| image.len() <= 1) && hit.len() == total;
        match IdMap::new(extents.clone()) {
            Err(_) => prop_assert!(!injective),
            Ok(map) => {
                prop_assert!(injective);
                prop_assert_eq!(map.extents(), &extents[..]);
                let again = IdMap::new(map.merged()).unwrap();
                for id in 0..60 {
                    let image = images[id as usize].first().map(|&raw| upper(raw));
                    prop_assert_eq!(map.up(lower(id)), image);
                    prop_assert_eq!(again.up(lower(id)), image);
                    if let Some(image) = image {
                        prop_assert_eq!(map.down(image), Some(lower(id)));
                    }
                    if let Some(below) = map.down(upper(id)) {
                        prop_assert_eq!(map.up(below), Some(upper(id)));
                    }
                }
            }
        }
    }

    #[test]
    fn any_numbers_are_judged_without_panic(
        numbers in prop::collection::vec(any::<(u32, u32, u32)>(), 0..5), probe: u32,
    ) {
        let extents: Result<Vec<_>, _> =
            numbers.into_iter().map(|(l, u, c)| Extent::<Uid>::from_raw(l, u, c)).collect();
        if let Ok(map) = extents.and_then(IdMap::new)
            && let Some(id) = LowerUid::new(probe)
            && let Some(above) = map.up(id)
        {
            prop_assert_eq!(map.down(above), Some(id));
        }
    }
}
