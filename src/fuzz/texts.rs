//! What people and files say: map specs, mount options, `/etc/subuid`, mountinfo.

use std::io;
use std::path::Path;

use crate::config::MountFlags;
use crate::host::{mountinfo, subids};
use crate::mount::options::split::{Word, split};
use crate::mount::options::{Options, Origin};
use crate::shift::algebra;
use crate::shift::describe::describe;
use crate::shift::id::{Id, Kind, Lower, Upper};
use crate::shift::idmap::{IdMap, Maps};
use crate::shift::map_error::RawExtent;
use crate::shift::parse::Spec;
use crate::shift::sources::{Namespace, NamespaceMaps, OwnIds, Range, Sources};
use crate::sys::users::User;

/// Specs, and behind a line that says `--` the file that `file:` names.
///
/// A spec is shown as one that reads the same, and what became a map maps to and fro.
pub(super) fn map_specs(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (specs, file) = text.split_once("\n--\n").unwrap_or((&text, ""));
    let Ok(specs) = Spec::parse_all(specs) else { return };
    for spec in &specs {
        assert_eq!(spec.to_string().parse::<Spec>().as_ref(), Ok(spec), "{spec}");
    }
    let world = World { file: file.to_owned(), range: first_range(file) };
    let Ok(maps) = Maps::from_parsed(&specs, &world) else { return };
    both_ways(&maps.uids);
    both_ways(&maps.gids);
    assert!(!describe(&maps).is_empty());
}

/// What specs name: one file, and accounts and namespaces made of the first range in it.
struct World {
    file: String,
    range: Range,
}

fn first_range(text: &str) -> Range {
    subids::grants(text).next().map_or(Range { first: 100_000, count: 5 }, |grant| grant.range)
}

impl Sources for World {
    fn file(&self, _path: &Path) -> io::Result<String> {
        Ok(self.file.clone())
    }

    fn namespace(&self, _namespace: &Namespace) -> Result<NamespaceMaps, String> {
        let Range { first, count } = self.range;
        let extents = vec![RawExtent { lower: 0, upper: first, count }];
        Ok(NamespaceMaps { uids: extents.clone(), gids: extents })
    }

    fn own_ids(&self, _user: &str) -> Result<OwnIds, String> {
        let granted = vec![self.range, Range { first: 1 << 31, count: 7 }];
        Ok(OwnIds { uid: 1000, gid: 1000, uids: granted.clone(), gids: granted })
    }

    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok(u32::try_from(name.len()).ok())
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        self.uid(name)
    }
}

/// The ends of each extent, and their neighbours, lead back to where they came from.
fn both_ways<K: Kind>(map: &IdMap<K>) {
    let inverse = algebra::invert(map);
    for extent in map.extents() {
        let RawExtent { lower, upper, count } = extent.raw();
        for at in [lower.checked_sub(1), Some(lower), lower.checked_add(count)] {
            let Some(id) = at.and_then(Id::<K, Lower>::new) else { continue };
            let shown = map.up(id);
            assert!(shown.is_some() || at != Some(lower), "the first id of an extent is mapped");
            if let Some(shown) = shown {
                assert_eq!(map.down(shown), Some(id));
                let back = Id::<K, Lower>::new(shown.raw()).and_then(|id| inverse.up(id));
                assert_eq!(back.map(Id::raw), Some(id.raw()));
            }
        }
        let last = Id::<K, Upper>::new(upper + (count - 1)).and_then(|id| map.down(id));
        assert_eq!(last, Some(extent.lower_last()));
    }
    assert!(map.merged().len() <= map.extents().len());
    assert_eq!(algebra::intersect(map, map).merged(), map.merged());
    assert!(algebra::subtract(map, map).is_empty());
}

/// An option string: cut, put together again, cut the same; read without harm.
pub(super) fn mount_options(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(words) = split(&text) else { return };
    let again: Vec<String> = words.iter().map(written).collect();
    assert_eq!(split(&again.join(",")).unwrap(), words);
    for origin in [Origin::Command, Origin::MountProgram] {
        match Options::parse(&[&*text], origin, MountFlags::default()) {
            // Specs are read later; what is passed on to there is.
            Ok(options) => {
                let parsed = options.maps.iter().map(|map| Spec::parse_all(map));
                assert!(parsed.count() <= text.len());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// An option in which every byte that might mean something is written as an escape.
fn written(Word { name, value }: &Word) -> String {
    let escaped = |text: &str| -> String {
        let plain = |c: char| !c.is_ascii() || c.is_ascii_alphabetic();
        text.chars()
            .map(|c| if plain(c) { c.to_string() } else { format!("\\{:03o}", u32::from(c)) })
            .collect()
    };
    let value = value.as_deref().map(|value| format!("={}", escaped(value)));
    escaped(name) + &value.unwrap_or_default()
}

/// `/etc/subuid`: each line grants at most once, to whom it names.
pub(super) fn subids(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let grants: Vec<_> = subids::grants(&text).collect();
    assert!(grants.len() <= text.lines().count());
    let everybody = grants.first().map_or("", |grant| grant.user);
    let account = User { name: everybody.to_owned(), uid: 1000, gid: 1000 };
    let granted = subids::granted_to(&text, &account);
    let named = grants.iter().filter(|grant| grant.user == everybody || grant.user == "1000");
    assert_eq!(granted.len(), named.count());
}

/// mountinfo: no more mounts than lines, and unescaping makes nothing longer.
pub(super) fn mountinfo(input: &[u8]) {
    let lines = input.split(|&byte| byte == b'\n').count();
    let mounts = mountinfo::parse(input);
    assert!(mounts.len() <= lines);
    let names = |mount: &mountinfo::Mount| mount.mountpoint.as_os_str().len() + mount.root.len();
    assert!(mounts.iter().map(names).sum::<usize>() <= input.len());
    for mount in &mounts {
        assert!(!(mount.is_idmapped() && mount.options.is_empty()));
    }
}
