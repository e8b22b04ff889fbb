//! Tests of the option parser.

use proptest::prelude::*;

use std::time::Duration;

use super::*;

fn parse(text: &str) -> Options {
    Options::parse(&[text], Origin::Command, MountFlags::default()).unwrap()
}

fn error(text: &str) -> String {
    let error = Options::parse(&[text], Origin::Command, MountFlags::default()).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    error.to_string()
}

/// A value with which a known option is accepted.
fn sample(name: &str) -> String {
    match name {
        "map" => "map=b:0:1000:1".to_owned(),
        "fsname" => "fsname=x".to_owned(),
        "subtype" => "subtype=idshift".to_owned(),
        "cache" => "cache=none".to_owned(),
        "io" => "io=cached".to_owned(),
        "act_as" => "act_as=caller".to_owned(),
        "locks" => "locks=lower".to_owned(),
        "ownership" => "ownership=xattr:web".to_owned(),
        "guard" => "guard=hide".to_owned(),
        "sandbox" => "sandbox=off".to_owned(),
        "threads" => "threads=2".to_owned(),
        "restart" => "restart=on".to_owned(),
        "transport" => "transport=dev".to_owned(),
        "owned-by" => "owned-by=1000".to_owned(),
        "creators" => "creators=squash".to_owned(),
        "chown" => "chown=ignore".to_owned(),
        "idmap" => "idmap=deny".to_owned(),
        "log" => "log=debug".to_owned(),
        "unmapped" => "unmapped=restrict".to_owned(),
        "deny_groups" => "deny_groups=all".to_owned(),
        "backend" => "backend=auto".to_owned(),
        flag => flag.to_owned(),
    }
}

#[test]
fn every_listed_name_is_understood_and_no_refused_one_is() {
    for name in table::names() {
        parse(&sample(name));
    }
    for (name, _) in known::REFUSED {
        assert!(!table::names().any(|known| known == *name), "{name} is listed twice");
        assert!(error(name).contains(name), "{name}");
    }
}

/// What the help says can be written, can be written.
#[test]
fn every_form_in_the_help_is_understood() {
    let stands_for = [
        ("SECONDS", "0.5"),
        ("USER", "1000"),
        ("GROUP", "1000"),
        ("UID", "1000"),
        ("GID", "1000"),
        ("LABEL", "web"),
        ("NAME", "x"),
        ("LEVEL", "debug"),
        ("MODE", "0755"),
        ("SPEC", "identity"),
        ("N", "2"),
    ];
    for option in own::ROWS {
        let (name, forms) = option.form.split_once('=').unwrap_or((option.form, ""));
        assert_eq!(option.names, [name]);
        for form in forms.split(" | ") {
            for form in
                [form.replace(['[', ']'], ""), form.replace("[:GID]", "").replace("[:GROUP]", "")]
            {
                let value = stands_for
                    .iter()
                    .fold(form, |form, (capital, example)| form.replace(capital, example));
                let text =
                    if value.is_empty() { name.to_owned() } else { format!("{name}={value}") };
                parse(&text);
            }
        }
    }
}

#[test]
fn the_later_of_two_contradicting_options_wins() {
    assert!(!parse("ro,rw").flags.read_only);
    assert!(parse("rw,ro").flags.read_only);
    let flags = parse("noatime,strictatime").flags;
    assert!(flags.strictatime && !flags.noatime);
    let flags = parse("strictatime,relatime").flags;
    assert!(!flags.strictatime && !flags.noatime);
}

#[test]
fn user_implies_three_flags_unless_they_are_overridden_later() {
    let flags = parse("user").flags;
    assert!(flags.nosuid && flags.nodev && flags.noexec);
    let flags = parse("users,exec").flags;
    assert!(flags.nosuid && flags.nodev && !flags.noexec);
    let flags = parse("owner").flags;
    assert!(flags.nosuid && flags.nodev && !flags.noexec);
}

#[test]
fn what_mount_has_expanded_already_is_not_expanded_again() {
    let options =
        Options::parse(&["rw,nosuid,nodev,user"], Origin::MountProgram, MountFlags::default())
            .unwrap();
    assert!(!options.flags.noexec);
    let merged = "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,ro";
    let options = Options::parse(&[merged], Origin::MountProgram, MountFlags::default()).unwrap();
    assert!(options.remount && options.flags.read_only);
}

