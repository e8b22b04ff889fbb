//! Tests of the parent module.
#![allow(clippy::unwrap_used)] // in a test the panic is the failure

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::id::{INVALID, LowerGid, LowerUid};

mod lookups;

fn no_file(path: &Path) -> io::Result<String> {
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no {}", path.display())))
}

fn maps(specs: &[&str]) -> Result<Maps, MapError> {
    Maps::from_specs(specs, &no_file)
}

fn message(specs: &[&str]) -> String {
    maps(specs).unwrap_err().to_string()
}

fn raw<K>(map: &IdMap<K>) -> Vec<(u32, u32, u32)> {
    map.extents().iter().map(Extent::raw).map(|e| (e.lower, e.upper, e.count)).collect()
}

#[test]
fn specs_combine_in_the_order_given() {
    let maps = maps(&["u:5:6:1 b:0:100000:5", " g:9:9:1\n"]).unwrap();
    assert_eq!(raw(&maps.uids), [(5, 6, 1), (0, 100_000, 5)]);
    assert_eq!(raw(&maps.gids), [(0, 100_000, 5), (9, 9, 1)]);
}

#[test]
fn offset_and_identity() {
    assert_eq!(raw(&maps(&["offset:100000"]).unwrap().uids), [(0, 100_000, 65_536)]);
    assert_eq!(raw(&maps(&["offset:7:3"]).unwrap().gids), [(0, 7, 3)]);
    assert_eq!(maps(&["identity"]).unwrap(), Maps::identity());
}

#[test]
fn files() {
    let read = |path: &Path| match path.to_str() {
        Some("/etc/a map") => Ok("# mine\n\nu 0 100000 10 # root\n  g:0:200000:10\n".to_owned()),
        Some("bare") => Ok("         0     100000      65536\n".to_owned()),
        _ => no_file(path),
    };
    let maps = Maps::from_specs(&["file:/etc/a\\040map", "b:10:10:1"], &read).unwrap();
    assert_eq!(raw(&maps.uids), [(0, 100_000, 10), (10, 10, 1)]);
    assert_eq!(raw(&maps.gids), [(0, 200_000, 10), (10, 10, 1)]);

    let error = Maps::from_specs(&["file:bare"], &read).unwrap_err().to_string();
    assert!(error.contains("file:bare, line 1") && error.contains("u in front"), "{error}");
    let error = Maps::from_specs(&["file:gone"], &read).unwrap_err().to_string();
    assert!(error.contains("file:gone") && error.contains("no gone"), "{error}");
}

#[test]
fn one_kind_alone_is_refused() {
    let error = message(&["u:0:100000:65536"]);
    assert!(error.contains("no gid extents") && error.contains("g:0:0:4294967295"), "{error}");
    let error = message(&["g:0:100000:65536"]);
    assert!(error.contains("no uid extents") && error.contains("u:0:0:4294967295"), "{error}");
    let error = message(&["u:0:1:1 g:0:0:4294967295 u:0:5:1"]);
    assert!(error.contains("uid extents 0:1:1 and 0:5:1 overlap"), "{error}");
    assert!(maps(&["u:0:100000:65536 g:0:0:4294967295"]).is_ok());
    assert_eq!(maps(&[" ", ""]), Err(MapError::Empty));
}

#[test]
fn messages_name_the_spec_and_what_is_wrong() {
    for (spec, parts) in [
        (
            "b:0:100000",
            ["'b:0:100000'", "three numbers belong here, not 2", "as in b:0:100000:65536"],
        ),
        ("u:0:1:2:3", ["not 4", "as in u:0:100000:65536", "ON-DISK"]),
        ("g::1:2", ["'g::1:2'", "the first id on disk is missing", ""]),
        ("b:0:-1:2", ["the first id in the mount is '-1'", "no decimal number", ""]),
        ("b:0:+1:2", ["'+1'", "", ""]),
        ("b:0:1:0x10", ["the count is '0x10'", "", ""]),
        ("b:0:1:99999999999", ["the count is 99999999999", "4294967294", ""]),
        ("b:0:1:0", ["'b:0:1:0'", "count is 0", ""]),
        ("b:4294967295:1:1", ["lower (on disk) id 4294967295 is no id", "", ""]),
        ("b:0:4294967290:6", ["at most 5", "", ""]),
        ("offset:", ["the offset is missing", "offset:100000:65536", ""]),
        ("offset:4294967294:2", ["past the last id", "at most 1", ""]),
        ("file:", ["path is missing", "", ""]),
        ("subuid:", ["the user is missing", "subuid:NAME:COUNT", ""]),
        ("subuid:alice:0", ["the count is 0", "", ""]),
        ("subuid:alice:1:2", ["the count is '1:2'", "COUNT is how many ids", ""]),
        ("subuid:\\377", ["the user is not valid UTF-8", "", ""]),
        ("userns:", ["the process id is missing", "userns:/PATH", ""]),
        ("userns:self", ["the process id is 'self'", "/proc/PID/ns/user", ""]),
        ("userns:0", ["no process has the id 0", "", ""]),
        ("name:alice=bob", ["name:u:ON-DISK=IN-MOUNT", "name:g:", ""]),
        ("name:u:alice", ["as in name:u:alice=bob", "", ""]),
        ("name:u:=bob", ["the name on disk is missing", "", ""]),
        ("name:g:a=", ["the name in the mount is missing", "", ""]),
        ("name:u:a=b=c", ["more than two names", "", ""]),
        ("subgid:alice", ["subuid:NAME is for users and groups", "", ""]),
        ("alice/bob", ["name:u:alice=bob", "", ""]),
        ("@staff/@users", ["name:g:staff=users", "", ""]),
        ("nonsense", ["'nonsense'", "no map spec", "b:ON-DISK:IN-MOUNT:COUNT"]),
        ("x:0:1:2", ["no map spec", "", ""]),
    ] {
        let text = message(&[spec]);
        for part in parts {
            assert!(text.contains(part), "{spec}: {text}");
        }
    }
}

