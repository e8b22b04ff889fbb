//! Tests of the parent module.
#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::id::{INVALID, Uid};

type Map = IdMap<Uid>;

fn map(extents: &[(u32, u32, u32)]) -> Map {
    IdMap::new(extents.iter().map(|&(l, u, c)| Extent::from_raw(l, u, c).unwrap()).collect())
        .unwrap()
}

fn raw(map: &Map) -> Vec<(u32, u32, u32)> {
    map.extents().iter().map(Extent::raw).map(|e| (e.lower, e.upper, e.count)).collect()
}

/// A map as the set of pairs that it is.
fn pairs(map: &Map) -> BTreeSet<(u32, u32)> {
    let pairs = |e: RawExtent| (0..e.count).map(move |offset| (e.lower + offset, e.upper + offset));
    map.extents().iter().map(Extent::raw).flat_map(pairs).collect()
}

/// What the kernel answers to one line: all its ids in one extent of the parent, or `EPERM`
/// (`map_id_range_down`).
fn kernel_takes(line: RawExtent, parent: &Map) -> bool {
    let (first, last) = (line.upper, line.upper + (line.count - 1));
    let holds = |e: RawExtent, id: u32| e.lower <= id && id - e.lower < e.count;
    parent.extents().iter().map(Extent::raw).any(|e| holds(e, first) && holds(e, last))
}

#[test]
fn the_split_of_the_documentation() {
    let parent = map(&[(0, 1000, 1), (1, 100_000, 65_536)]);
    let split = split(&map(&[(5, 200, 3), (0, 0, 5)]), &parent).unwrap();
    assert_eq!(raw(&split.written()), [(5, 200, 3), (0, 0, 1), (1, 1, 4)]);
    assert!(split.is_split());
    assert_eq!(
        split.to_string(),
        "asked    can be written\n5 200 3  5 200 3\n0 0 5    0 0 1\n         1 1 4\n"
    );
    assert_eq!(
        split.exact().unwrap_err().to_string(),
        "uid extent 0 0 5 lies in 2 extents of the parent namespace; the kernel takes it only in \
         that many lines"
    );
}

#[test]
fn what_fits_is_not_split() {
    let parent = map(&[(0, 1000, 1), (1, 100_000, 65_536)]);
    let split = split(&map(&[(0, 1, 100)]), &parent).unwrap();
    assert!(!split.is_split());
    assert_eq!(raw(&split.exact().unwrap()), [(0, 1, 100)]);
}

#[test]
fn extents_of_the_parent_that_continue_each_other_are_still_two() {
    let parent = map(&[(0, 1000, 5), (5, 1005, 5)]);
    let split = split(&map(&[(0, 0, 10)]), &parent).unwrap();
    assert_eq!(raw(&split.written()), [(0, 0, 5), (5, 5, 5)]);
}

#[test]
fn an_id_that_the_parent_lacks_is_named() {
    let parent = map(&[(0, 1000, 1), (2, 100_000, 10)]);
    let error = split(&map(&[(50, 0, 5)]), &parent).unwrap_err();
    assert_eq!(error.to_string(), "extent 50 0 5: the parent namespace does not map uid 1");
    assert!(split(&map(&[(0, 11, 2)]), &parent).is_err());
    assert!(split(&map(&[(0, 0, 1)]), &map(&[])).is_err());
}

#[test]
fn ids_at_the_end() {
    let whole = Map::identity();
    assert_eq!(compose(&whole, &whole), whole);
    assert_eq!(subtract(&whole, &whole), map(&[]));
    let last = INVALID - 1;
    assert_eq!(raw(&subtract(&whole, &map(&[(last, last, 1)]))), [(0, 0, last)]);
    assert_eq!(raw(&subtract(&whole, &map(&[(7, 7, 1)]))), [(0, 0, 7), (8, 8, INVALID - 8)]);
    assert!(!split(&whole, &whole).unwrap().is_split());
}

#[test]
fn text_for_proc_and_its_limits() {
    assert_eq!(
        proc_text(&map(&[(0, 100_000, 65_536), (70_000, 5, 1)]), 4096).unwrap(),
        "0 100000 65536\n70000 5 1\n"
    );
    assert_eq!(proc_text(&map(&[]), 4096), Err(MapError::Empty));
    let many = |count: u32| map(&(0..count).map(|i| (2 * i, 2 * i, 1)).collect::<Vec<_>>());
    assert!(proc_text(&many(340), 65_536).is_ok());
    assert!(matches!(proc_text(&many(341), 65_536), Err(MapError::KernelLimit { lines: 341, .. })));
    let text = proc_text(&many(200), 4096).unwrap();
    assert!(proc_text(&many(200), text.len() + 1).is_ok());
    let error = proc_text(&many(200), text.len()).unwrap_err().to_string();
    assert!(error.contains("200 lines") && error.contains("at most 340"), "{error}");
}

