//! Which claims have ids in common, and whether that is as it should be.

use crate::host::ranges::{Claim, Holder, UserNamespace};

/// Ids that a claim shares with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// The other claim's place.
    pub with: usize,
    /// The first id that both have.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Whether one has the ids because of the other: a namespace those granted to its owner, or
    /// those of the namespace around it; a mount those that it is made for.
    pub expected: bool,
}

/// For each claim those that it shares ids with. `claims` are sorted by their first id.
///
/// Claims of the host's ids under their own numbers ([`Claim::is_as_on_host`]) take part in none.
pub fn overlaps(claims: &[Claim], namespaces: &[UserNamespace]) -> Vec<Vec<Overlap>> {
    let mut found = vec![Vec::new(); claims.len()];
    for (at, claim) in claims.iter().enumerate() {
        if claim.is_as_on_host() {
            continue;
        }
        let after = claims.iter().enumerate().skip(at + 1);
        for (with, other) in after.take_while(|(_, other)| other.first <= claim.last()) {
            if other.is_as_on_host() || is_one(claim, other) {
                continue;
            }
            let first = other.first;
            let count = claim.last().min(other.last()) - first + 1;
            let expected =
                is_expected(claim, other, namespaces) || is_expected(other, claim, namespaces);
            found[at].push(Overlap { with, first, count, expected });
            found[with].push(Overlap { with: at, first, count, expected });
        }
    }
    found
}

/// Whether both are the same holder's. Its own extents are disjoint; a mount may well store ids
/// that it also shows as others.
fn is_one(one: &Claim, other: &Claim) -> bool {
    match (&one.by, &other.by) {
        (Holder::Namespace { index: a, .. }, Holder::Namespace { index: b, .. })
        | (Holder::Mount { index: a, .. }, Holder::Mount { index: b, .. }) => a == b,
        _ => false,
    }
}

