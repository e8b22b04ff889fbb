//! What one mount of a container asks for: from which map its files are shown, in the words of the three ways to say it.
//!
//! | where | form | stored id, shown id |
//! |---|---|---|
//! | runtime-spec, `mounts[].uidMappings` | `containerID hostID size` | `containerID`, `hostID` |
//! | crun(1), option `idmap=uids=A-B-N#…;gids=…` | `A-B-N`, with `@`: B is an id in the container | A, B |
//! | option `idmap` or `ridmap` alone | the container's user namespace | id inside, id on the host |
//! | annotation `idshift=DEST` | the same | |
//! | annotation `idshift=DEST=match-user` | LOWER's owner is shown as the container process' user | |
//! | annotation `idshift=DEST=SPEC` | a map as `-o map=` takes it; shown ids are the host's | |

use idmap::algebra;
use idmap::id::Kind;
use idmap::map::{Extent, IdMap, Maps};
use serde_json::Value;

use crate::containers::Problem;

/// A user namespace's maps, as `linux.uidMappings` and `gidMappings` give them: lower is the id inside, upper the one outside.
/// A container without a user namespace has the identity.
#[derive(Debug, Clone)]
pub struct Container {
    /// Of its user namespace.
    pub maps: Maps,
    /// The ids of its process, inside.
    pub user: (u32, u32),
}

/// Which map a mount asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapRequest {
    /// These maps.
    Maps(Maps),
    /// The owner of the source is shown as the container's user.
    MatchUser,
    /// A map spec, in the words of whoever wrote the annotation.
    Spec(String),
}

impl MapRequest {
    /// The map specs for a source that belongs to these ids.
    pub fn specs(&self, container: &Container, owner: (u32, u32)) -> Result<Vec<String>, Problem> {
        match self {
            MapRequest::Maps(maps) => Ok(specs(maps)),
            MapRequest::Spec(spec) => Ok(vec![spec.clone()]),
            MapRequest::MatchUser => {
                let (uid, gid) = container.user;
                let missing = |kind: &str, id: u32| {
                    Problem::new(format!(
                        "match-user: the container's user namespace does not map {kind} {id} of its process"
                    ))
                };
                let user = host_id(&container.maps.uids, uid).ok_or_else(|| missing("uid", uid))?;
                let group =
                    host_id(&container.maps.gids, gid).ok_or_else(|| missing("gid", gid))?;
                Ok(vec![format!("u:{}:{user}:1", owner.0), format!("g:{}:{group}:1", owner.1)])
            }
        }
    }
}

fn host_id<K: Kind>(map: &IdMap<K>, id: u32) -> Option<u32> {
    idmap::id::Id::new(id).and_then(|id| map.up(id)).map(idmap::id::Id::raw)
}

/// The maps as specs of `-o map=`.
fn specs(maps: &Maps) -> Vec<String> {
    fn of<K: Kind>(map: &IdMap<K>) -> impl Iterator<Item = String> {
        map.extents().iter().map(|extent| format!("{}:{extent}", K::PREFIX))
    }
    of(&maps.uids).chain(of(&maps.gids)).collect()
}

/// `[{"containerID": 0, "hostID": 100000, "size": 65536}]`; nothing if there is no such list.
pub fn mappings<K: Kind>(list: Option<&Value>, what: &str) -> Result<IdMap<K>, Problem> {
    let wrong = |why: String| Problem::new(format!("{what}: {why}"));
    let mut extents = Vec::new();
    for entry in list.and_then(Value::as_array).into_iter().flatten() {
        let number = |name: &str| {
            let number = entry.get(name).and_then(Value::as_u64);
            number
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| wrong(format!("{name} is not an id")))
        };
        let (lower, upper, count) = (number("containerID")?, number("hostID")?, number("size")?);
        extents.push(Extent::from_raw(lower, upper, count).map_err(|e| wrong(e.to_string()))?);
    }
    IdMap::new(extents).map_err(|error| wrong(error.to_string()))
}

/// What an option of a mount asks for, if it is about ids: `idmap`, `ridmap`, `idmap=uids=…;gids=…`.
pub fn of_option(option: &str, container: &Container) -> Result<Option<MapRequest>, Problem> {
    let Some(rest) = option.strip_prefix("ridmap").or_else(|| option.strip_prefix("idmap")) else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(Some(MapRequest::Maps(container.maps.clone())));
    }
    let Some(lists) = rest.strip_prefix('=') else { return Ok(None) };
    let wrong = |why: &str| {
        Problem::new(format!(
            "option '{option}': {why}; write idmap=uids=A-B-N#A-B-N;gids=A-B-N, as crun(1) says"
        ))
    };
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for list in lists.split(';').filter(|list| !list.is_empty()) {
        let (kind, ranges) = list.split_once('=').ok_or_else(|| wrong("'=' is missing"))?;
        for range in ranges.split('#').filter(|range| !range.is_empty()) {
            match kind {
                "uids" => uids.extend(triplet(range, &container.maps.uids).map_err(|e| wrong(&e))?),
                "gids" => gids.extend(triplet(range, &container.maps.gids).map_err(|e| wrong(&e))?),
                _ => return Err(wrong("only uids and gids may be given")),
            }
        }
    }
    let overlap = |error: idmap::MapError| wrong(&error.to_string());
    let maps = Maps {
        uids: if uids.is_empty() {
            container.maps.uids.clone()
        } else {
            IdMap::new(uids).map_err(overlap)?
        },
        gids: if gids.is_empty() {
            container.maps.gids.clone()
        } else {
            IdMap::new(gids).map_err(overlap)?
        },
    };
    Ok(Some(MapRequest::Maps(maps)))
}

