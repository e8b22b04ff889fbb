//! Printing ranges: as a table, as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::host::ranges::overlap::{Overlap, overlaps};
use crate::host::ranges::{Claim, Holder, Ranges, UserNamespace};
use crate::plain;

/// How many names of a row, and how many clashes, are told one by one.
const MOST: usize = 4;

/// Prints what could not be seen; to stderr, so that the output stays what was asked for.
pub(super) fn notes(notes: &[String]) {
    for note in notes {
        complain!("idshift: {}", plain::line(note));
    }
}

/// The whole as tables.
pub(super) fn text(ranges: &Ranges) -> String {
    let mut text = String::new();
    let mut clashes = 0;
    for (kind, claims) in [("uids", &ranges.uids), ("gids", &ranges.gids)] {
        text.extend([kind, "\n"]);
        clashes += table(&mut text, ranges, claims, kind);
        text.push('\n');
    }
    text.push_str(if clashes == 0 {
        "No ids are used by two who should not share them.\n"
    } else {
        "! marks ids that two have, neither because of the other.\n"
    });
    notes(&ranges.notes);
    text
}

/// Neighbouring rows that are told in one line: claims to the same ids in the same way, or accounts
/// one after the other that share their ids with nobody.
struct Group {
    /// The places of the claims.
    claims: std::ops::Range<usize>,
    first: u32,
    last: u32,
}

fn groups(claims: &[Claim], found: &[Vec<Overlap>]) -> Vec<Group> {
    let clashes = |at: usize| found[at].iter().any(|overlap| !overlap.expected);
    let mut groups: Vec<Group> = Vec::new();
    for (at, claim) in claims.iter().enumerate() {
        if let Some(group) = groups.last_mut() {
            let before = &claims[group.claims.start];
            let is_same = (before.first, before.count) == (claim.first, claim.count)
                && !matches!(claim.by, Holder::Account(_) | Holder::Grant { .. });
            let follows = matches!(claim.by, Holder::Account(_))
                && group.last.checked_add(1) == Some(claim.first)
                && !clashes(at)
                && !clashes(at - 1);
            if before.by.is_like(&claim.by) && (is_same || follows) {
                group.claims.end = at + 1;
                group.last = claim.last();
                continue;
            }
        }
        groups.push(Group { claims: at..at + 1, first: claim.first, last: claim.last() });
    }
    groups
}

/// One kind. Returns how many rows are marked.
fn table(text: &mut String, ranges: &Ranges, claims: &[Claim], kind: &str) -> usize {
    let found = overlaps(claims, &ranges.namespaces);
    let groups = groups(claims, &found);
    let mut marked = 0;
    for group in &groups {
        let clashes = clashes(group, &groups, &found);
        marked += usize::from(!clashes.is_empty());
        let mark = if clashes.is_empty() { ' ' } else { '!' };
        let ids = span(group.first, group.last);
        let count = u64::from(group.last) - u64::from(group.first) + 1;
        let members: Vec<usize> = group.claims.clone().collect();
        // Writing to a string cannot fail.
        writeln!(text, "{mark} {ids:21} {count:>10}  {}", who(ranges, claims, &members, kind)).ok();
        for clash in clashes.iter().take(MOST) {
            let other = if std::ptr::eq(clash.group, group) {
                "each other".to_owned()
            } else {
                who(ranges, claims, &clash.with, kind)
            };
            writeln!(text, "{:38}OVERLAPS {other}: {}", "", clash.ids).ok();
        }
        if clashes.len() > MOST {
            writeln!(text, "{:38}and {} more", "", clashes.len() - MOST).ok();
        }
    }
    marked
}

/// Claims of another row that one clashes with.
struct Clash<'a> {
    group: &'a Group,
    /// The places of those claims.
    with: Vec<usize>,
    /// The ids that both have.
    ids: String,
}