/// Whether `user` has ids of `source` because they are `source`'s.
fn is_expected(user: &Claim, source: &Claim, namespaces: &[UserNamespace]) -> bool {
    let inside = source.first <= user.first && user.last() <= source.last();
    match (&user.by, &source.by) {
        // A mount shifts ids for somebody: an account, a container.
        (Holder::Mount { .. }, _) => true,
        (Holder::Namespace { index, .. }, other) => {
            let namespace = &namespaces[*index];
            match other {
                // A user may map the own id and no other (user_namespaces(7)).
                Holder::Account(_) => user.count == 1,
                // Root's container managers take the ranges of an account of theirs.
                Holder::Grant { uid, .. } => {
                    inside && namespace.owner.is_none_or(|owner| owner == 0 || Some(owner) == *uid)
                }
                Holder::Namespace { index, .. } => match namespaces[*index].identity {
                    Some(around) if namespace.identity.is_some() => {
                        namespace.ancestors.contains(&around)
                    }
                    // It cannot be told which is around which.
                    _ => inside,
                },
                Holder::Mount { .. } => false,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::shift::sources::NamespaceMaps;

    fn namespace(number: u64, owner: u32, ancestors: &[u64]) -> UserNamespace {
        UserNamespace {
            identity: Some((4, number)),
            owner: Some(owner),
            ancestors: ancestors.iter().map(|number| (4, *number)).collect(),
            processes: Vec::new(),
            maps: NamespaceMaps::default(),
        }
    }

    fn claim(first: u32, count: u32, by: Holder) -> Claim {
        Claim { first, count, by }
    }

    fn account(id: u32) -> Claim {
        claim(id, 1, Holder::Account("somebody".to_owned()))
    }

    fn grant(first: u32, count: u32, uid: u32) -> Claim {
        claim(first, count, Holder::Grant { user: uid.to_string(), uid: Some(uid) })
    }

    fn inside(index: usize, inside: u32, first: u32, count: u32) -> Claim {
        claim(first, count, Holder::Namespace { index, inside })
    }

    /// Whether two claims overlap, and as expected.
    fn pair(one: Claim, other: Claim, namespaces: &[UserNamespace]) -> Option<bool> {
        let mut claims = vec![one, other];
        claims.sort_by_key(|claim| claim.first);
        let found = overlaps(&claims, namespaces);
        assert_eq!(found[0].len(), found[1].len());
        found[0].first().map(|overlap| overlap.expected)
    }

    #[test]
    fn what_belongs_together_is_no_clash() {
        let ours = [namespace(1, 1000, &[]), namespace(2, 1000, &[1]), namespace(3, 0, &[])];
        let mine = || grant(100_000, 65_536, 1000);
        assert_eq!(pair(mine(), inside(0, 1, 100_000, 65_536), &ours), Some(true));
        assert_eq!(pair(mine(), inside(2, 0, 100_000, 65_536), &ours), Some(true));
        assert_eq!(pair(account(1000), inside(0, 0, 1000, 1), &ours), Some(true));
        let around = inside(0, 1, 100_000, 65_536);
        assert_eq!(pair(around, inside(1, 0, 100_005, 10), &ours), Some(true));
        let mount = claim(100_000, 65_536, Holder::Mount { index: 0, shown: true });
        assert_eq!(pair(mount, inside(0, 1, 100_000, 65_536), &ours), Some(true));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_one() {
        let ours = [namespace(1, 1000, &[]), namespace(2, 1001, &[])];
        let theirs = || grant(100_000, 65_536, 1001);
        assert_eq!(pair(theirs(), inside(0, 1, 100_000, 65_536), &ours), Some(false));
        assert_eq!(pair(theirs(), grant(165_535, 5, 1000), &ours), Some(false));
        assert_eq!(pair(theirs(), account(100_007), &ours), Some(false));
        assert_eq!(pair(account(1005), inside(0, 0, 1000, 10), &ours), Some(false));
        let both = (inside(0, 0, 100_000, 9), inside(1, 0, 100_005, 9));
        assert_eq!(pair(both.0, both.1, &ours), Some(false));
        // A namespace that reaches past what was granted, even its owner's.
        assert_eq!(pair(theirs(), inside(1, 1, 100_000, 65_537), &ours), Some(false));
        assert_eq!(pair(account(7), account(7), &ours), Some(false));
    }

    #[test]
    fn neighbours_and_the_hosts_own_numbers_share_nothing() {
        let ours = [namespace(1, 1000, &[])];
        assert_eq!(pair(grant(10, 5, 1), grant(15, 5, 2), &ours), None);
        assert_eq!(pair(inside(0, 0, 0, u32::MAX), account(5), &ours), None);
        assert_eq!(pair(inside(0, 0, 10, 1), inside(0, 1, 10, 1), &ours), None);
    }

    #[test]
    fn what_cannot_be_told_counts_as_nested() {
        let mut hidden = [namespace(1, 1000, &[]), namespace(2, 1001, &[])];
        hidden[1].identity = None;
        let around = || inside(0, 0, 100, 50);
        assert_eq!(pair(around(), inside(1, 0, 110, 5), &hidden), Some(true));
        assert_eq!(pair(around(), inside(1, 0, 140, 20), &hidden), Some(false));
    }

    proptest! {
        #[test]
        fn the_ids_are_those_of_both(ranges in prop::collection::vec((0u32..60, 1u32..20), 0..12)) {
            let mut claims: Vec<_> = ranges.iter().map(|r| grant(r.0, r.1, 1)).collect();
            claims.sort_by_key(|claim| claim.first);
            let ids = |at: usize| (claims[at].first..=claims[at].last()).collect::<BTreeSet<_>>();
            let found = overlaps(&claims, &[]);
            for (one, its) in found.iter().enumerate() {
                for other in (0..claims.len()).filter(|other| *other != one) {
                    let common: Vec<_> = ids(one).intersection(&ids(other)).copied().collect();
                    let told: Vec<u32> = its
                        .iter()
                        .filter(|overlap| overlap.with == other)
                        .flat_map(|overlap| overlap.first..overlap.first + overlap.count)
                        .collect();
                    prop_assert_eq!(common, told);
                }
            }
        }
    }
}