/// `A-B-N`, or `@A-B-N` where B counts in the container.
fn triplet<K: Kind>(text: &str, container: &IdMap<K>) -> Result<Vec<Extent<K>>, String> {
    let (relative, numbers) = match text.strip_prefix('@') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let parsed: Result<Vec<u32>, _> = numbers.split('-').map(str::parse).collect();
    let Ok([lower, upper, count]) =
        parsed.as_deref().map(|p| <[u32; 3]>::try_from(p).unwrap_or([0; 3]))
    else {
        return Err(format!("'{text}' is not three numbers"));
    };
    let extent = Extent::from_raw(lower, upper, count).map_err(|error| error.to_string())?;
    if !relative {
        return Ok(vec![extent]);
    }
    let one = IdMap::new(vec![extent]).map_err(|error| error.to_string())?;
    let on_host = algebra::compose(&one, container);
    let covered: u64 = on_host.extents().iter().map(|e| u64::from(e.count())).sum();
    if covered < u64::from(count) {
        return Err(format!("the container's user namespace does not map all of '{text}'"));
    }
    Ok(on_host.extents().to_vec())
}

/// What the annotation `idshift` asks for, for each destination: `DEST[=match-user|=SPEC]`, several separated by `;`.
pub fn of_annotation(text: &str, container: &Container) -> Vec<(String, MapRequest)> {
    let entries = text.split(';').map(str::trim).filter(|entry| !entry.is_empty());
    let request = |wanted: Option<&str>| match wanted {
        None | Some("") => MapRequest::Maps(container.maps.clone()),
        Some("match-user") => MapRequest::MatchUser,
        Some(spec) => MapRequest::Spec(spec.to_owned()),
    };
    entries
        .map(|entry| match entry.split_once('=') {
            None => (entry.to_owned(), request(None)),
            Some((destination, wanted)) => (destination.to_owned(), request(Some(wanted))),
        })
        .collect()
}

/// Every id as it is, for a container without a user namespace.
pub fn identity_if_empty<K: Kind>(map: IdMap<K>) -> IdMap<K> {
    if map.is_empty() { IdMap::identity() } else { map }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use idmap::id::Uid;

    use super::*;

    fn container() -> Container {
        let maps = Maps::from_specs(&["b:0:1000:1 b:1:100000:65536"], &|_: &std::path::Path| {
            Err(std::io::ErrorKind::Unsupported.into())
        });
        Container { maps: maps.unwrap(), user: (5, 7) }
    }

    fn asked(option: &str) -> Vec<String> {
        let container = container();
        of_option(option, &container).unwrap().unwrap().specs(&container, (33, 34)).unwrap()
    }

    #[test]
    fn options_of_crun() {
        assert_eq!(
            asked("idmap=uids=0-1-10#10-11-10;gids=0-100-10"),
            ["u:0:1:10", "u:10:11:10", "g:0:100:10"]
        );
        // Relative to the container, and cut where its namespace is.
        assert_eq!(
            asked("idmap=uids=@5-0-3;gids=@0-0-1"),
            ["u:5:1000:1", "u:6:100000:2", "g:0:1000:1"]
        );
        for option in ["idmap", "ridmap"] {
            assert_eq!(
                asked(option),
                ["u:0:1000:1", "u:1:100000:65536", "g:0:1000:1", "g:1:100000:65536"]
            );
        }
        let container = container();
        for wrong in [
            "idmap=uids=0-1",
            "idmap=pids=0-1-1",
            "idmap=uids=@0-70000-1",
            "idmap=uids=0-0-2#1-1-1",
        ] {
            let problem = of_option(wrong, &container).unwrap_err().to_string();
            assert!(problem.contains(wrong), "{problem}");
        }
        assert_eq!(of_option("idmapped", &container).unwrap(), None);
        assert_eq!(of_option("rbind", &container).unwrap(), None);
    }

    #[test]
    fn annotations() {
        let container = container();
        let asked = of_annotation("/work=match-user; /data ;/x=u:0:5:1 g:0:5:1", &container);
        assert_eq!(asked.len(), 3);
        assert_eq!(
            asked[0].1.specs(&container, (33, 34)).unwrap(),
            ["u:33:100004:1", "g:34:100006:1"]
        );
        assert_eq!(asked[1], ("/data".to_owned(), MapRequest::Maps(container.maps.clone())));
        assert_eq!(asked[2].1, MapRequest::Spec("u:0:5:1 g:0:5:1".to_owned()));
        let nobody = Container { user: (70_000, 0), ..container };
        assert!(asked[0].1.specs(&nobody, (33, 34)).unwrap_err().to_string().contains("70000"));
    }

    #[test]
    fn mappings_of_the_specification() {
        let list = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        let map: IdMap<Uid> = mappings(Some(&list), "x").unwrap();
        assert_eq!(map.extents(), [Extent::from_raw(0, 100_000, 65_536).unwrap()]);
        for wrong in [
            serde_json::json!([{"containerID": 0, "hostID": 1}]),
            serde_json::json!([{"containerID": -1, "hostID": 1, "size": 1}]),
            serde_json::json!([{"containerID": 0, "hostID": 1, "size": 0}]),
        ] {
            assert!(mappings::<Uid>(Some(&wrong), "x").is_err());
        }
    }
}
