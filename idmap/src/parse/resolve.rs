//! From specs to extents: looking up what the specs name, and adding it all together.

use crate::error::{MapError, RawExtent};
use crate::id::{Gid, INVALID, Uid};
use crate::map::Extent;
use crate::sources::{OwnIds, Range, Sources};

use super::{Kinds, Spec, parse_line, text};

/// The extents of all specs so far, in the order written.
#[derive(Default)]
pub(super) struct Extents {
    pub(super) uids: Vec<Extent<Uid>>,
    pub(super) gids: Vec<Extent<Gid>>,
}

impl Extents {
    pub(super) fn add_spec(&mut self, spec: &Spec, sources: &dyn Sources) -> Result<(), MapError> {
        let wrong = |why: String| MapError::Spec { spec: spec.to_string(), why };
        match spec {
            Spec::Extent { kinds, extent } => self.add(*kinds, *extent),
            Spec::Offset { upper, count } => {
                self.add(Kinds::Both, RawExtent { lower: 0, upper: *upper, count: *count })
            }
            Spec::Identity => {
                self.add(Kinds::Both, RawExtent { lower: 0, upper: 0, count: INVALID })
            }
            Spec::File(path) => {
                let text = sources
                    .file(path)
                    .map_err(|error| wrong(format!("cannot read the file: {error}")))?;
                self.add_file(spec, &text)
            }
            Spec::Namespace(namespace) => {
                let maps = sources.namespace(namespace).map_err(wrong)?;
                self.add_all(&maps.uids, &maps.gids)
            }
            Spec::OwnIds { user, count } => {
                let ids = sources.own_ids(user).map_err(wrong)?;
                let (uids, gids) = own_extents(user, &ids, *count).map_err(wrong)?;
                self.add_all(&uids, &gids)
            }
            Spec::Name { kinds, lower, upper } => {
                self.add_name(*kinds, lower, upper, sources).map_err(wrong)
            }
        }
    }

    fn add(&mut self, kinds: Kinds, extent: RawExtent) -> Result<(), MapError> {
        let RawExtent { lower, upper, count } = extent;
        if kinds.uids() {
            self.uids.push(Extent::from_raw(lower, upper, count)?);
        }
        if kinds.gids() {
            self.gids.push(Extent::from_raw(lower, upper, count)?);
        }
        Ok(())
    }

    fn add_all(&mut self, uids: &[RawExtent], gids: &[RawExtent]) -> Result<(), MapError> {
        for extent in uids {
            self.add(Kinds::Uids, *extent)?;
        }
        for extent in gids {
            self.add(Kinds::Gids, *extent)?;
        }
        Ok(())
    }

    fn add_file(&mut self, spec: &Spec, text: &str) -> Result<(), MapError> {
        for (number, line) in text.lines().enumerate() {
            let words = line.split('#').next().unwrap_or_default().trim();
            if words.is_empty() {
                continue;
            }
            let (kinds, extent) = parse_line(words).map_err(|why| MapError::Spec {
                spec: format!("{spec}, line {}: {words}", number + 1),
                why,
            })?;
            self.add(kinds, extent)?;
        }
        Ok(())
    }

    fn add_name(
        &mut self,
        kinds: Kinds,
        lower: &str,
        upper: &str,
        sources: &dyn Sources,
    ) -> Result<(), String> {
        let mut add_one = |kinds, id: &dyn Fn(&str) -> Result<u32, String>| {
            let extent = RawExtent { lower: id(lower)?, upper: id(upper)?, count: 1 };
            self.add(kinds, extent).map_err(|error| error.to_string())
        };
        if kinds.uids() {
            add_one(Kinds::Uids, &|name| by_name(name, "user", sources.uid(name)?))?;
        }
        if kinds.gids() {
            add_one(Kinds::Gids, &|name| by_name(name, "group", sources.gid(name)?))?;
        }
        Ok(())
    }
}

/// A number stands for itself where nobody has it as a name, as with chown(1).
fn by_name(name: &str, what: &str, found: Option<u32>) -> Result<u32, String> {
    match found {
        Some(id) => Ok(id),
        None if text::is_decimal(name) => text::number(name, "the id"),
        None => Err(format!("there is no {what} '{}' on this machine", name.escape_debug())),
    }
}

/// The ids of a user as extents of uids and of gids: upper 0 is stored as the account's own id,
/// upper 1 and on as the granted ranges, up to `count` in all.
fn own_extents(
    user: &str,
    ids: &OwnIds,
    count: Option<u32>,
) -> Result<(Vec<RawExtent>, Vec<RawExtent>), String> {
    let uids = extents_of(user, ids.uid, &ids.uids, count, ("uid", "/etc/subuid"))?;
    let gids = extents_of(user, ids.gid, &ids.gids, count, ("gid", "/etc/subgid"))?;
    Ok((uids, gids))
}

fn extents_of(
    user: &str,
    own: u32,
    ranges: &[Range],
    count: Option<u32>,
    (kind, file): (&str, &str),
) -> Result<Vec<RawExtent>, String> {
    let most = count.unwrap_or(INVALID);
    let mut extents = vec![RawExtent { lower: own, upper: 0, count: 1 }];
    let mut next = 1;
    for range in ranges {
        let taken = range.count.min(most - next);
        if taken > 0 {
            extents.push(RawExtent { lower: range.first, upper: next, count: taken });
            next += taken; // at most `most`
        }
    }
    match count {
        None if next == 1 => Err(format!(
            "{file} grants no {kind}s to {user}; as root, 'usermod --add-sub{kind}s FIRST-LAST \
             {user}' does that, and 'idshift ranges free' finds a range that nobody uses"
        )),
        Some(count) if next < count => Err(format!(
            "{user} has {next} {kind}s in all, the own one and {} from {file}; that is less than \
             {count}",
            next - 1
        )),
        _ => Ok(extents),
    }
}
