//! Tests of the codec.

use proptest::prelude::*;

use super::*;

fn stored(uid: u32, gid: u32, mode: u32, kind: Option<Kind>) -> Stored {
    let (uid, gid) = (LowerUid::new(uid).unwrap(), LowerGid::new(gid).unwrap());
    Stored { uid, gid, mode, kind }
}

/// What the tools write, character by character: containers/storage with a mode of four digits
/// and a type, fuse-overlayfs with as many digits as there are and none.
#[test]
fn what_the_tools_write_is_read() {
    let device = |major, minor| Device { major, minor };
    for (value, expected) in [
        ("0:0:0755:dir", stored(0, 0, 0o755, Some(Kind::Dir))),
        ("0:42:0640:file", stored(0, 42, 0o640, Some(Kind::File))),
        ("1000:100:4755:file", stored(1000, 100, 0o4755, Some(Kind::File))),
        ("0:0:0777:symlink", stored(0, 0, 0o777, Some(Kind::Symlink))),
        ("7:7:0600:pipe", stored(7, 7, 0o600, Some(Kind::Pipe))),
        ("7:7:0600:socket", stored(7, 7, 0o600, Some(Kind::Socket))),
        ("0:6:0660:block-8-1", stored(0, 6, 0o660, Some(Kind::Block(device(8, 1))))),
        ("0:0:0666:char-1-3", stored(0, 0, 0o666, Some(Kind::Char(device(1, 3))))),
        ("0:0:555", stored(0, 0, 0o555, None)),
        ("12345:12345:600", stored(12_345, 12_345, 0o600, None)),
        ("0:0:100644", stored(0, 0, 0o644, None)),
    ] {
        assert_eq!(Stored::parse(value.as_bytes()), Ok(expected), "{value}");
        if expected.kind.is_some() {
            assert_eq!(expected.to_string(), value);
        }
    }
}

/// A later version may say more.
#[test]
fn what_follows_is_ignored() {
    let read = |text: &str| Stored::parse(text.as_bytes());
    assert_eq!(read("1:2:0755:dir:more:still"), read("1:2:0755:dir"));
    assert_eq!(read("1:2:0755:char-1-3-9"), read("1:2:0755:char-1-3"));
    assert_eq!(read("1:2:0755:file-x"), read("1:2:0755:file"));
}

#[test]
fn what_is_no_value_is_refused() {
    for value in [
        "",
        ":",
        "0:0",
        "0:0:",
        "0::755",
        "-1:0:755",
        "0:0:8",
        "0:0:0x1",
        "+1:0:755",
        " 1:0:755",
        "4294967295:0:755",
        "0:4294967295:755",
        "4294967296:0:755",
        "0:0:755:",
        "0:0:755:door",
        "0:0:755:char",
        "0:0:755:char-1",
        "0:0:755:char-1-",
        "0:0:755:block-a-b",
        "0:0:755\0",
    ] {
        assert_eq!(Stored::parse(value.as_bytes()), Err(Malformed), "{value:?}");
    }
    assert_eq!(Stored::parse(b"0:0:\xff"), Err(Malformed));
}

#[test]
fn labels_are_plain_words() {
    assert_eq!(attribute(None).unwrap(), "user.containers.override_stat");
    assert_eq!(attribute(Some("web-1")).unwrap(), "user.idshift.web-1");
    for label in ["", "a b", "a/b", "é", "a,b", &"x".repeat(65)] {
        assert_eq!(attribute(Some(label)), None, "{label}");
    }
    assert!(is_reserved(b"user.idshift.x") && is_reserved(b"user.containers.override_stat"));
    assert!(is_reserved(b"user.IdShift.x") && is_reserved(b"user.CONTAINERS.override_stat"));
    assert!(!is_reserved(b"user.idshif") && !is_reserved(b"user.containers.override_status"));
}

fn kinds() -> impl Strategy<Value = Option<Kind>> {
    let device = || (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        Just(None),
        Just(Some(Kind::File)),
        Just(Some(Kind::Dir)),
        Just(Some(Kind::Symlink)),
        Just(Some(Kind::Pipe)),
        Just(Some(Kind::Socket)),
        device().prop_map(|it| Some(Kind::Block(it))),
        device().prop_map(|it| Some(Kind::Char(it))),
    ]
}

proptest! {
    #[test]
    fn written_and_read_is_the_same(
        uid in 0..u32::MAX, gid in 0..u32::MAX, mode in 0..=0o7777_u32, kind in kinds(),
    ) {
        let it = stored(uid, gid, mode, kind);
        let value = it.to_string();
        prop_assert!(value.len() <= MAX / 2);
        prop_assert_eq!(Stored::parse(value.as_bytes()), Ok(it));
    }

    #[test]
    fn no_value_makes_the_parser_panic(value: Vec<u8>) {
        Stored::parse(&value).ok();
    }

    #[test]
    fn no_mix_of_pieces_makes_the_parser_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec!["0", ":", "-", "7777", "4294967295", "char", "dir", "\0"]),
            0..12,
        )
    ) {
        Stored::parse(pieces.concat().as_bytes()).ok();
    }
}