/// What the claims of a row clash with, row by row.
fn clashes<'a>(group: &Group, groups: &'a [Group], found: &[Vec<Overlap>]) -> Vec<Clash<'a>> {
    let mut clashes: Vec<Clash<'a>> = Vec::new();
    let overlaps = found[group.claims.clone()].iter().flatten();
    for overlap in overlaps.filter(|overlap| !overlap.expected) {
        let with = &groups[groups.partition_point(|group| group.claims.end <= overlap.with)];
        match clashes.iter_mut().find(|known| std::ptr::eq(known.group, with)) {
            Some(known) if known.with.contains(&overlap.with) => {}
            Some(known) => known.with.push(overlap.with),
            None => {
                let last = overlap.first + (overlap.count - 1);
                let ids = span(overlap.first, last);
                clashes.push(Clash { group: with, with: vec![overlap.with], ids });
            }
        }
    }
    clashes
}

fn span(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}–{last}") }
}

/// Who has the ids of some claims of one row.
fn who(ranges: &Ranges, claims: &[Claim], members: &[usize], kind: &str) -> String {
    let is_uid = kind == "uids";
    let claim = &claims[members[0]];
    let names: Vec<String> = members
        .iter()
        .take(MOST)
        .map(|at| match &claims[*at].by {
            Holder::Account(name) => name.clone(),
            Holder::Grant { user, .. } => user.clone(),
            Holder::Namespace { index, .. } => name(&ranges.namespaces[*index]),
            Holder::Mount { index, .. } => {
                let mount = &ranges.mounts[*index];
                format!("{} (process {})", plain::path(&mount.mountpoint), mount.pid)
            }
        })
        .collect();
    let more = match members.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names.join(", ") + &more;
    let plural = if members.len() == 1 { "" } else { "s" };
    match &claim.by {
        Holder::Account(_) if is_uid => format!("account{plural} {names}"),
        Holder::Account(_) => format!("group{plural} {names}"),
        Holder::Grant { .. } if is_uid => format!("granted to {names} (/etc/subuid)"),
        Holder::Grant { .. } => format!("granted to {names} (/etc/subgid)"),
        Holder::Namespace { .. } if claim.is_as_on_host() => {
            format!("user namespace{plural} {names}: inside as on the host")
        }
        Holder::Namespace { inside, .. } => {
            let inside = span(*inside, inside.saturating_add(claim.count - 1));
            format!("user namespace{plural} {names}: inside {inside}")
        }
        Holder::Mount { shown: true, .. } => format!("shown by the mount{plural} {names}"),
        Holder::Mount { shown: false, .. } => format!("stored by the mount{plural} {names}"),
    }
}

/// `4026532290 (podman 123 and 2 more)`.
fn name(namespace: &UserNamespace) -> String {
    let number = namespace.identity.map_or_else(|| "?".to_owned(), |id| id.1.to_string());
    match namespace.processes.as_slice() {
        [] => format!("{number} (no process)"),
        [(pid, name)] => format!("{number} ({name} {pid})"),
        [(pid, name), more @ ..] => format!("{number} ({name} {pid} and {} more)", more.len()),
    }
}

/// The whole, as JSON.
#[derive(Serialize)]
pub(super) struct Listed<'a> {
    uids: Vec<Row<'a>>,
    gids: Vec<Row<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    first: u32,
    last: u32,
    count: u32,
    #[serde(flatten)]
    by: Use<'a>,
    overlaps: Vec<Shared>,
}

/// Who has the ids.
#[derive(Serialize)]
#[serde(tag = "use", rename_all = "lowercase")]
enum Use<'a> {
    Account {
        name: &'a str,
    },
    Group {
        name: &'a str,
    },
    Grant {
        name: &'a str,
        uid: Option<u32>,
    },
    Namespace {
        namespace: Option<u64>,
        inside: u32,
        as_on_host: bool,
        owner: Option<u32>,
        pids: Vec<u32>,
    },
    Mount {
        mountpoint: String,
        side: &'static str,
        pid: u32,
    },
}

#[derive(Serialize)]
struct Shared {
    /// The place of the other row in the same list.
    with: usize,
    first: u32,
    last: u32,
    expected: bool,
}