#[test]
fn maps_add_up_over_strings_and_blanks() {
    let strings = ["map=u:0:1:2,ro", r"map=g:5:6:7\040b:9:9:9"];
    let options = Options::parse(&strings, Origin::Command, MountFlags::default()).unwrap();
    assert_eq!(options.maps, ["u:0:1:2", "g:5:6:7", "b:9:9:9"]);
    assert_eq!(parse(r"map=file:/a b").maps, [r"file:/a\040b"]);
    assert_eq!(parse(r"map=userns:/a b").maps, [r"userns:/a\040b"]);
    assert_eq!(parse(r"map=userns:1 name:u:a=b").maps, ["userns:1", "name:u:a=b"]);
    assert_eq!(parse(r"map=file:/a\040b").maps, [r"file:/a\040b"]);
}

#[test]
fn values_are_read() {
    let options = parse(
        "fsname=My Disk,cache=ttl:0.25,locks=lower,submounts,threads=3,sandbox=off,log=debug,backend=auto,\
         x-systemd.automount,X-mount.mkdir=0755,comment=a b,_netdev,nofail",
    );
    assert_eq!(options.fsname.as_deref(), Some("My Disk"));
    assert_eq!(options.cache, CacheMode::Ttl(Duration::from_millis(250)));
    assert_eq!(options.locks, LockMode::Lower);
    assert_eq!(options.threads, Some(3));
    assert_eq!(options.sandbox, crate::config::Sandbox::Off);
    assert_eq!(options.log.as_deref(), Some("debug"));
    assert_eq!(options.backend, Backend::Auto);
    assert!(options.submounts);
}

#[test]
fn errors_name_the_option_the_value_and_the_way_out() {
    for (text, parts) in [
        ("nosuit", vec!["nosuit", "did you mean 'nosuid'"]),
        ("frobnicate", vec!["frobnicate", "--help"]),
        ("map=b:0:1:2,u:5:6:1", vec!["u:5:6:1", "map=u:5:6:1"]),
        ("ro=1", vec!["ro=1", "no value"]),
        ("map", vec!["map", "b:0:100000:65536"]),
        ("map=", vec!["needs a value"]),
        ("cache=ttl:nan", vec!["ttl:nan", "number of seconds"]),
        ("cache=ttl:-1", vec!["number of seconds"]),
        ("cache=ttl:1e99", vec!["number of seconds"]),
        ("locks=both", vec!["locks=both", "mount, lower"]),
        ("backend=bsd", vec!["fuse, kernel, auto"]),
        ("ownership=acl", vec!["ownership=acl", "chown, xattr and xattr:LABEL"]),
        ("ownership=xattr:a/b", vec!["64 letters"]),
        ("guard=all", vec!["guard=all", "none, nosuid, noexec, hide"]),
        ("sandbox=maybe", vec!["on, off"]),
        ("threads=0", vec!["from 1 to 256"]),
        ("log=loud", vec!["log=loud", "warn, info"]),
        ("subtype=other", vec!["fuse.idshift"]),
        ("allow_root", vec!["allow_root", "allow_other"]),
        ("unmapped=squash:ann", vec!["unmapped", "squash:1000:1000"]),
        ("user_id=0", vec!["unknown option 'user_id'"]),
    ] {
        let message = error(text);
        for part in parts {
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}

proptest! {
    #[test]
    fn no_string_makes_the_parser_panic(text in "\\PC*") {
        drop(Options::parse(&[text], Origin::Command, MountFlags::default()));
    }

    #[test]
    fn no_mix_of_option_like_pieces_makes_the_parser_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "map", "=", ",", "\\", "\"", "040", "ro", "cache", "ttl:", "1e309", "-", " ",
                "threads", "999999999999999999999", "x-", "\\377", "é",
            ]),
            0..20,
        )
    ) {
        let text = pieces.concat();
        drop(Options::parse(&[&text], Origin::Command, MountFlags::default()));
        drop(Options::parse(&[&text], Origin::MountProgram, MountFlags::default()));
    }

    /// Whatever value an option has, written with escapes it is read back as it was.
    #[test]
    fn an_escaped_value_survives(value in "[^\\x00]{1,40}") {
        let value = value.trim();
        prop_assume!(!value.is_empty());
        let mut text = "fsname=".to_owned();
        for letter in value.chars() {
            match letter {
                ',' | '\\' | '"' => text.extend(['\\', letter]),
                ' ' => text.push_str("\\040"),
                other => text.push(other),
            }
        }
        prop_assert_eq!(parse(&text).fsname, Some(value.to_owned()));
    }
}
