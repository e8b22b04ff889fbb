//! Maps in words, for the person who gave them.

use crate::shift::foreign::Creators;
use crate::shift::id::{INVALID, Id, Kind, Upper};
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::unmapped::UnmappedOwners;

/// Says what the maps do: one line for each merged extent, and one for all other ids.
///
/// ```
/// use std::path::Path;
/// use idshift::shift::describe::describe;
/// use idshift::shift::idmap::Maps;
///
/// let maps = Maps::from_specs(&["b:0:100000:65536"], &|path: &Path| std::fs::read_to_string(path))?;
/// assert_eq!(
///     describe(&maps).lines().next(),
///     Some("uid: lower 0–65535 ⇒ shown as 100000–165535"),
/// );
/// # Ok::<(), idshift::shift::map_error::MapError>(())
/// ```
pub fn describe(maps: &Maps) -> String {
    describe_with(maps, UnmappedOwners::Overflow, Creators::Refuse)
}

/// The same for a mount with these policies about all other ids.
pub fn describe_with(maps: &Maps, unmapped: UnmappedOwners, creators: Creators) -> String {
    let (user, group) = unmapped.stand_in().unzip();
    let mut lines = describe_kind(&maps.uids, unmapped, creators, user);
    lines.extend(describe_kind(&maps.gids, unmapped, creators, group));
    lines.concat()
}

fn describe_kind<K: Kind>(
    map: &IdMap<K>,
    unmapped: UnmappedOwners,
    creators: Creators,
    stand_in: Option<Id<K, Upper>>,
) -> Vec<String> {
    let line = |words: &str| format!("{}: {words}\n", K::NAME);
    if map.is_identity() {
        return vec![line("every id is shown as it is")];
    }
    let mut lines = Vec::new();
    let mut mapped = 0;
    for extent in map.merged() {
        let lower = range(extent.lower_first().raw(), extent.count());
        let upper = range(extent.upper_first().raw(), extent.count());
        lines.push(line(&format!("lower {lower} ⇒ shown as {upper}")));
        mapped += u64::from(extent.count());
    }
    if mapped < u64::from(INVALID) {
        let shown = stand_in.map_or(OVERFLOW, Id::raw);
        let effect = match unmapped {
            UnmappedOwners::Overflow | UnmappedOwners::Deny => "with no rights",
            UnmappedOwners::Restrict => "with the rights that owner, group and others all have",
            UnmappedOwners::Owner(..) => "who may change nothing",
            UnmappedOwners::Squash(..) => "who owns it",
        };
        let shown = match unmapped {
            UnmappedOwners::Deny => "by its name alone".to_owned(),
            _ => format!("as {shown}, {effect}"),
        };
        let created = match creators.born(map, None, stand_in) {
            None => "can create nothing".to_owned(),
            Some(born) => format!("creates what is stored as {}'s", born.id()),
        };
        lines.push(line(&format!(
            "any other lower id ⇒ shown {shown}; a caller with any other id in the mount {created}"
        )));
    }
    lines
}

/// What the kernel shows in place of an id that has no value here.
const OVERFLOW: u32 = 65_534;

/// "7", or "7–9".
fn range(first: u32, count: u32) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}–{}", first + (count - 1)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn explained(specs: &[&str]) -> String {
        describe(&Maps::from_specs(specs, &|_: &std::path::Path| Ok(String::new())).unwrap())
    }

    #[test]
    fn neighbours_are_merged_and_the_rest_is_named() {
        let text = explained(&["u:1:100001:9 u:0:100000:1", "g:5:6:1"]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "uid: lower 0–9 ⇒ shown as 100000–100009");
        assert!(lines[1].starts_with("uid: any other lower id ⇒ shown as 65534"), "{text}");
        assert_eq!(lines[2], "gid: lower 5 ⇒ shown as 6");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn policies_about_other_ids_are_named() {
        let maps =
            Maps::from_specs(&["b:0:0:5"], &|_: &std::path::Path| Ok(String::new())).unwrap();
        let (uid, gid) = (Id::new(1000).unwrap(), Id::new(7).unwrap());
        let text = describe_with(&maps, UnmappedOwners::Squash(uid, gid), Creators::Refuse);
        assert!(text.contains("shown as 1000, who owns it"), "{text}");
        assert!(text.contains("shown as 7, who owns it"), "{text}");
        let text = describe_with(&maps, UnmappedOwners::Deny, Creators::Refuse);
        assert!(text.contains("shown by its name alone;"), "{text}");
    }

    #[test]
    fn where_all_are_mapped_there_are_no_others() {
        let same = "uid: every id is shown as it is\ngid: every id is shown as it is\n";
        assert_eq!(explained(&["identity"]), same);
        let swapped = explained(&["b:0:1:1 b:1:0:1 b:2:2:4294967293"]);
        assert_eq!(swapped.lines().count(), 6);
        assert!(!swapped.contains("other"), "{swapped}");
    }
}
