//! A range that nothing uses.

use crate::shift::sources::Range;

/// Where to look, best first; each range is `first..end`.
///
/// Not below 100000, where accounts are (useradd(8), `SUB_UID_MIN` in login.defs(5)), and not from
/// 2^31 on, where programs that take an id for a signed number go wrong. systemd takes 524288 to
/// 1879048191 for containers whose range it chooses itself, also while they do not run (systemd's
/// "Users, Groups, UIDs and GIDs"), so these come last.
const WINDOWS: [(u64, u64); 3] =
    [(100_000, 524_288), (1_879_048_192, 2_147_483_648), (524_288, 1_879_048_192)];

/// Ranges of this size and more start at a multiple of it: then the low 16 bits of an id are the id
/// inside, and the high ones say whose it is.
const BLOCK: u32 = 65_536;

/// The first of `count` neighbouring ids that exist here and are not busy. If there are none, the
/// largest range that is free, if any.
pub fn find(count: u32, busy: &[Range], existing: &[Range]) -> Result<u32, Option<Range>> {
    let gaps = gaps(&merged(busy), &merged(existing), &WINDOWS);
    let align = if count >= BLOCK { BLOCK } else { 1 };
    let fit = |align: u32| gaps.iter().find_map(|gap| start_in(*gap, count, align));
    fit(align).or_else(|| fit(1)).ok_or_else(|| {
        let (first, end) = gaps.iter().copied().max_by_key(|(first, end)| end - first)?;
        Some(Range { first: u32::try_from(first).ok()?, count: u32::try_from(end - first).ok()? })
    })
}

/// The first multiple of `align` from which `count` ids fit into a gap.
fn start_in((first, end): (u64, u64), count: u32, align: u32) -> Option<u32> {
    let start = first.next_multiple_of(align.into());
    (start + u64::from(count) <= end).then(|| u32::try_from(start).ok()).flatten()
}

/// What is left of the windows, in their order: existing and not busy. Both are disjoint and
/// sorted.
fn gaps(busy: &[(u64, u64)], existing: &[(u64, u64)], windows: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    for window in windows {
        for here in existing {
            let (mut at, end) = (window.0.max(here.0), window.1.min(here.1));
            for (first, after) in busy {
                if *first > at && at < end {
                    gaps.push((at, end.min(*first)));
                }
                at = at.max(*after);
            }
            if at < end {
                gaps.push((at, end));
            }
        }
    }
    gaps
}

/// The same ids as sorted ranges `first..end` that are not empty and do not touch.
fn merged(ranges: &[Range]) -> Vec<(u64, u64)> {
    let end = |range: &Range| u64::from(range.first) + u64::from(range.count);
    let some = ranges.iter().filter(|range| range.count > 0);
    let mut sorted: Vec<(u64, u64)> = some.map(|range| (range.first.into(), end(range))).collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, end) in sorted {
        match merged.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((first, end)),
        }
    }
    merged
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Range; 1] = [Range { first: 0, count: u32::MAX }];

    fn range(first: u32, count: u32) -> Range {
        Range { first, count }
    }

    #[test]
    fn blocks_are_aligned_and_small_ranges_are_not() {
        assert_eq!(find(65_536, &[], &ALL), Ok(131_072));
        assert_eq!(find(5, &[], &ALL), Ok(100_000));
        assert_eq!(find(65_536, &[range(131_072, 1), range(0, 5)], &ALL), Ok(196_608));
        // No block has room in the first window, and ten million ids have none there at all.
        assert_eq!(find(65_536, &[range(100_000, 424_288)], &ALL), Ok(1_879_048_192));
        assert_eq!(find(10_000_000, &[], &ALL), Ok(1_879_048_192));
        let last = [range(100_000, 424_288), range(1_879_048_192, 268_435_456)];
        assert_eq!(find(10_000_000, &last, &ALL), Ok(524_288));
    }

    #[test]
    fn a_grant_of_no_ids_takes_none() {
        assert_eq!(find(100, &[range(100_050, 0)], &ALL), Ok(100_000));
    }

    #[test]
    fn what_does_not_fit_aligned_is_given_unaligned() {
        let existing = [range(0, 100_000 + 65_536)];
        assert_eq!(find(65_536, &[], &existing), Ok(100_000));
        assert_eq!(find(65_537, &[], &existing), Err(Some(range(100_000, 65_536))));
        assert_eq!(find(1, &[], &[range(0, 65_536)]), Err(None));
    }

    proptest! {
        #[test]
        fn gaps_are_what_brute_force_says(
            busy in prop::collection::vec((0u32..50, 0u32..10), 0..8),
            existing in prop::collection::vec((0u32..50, 0u32..20), 0..4),
            window in (0u64..30, 30u64..60),
            count in 1u32..8,
            align in 1u32..5,
        ) {
            let ranges = |given: &[(u32, u32)]| -> Vec<Range> {
                given.iter().map(|given| range(given.0, given.1)).collect()
            };
            let holds = |given: &[(u32, u32)], id: u32| {
                given.iter().any(|given| id >= given.0 && id - given.0 < given.1)
            };
            let free = |id: u32| {
                holds(&existing, id) && !holds(&busy, id)
                    && (window.0..window.1).contains(&u64::from(id))
            };
            let gaps = gaps(&merged(&ranges(&busy)), &merged(&ranges(&existing)), &[window]);
            for id in 0..80 {
                let told = gaps.iter().any(|gap| (gap.0..gap.1).contains(&u64::from(id)));
                prop_assert_eq!(told, free(id), "id {}", id);
            }
            let start = gaps.iter().find_map(|gap| start_in(*gap, count, align));
            let wanted = (0..80u32)
                .filter(|start| start % align == 0)
                .find(|start| (*start..start + count).all(free));
            prop_assert_eq!(start, wanted);
        }
    }
}