impl<'a> From<&'a Ranges> for Listed<'a> {
    fn from(ranges: &'a Ranges) -> Self {
        let rows = |claims: &'a [Claim], of_users| {
            let found = overlaps(claims, &ranges.namespaces);
            let rows = claims.iter().zip(&found);
            rows.map(|(claim, shared)| Row::new(ranges, claim, shared, of_users)).collect()
        };
        let (uids, gids) = (rows(&ranges.uids, true), rows(&ranges.gids, false));
        Self { uids, gids, notes: &ranges.notes }
    }
}

impl<'a> Row<'a> {
    fn new(ranges: &'a Ranges, claim: &'a Claim, shared: &[Overlap], of_users: bool) -> Self {
        let by = match &claim.by {
            Holder::Account(name) if of_users => Use::Account { name },
            Holder::Account(name) => Use::Group { name },
            Holder::Grant { user, uid } => Use::Grant { name: user, uid: *uid },
            Holder::Namespace { index, inside } => {
                let namespace = &ranges.namespaces[*index];
                Use::Namespace {
                    namespace: namespace.identity.map(|id| id.1),
                    inside: *inside,
                    as_on_host: claim.is_as_on_host(),
                    owner: namespace.owner,
                    pids: namespace.processes.iter().map(|(pid, _)| *pid).collect(),
                }
            }
            Holder::Mount { index, shown } => Use::Mount {
                mountpoint: ranges.mounts[*index].mountpoint.to_string_lossy().into_owned(),
                side: if *shown { "shown" } else { "stored" },
                pid: ranges.mounts[*index].pid,
            },
        };
        let overlaps = shared.iter().map(|overlap| Shared {
            with: overlap.with,
            first: overlap.first,
            last: overlap.first + (overlap.count - 1),
            expected: overlap.expected,
        });
        let (first, last, count) = (claim.first, claim.last(), claim.count);
        Self { first, last, count, by, overlaps: overlaps.collect() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;
    use crate::shift::sources::NamespaceMaps;

    fn example() -> Ranges {
        let claim = |first, count, by| Claim { first, count, by };
        let account = |id, name: &str| claim(id, 1, Holder::Account(name.to_owned()));
        let grant = |first, count, user: &str| {
            claim(first, count, Holder::Grant { user: user.to_owned(), uid: None })
        };
        let inside = |index| claim(200_000, 10, Holder::Namespace { index, inside: 0 });
        let namespace = |number, name: &str| UserNamespace {
            identity: Some((4, number)),
            owner: Some(0),
            ancestors: Vec::new(),
            processes: vec![(7, name.to_owned()), (8, name.to_owned())],
            maps: NamespaceMaps::default(),
        };
        Ranges {
            uids: vec![
                account(0, "root"),
                account(1, "daemon"),
                account(1000, "ann"),
                grant(100_000, 10, "ann"),
                grant(100_005, 10, "bob"),
                inside(0),
                inside(1),
            ],
            namespaces: vec![namespace(11, "a"), namespace(12, "b")],
            ..Ranges::default()
        }
    }

    #[test]
    fn rows_that_belong_together_are_one_and_clashes_are_marked() {
        let text = text(&example());
        let expected = "\
uids
  0–1                            2  accounts root, daemon
  1000                           1  account ann
! 100000–100009                 10  granted to ann (/etc/subuid)
                                      OVERLAPS granted to bob (/etc/subuid): 100005–100009
! 100005–100014                 10  granted to bob (/etc/subuid)
                                      OVERLAPS granted to ann (/etc/subuid): 100005–100009
! 200000–200009                 10  user namespaces 11 (a 7 and 1 more), 12 (b 7 and 1 more): \
                        inside 0–9
                                      OVERLAPS each other: 200000–200009

gids

! marks ids that two have, neither because of the other.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_says_where_the_other_row_is() {
        let ranges = example();
        let json = serde_json::to_value(Listed::from(&ranges)).unwrap();
        let bob = &json["uids"][4];
        assert_eq!((&bob["name"], &bob["use"]), (&"bob".into(), &"grant".into()));
        let shared =
            serde_json::json!([{"with": 3, "first": 100_005, "last": 100_009, "expected": false}]);
        assert_eq!(bob["overlaps"], shared);
        assert_eq!(json["uids"][5]["pids"], serde_json::json!([7, 8]));
    }
}