/// Injective maps of a small space, neighbours and swaps included.
fn small() -> impl Strategy<Value = Map> {
    let extent = (0u32..40, 0u32..40, 1u32..10);
    prop::collection::vec(extent, 0..8).prop_map(|candidates| {
        let mut extents = Vec::new();
        for (l, u, c) in candidates {
            extents.push(Extent::from_raw(l, u, c).unwrap());
            if IdMap::<Uid>::new(extents.clone()).is_err() {
                extents.pop();
            }
        }
        IdMap::new(extents).unwrap()
    })
}

proptest! {
    #[test]
    fn agrees_with_sets_of_pairs(one in small(), other in small()) {
        let (a, b) = (pairs(&one), pairs(&other));
        let inverse: BTreeSet<_> = a.iter().map(|&(l, u)| (u, l)).collect();
        let through: BTreeSet<_> = a
            .iter()
            .flat_map(|&(l, m)| b.iter().filter(move |pair| pair.0 == m).map(move |&(_, u)| (l, u)))
            .collect();
        prop_assert_eq!(pairs(&invert(&one)), inverse);
        prop_assert_eq!(pairs(&compose(&one, &other)), through);
        prop_assert_eq!(pairs(&intersect(&one, &other)), a.intersection(&b).copied().collect());
        prop_assert_eq!(pairs(&subtract(&one, &other)), a.difference(&b).copied().collect());
    }

    #[test]
    fn results_are_maps(one in small(), other in small()) {
        for result in [
            invert(&one), compose(&one, &other), intersect(&one, &other), subtract(&one, &other),
        ] {
            let checked: Result<Vec<_>, _> = raw(&result)
                .into_iter()
                .map(|(l, u, c)| Extent::<Uid>::from_raw(l, u, c))
                .collect();
            prop_assert_eq!(IdMap::new(checked.unwrap()).unwrap(), result);
        }
    }

    #[test]
    fn there_and_back(one in small()) {
        prop_assert_eq!(&invert(&invert(&one)), &one);
        let kept: BTreeSet<_> = pairs(&one).iter().map(|&(l, _)| (l, l)).collect();
        prop_assert_eq!(pairs(&compose(&one, &invert(&one))), kept);
    }

    #[test]
    fn splitting_is_what_the_kernel_asks_for(wanted in small(), parent in small()) {
        let parent_ids: BTreeSet<u32> = pairs(&parent).iter().map(|&(inside, _)| inside).collect();
        let first_missing = wanted.extents().iter().map(Extent::raw).find_map(|e| {
            (e.upper..e.upper + e.count).find(|id| !parent_ids.contains(id))
        });
        match split(&wanted, &parent) {
            Err(MapError::NotInParent { id, .. }) => prop_assert_eq!(Some(id), first_missing),
            Err(error) => prop_assert!(false, "{error}"),
            Ok(split) => {
                prop_assert_eq!(first_missing, None);
                // The same pairs, in lines that the kernel takes.
                prop_assert_eq!(pairs(&split.written()), pairs(&wanted));
                for (asked, lines) in split.parts() {
                    let mut next = asked.raw();
                    for line in lines.iter().map(Extent::raw) {
                        prop_assert!(kernel_takes(line, &parent));
                        // In order, and none that the one before could have taken.
                        prop_assert_eq!((line.lower, line.upper), (next.lower, next.upper));
                        let longer = RawExtent { count: line.count + 1, ..line };
                        prop_assert!(line.count == next.count || !kernel_takes(longer, &parent));
                        next.lower += line.count;
                        next.upper += line.count;
                        next.count -= line.count;
                    }
                    prop_assert_eq!(next.count, 0);
                }
                let fits = wanted.extents().iter().all(|e| kernel_takes(e.raw(), &parent));
                prop_assert_eq!(split.is_split(), !fits);
                match split.exact() {
                    Ok(exact) => prop_assert_eq!(exact, wanted),
                    Err(_) => prop_assert!(!fits),
                }
            }
        }
    }

    #[test]
    fn maps_of_any_size(numbers in prop::collection::vec(any::<(u32, u32, u32)>(), 2)) {
        let one = |&(lower, upper, count): &(u32, u32, u32)| {
            let extent = Extent::<Uid>::from_raw(lower, upper, count);
            extent.and_then(|extent| IdMap::new(vec![extent]))
        };
        if let (Ok(a), Ok(b)) = (one(&numbers[0]), one(&numbers[1])) {
            let both = intersect(&a, &b);
            let rest = subtract(&a, &b);
            let count = |map: &Map| map.extents().iter().map(|e| u64::from(e.count())).sum::<u64>();
            prop_assert_eq!(count(&both) + count(&rest), count(&a));
            prop_assert!(count(&compose(&a, &b)) <= count(&a).min(count(&b)));
            let _split = split(&a, &b);
        }
    }
}