#[test]
fn pastes_from_other_tools_get_a_hint_and_no_guess() {
    for (spec, part) in [
        ("0:100000:65536", "b:0:100000:65536 if"),
        ("u 0 100000 65536", "lxc.idmap"),
        ("0 100000 65536", "/proc/PID/uid_map"),
        ("lxc.idmap = u 0 1 2", "lxc.idmap"),
        ("X-mount.idmap=b:0:1:2", "mount(8)"),
        ("1000/1001", "bindfs"),
        ("both:1000:1000:1", "prefixes are u, g and b"),
        ("/proc/1/ns/user", "userns:PID"),
        ("/etc/map", "file:PATH"),
        ("user:[4026531837]", "userns:PID"),
    ] {
        let text = message(&[spec]);
        assert!(text.contains(part), "{spec}: {text}");
    }
}

#[test]
fn paths_of_any_bytes_round_trip() {
    let path = PathBuf::from(OsString::from_vec((1..=255).collect()));
    let spec = Spec::File(path);
    let text = spec.to_string();
    assert_eq!(Spec::parse_all(&text), Ok(vec![spec]));
    // A backslash that starts no escape is itself.
    assert_eq!("file:a\\b\\9".parse(), Ok(Spec::File(PathBuf::from("a\\b\\9"))));
}

fn spec() -> impl Strategy<Value = Spec> {
    let extent = (0u32..INVALID, 0u32..INVALID, any::<u32>()).prop_map(|(lower, upper, count)| {
        let most = INVALID - lower.max(upper);
        RawExtent { lower, upper, count: 1 + count % most }
    });
    let kinds = prop::sample::select(vec![Kinds::Both, Kinds::Uids, Kinds::Gids]);
    prop_oneof![
        (kinds, extent.clone()).prop_map(|(kinds, extent)| Spec::Extent { kinds, extent }),
        extent.prop_map(|e| Spec::Offset { upper: e.upper, count: e.count }),
        Just(Spec::Identity),
        prop::collection::vec(1u8..=255, 1..12)
            .prop_map(|bytes| Spec::File(PathBuf::from(OsString::from_vec(bytes)))),
        (1u32..).prop_map(|pid| Spec::Namespace(Namespace::Pid(pid))),
        prop::collection::vec(1u8..=255, 0..12).prop_map(|bytes| {
            let path = [b"/", bytes.as_slice()].concat();
            Spec::Namespace(Namespace::Path(PathBuf::from(OsString::from_vec(path))))
        }),
        (".{1,8}", prop::option::of(1u32..)).prop_map(|(user, count)| Spec::OwnIds { user, count }),
        (prop::sample::select(vec![Kinds::Both, Kinds::Uids, Kinds::Gids]), ".{1,8}", ".{1,8}")
            .prop_map(|(kinds, lower, upper)| Spec::Name { kinds, lower, upper }),
    ]
}

proptest! {
    #[test]
    fn display_and_parse_are_inverse(specs in prop::collection::vec(spec(), 0..5)) {
        let text = specs.iter().map(Spec::to_string).collect::<Vec<_>>().join(" ");
        prop_assert_eq!(Spec::parse_all(&text).unwrap(), specs);
    }

    #[test]
    fn an_extent_means_what_it_says(lower in 0u32..1000, upper in 0u32..1000, count in 1u32..50) {
        let maps = maps(&[&format!("b:{lower}:{upper}:{count}")]).unwrap();
        for offset in 0..count {
            let uid = maps.up_uid(LowerUid::new(lower + offset).unwrap()).unwrap();
            let gid = maps.up_gid(LowerGid::new(lower + offset).unwrap()).unwrap();
            prop_assert_eq!((uid.raw(), gid.raw()), (upper + offset, upper + offset));
        }
        prop_assert_eq!(maps.up_uid(LowerUid::new(lower + count).unwrap()), None);
    }

    #[test]
    fn any_text(text: String, file: String) {
        let read = |_: &Path| Ok(file.clone());
        let _maps = Maps::from_specs(&[text], &read);
        let _maps = Maps::from_specs(&["file:x"], &read);
    }

    #[test]
    fn nearly_right_text(
        text in "(b|u|g|offset|file|userns|subuid|name:g|x)?[: ]?([0-9a]{0,11}[: /=]?){0,5}\\\\?[0-7]{0,3}",
    ) {
        if let Ok(specs) = Spec::parse_all(&text) {
            let again = specs.iter().map(Spec::to_string).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(Spec::parse_all(&again).unwrap(), specs);
        }
        let _maps = Maps::from_specs(&[&text], &|_: &Path| Ok(text.clone()));
    }
}
