//! Specs that name something of the system: a machine of its own answers for it.

use super::*;
use crate::sources::{NamespaceMaps, OwnIds, Range};

struct Machine;

impl Sources for Machine {
    fn file(&self, path: &Path) -> io::Result<String> {
        no_file(path)
    }

    fn namespace(&self, namespace: &Namespace) -> Result<NamespaceMaps, String> {
        let extent = |lower, upper, count| RawExtent { lower, upper, count };
        match namespace {
            Namespace::Pid(7) => Ok(NamespaceMaps {
                uids: vec![extent(0, 1000, 1), extent(1, 100_000, 65_536)],
                gids: vec![extent(0, 1001, 1)],
            }),
            Namespace::Path(path) if path == Path::new("/run/my ns") => {
                Ok(NamespaceMaps { uids: vec![extent(0, 5, 1)], gids: vec![extent(0, 6, 1)] })
            }
            other => Err(format!("no namespace {other:?}")),
        }
    }

    fn own_ids(&self, user: &str) -> Result<OwnIds, String> {
        let range = |first, count| Range { first, count };
        match user {
            "alice" => Ok(OwnIds {
                uid: 1000,
                gid: 100,
                uids: vec![range(100_000, 10), range(50_000, 0), range(300_000, 5)],
                gids: vec![range(200_000, 20)],
            }),
            "twice" => Ok(OwnIds {
                uids: vec![range(10, 5), range(12, 5)],
                gids: vec![range(10, 5)],
                ..OwnIds::default()
            }),
            "poor" => Ok(OwnIds { uid: 5, gid: 5, ..OwnIds::default() }),
            "vast" => Ok(OwnIds {
                uids: vec![range(1, 4_294_967_294), range(0, 4_294_967_295)],
                gids: vec![range(u32::MAX, u32::MAX)],
                ..OwnIds::default()
            }),
            _ => Err(format!("there is no user '{user}'")),
        }
    }

    fn uid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok([("alice", 1000), ("bob", 1001), ("a b=c:d", 7), ("12", 99)]
            .into_iter()
            .find_map(|(known, id)| (known == name).then_some(id)))
    }

    fn gid(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "staff").then_some(50))
    }
}

type Numbers = Vec<(u32, u32, u32)>;

fn found(spec: &str) -> (Numbers, Numbers) {
    let maps = Maps::from_partial_specs(&[spec], &Machine).unwrap();
    (raw(&maps.uids), raw(&maps.gids))
}

fn refused(spec: &str) -> String {
    Maps::from_specs(&[spec], &Machine).unwrap_err().to_string()
}

#[test]
fn the_map_of_a_namespace_is_inside_to_outside() {
    let maps = (vec![(0, 1000, 1), (1, 100_000, 65_536)], vec![(0, 1001, 1)]);
    assert_eq!(found("userns:7"), maps);
    assert_eq!(found("userns:/run/my\\040ns"), (vec![(0, 5, 1)], vec![(0, 6, 1)]));
    let error = refused("userns:/gone");
    assert!(error.starts_with("map spec 'userns:/gone': no namespace"), "{error}");
}

#[test]
fn root_in_the_mount_is_the_user_and_the_ranges_follow_in_their_order() {
    let all = vec![(1000, 0, 1), (100_000, 1, 10), (300_000, 11, 5)];
    assert_eq!(found("subuid:alice"), (all, vec![(100, 0, 1), (200_000, 1, 20)]));
    let cut = vec![(1000, 0, 1), (100_000, 1, 10), (300_000, 11, 1)];
    assert_eq!(found("subuid:alice:12"), (cut, vec![(100, 0, 1), (200_000, 1, 11)]));
    assert_eq!(found("subuid:poor:1"), (vec![(5, 0, 1)], vec![(5, 0, 1)]));
    assert_eq!(found("subuid:al\\151ce:1"), found("subuid:alice:1"));
}

#[test]
fn ids_that_a_user_does_not_have_are_refused() {
    let error = refused("subuid:alice:18");
    assert!(error.contains("alice has 16 uids in all, the own one and 15 from"), "{error}");
    let error = refused("subuid:alice:16 subuid:alice:17");
    assert!(error.contains("'subuid:alice:17'"), "{error}");
    let error = refused("subuid:poor");
    assert!(error.contains("/etc/subuid grants no uids to poor"), "{error}");
    assert!(error.contains("usermod --add-subuids FIRST-LAST poor"), "{error}");
    assert!(refused("subuid:bob").contains("there is no user 'bob'"));
    let error = refused("subuid:twice");
    assert!(error.contains("10:1:5 and 12:6:5 overlap: both cover lower"), "{error}");
    // Nonsense in the files ends as an error too.
    assert!(refused("subuid:vast").contains("4294967295 is no id"));
}

#[test]
fn names_stand_for_one_id() {
    assert_eq!(found("name:u:alice=bob").0, [(1000, 1001, 1)]);
    assert_eq!(found("name:g:staff=100"), (vec![], vec![(50, 100, 1)]));
    assert_eq!(found("name:u:a\\040b\\075c\\072d=5000").0, [(7, 5000, 1)]);
    assert_eq!(found("name:u:12=13").0, [(99, 13, 1)], "a name goes before a number");
    let error = refused("name:u:carol=bob");
    assert!(error.contains("there is no user 'carol' on this machine"), "{error}");
    let error = refused("name:b:alice=bob");
    assert!(error.contains("there is no group 'alice'"), "{error}");
    assert!(refused("name:u:alice=4294967295").contains("is no id"));
    assert!(refused("name:u:alice=99999999999").contains("past the last id"));
    assert!(refused("name:u:alice=bob").contains("no gid extents"));
}

#[test]
fn a_reader_of_files_knows_no_more() {
    for (spec, part) in [("userns:1", "namespaces"), ("subuid:a", "users"), ("name:u:a=b", "user")]
    {
        let error = message(&[spec]);
        assert!(error.contains(part) && error.contains("cannot be looked up here"), "{error}");
    }
}
