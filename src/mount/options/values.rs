//! Reading the values of options.

use std::time::Duration;

use super::split::Word;
use crate::config::{CacheMode, Ownership};
use crate::error::StartError;
use crate::shift::id::{Id, UpperGid, UpperUid};
use crate::shift::ownership::attribute;
use crate::shift::parse::Spec;
use crate::shift::sources::Namespace;
use crate::shift::unmapped::UnmappedOwners;

/// One `map=` may hold several specs, separated by blanks; a path may contain blanks, so a value
/// that starts with `file:` or `userns:/` is one spec. The escapes that the option string used up are put back
/// for the parser of specs, which has the same.
pub(super) fn specs(value: &str) -> Vec<String> {
    let spec = match (value.strip_prefix("file:"), value.strip_prefix("userns:")) {
        (Some(path), _) => Spec::File(path.into()),
        (_, Some(path)) if path.starts_with('/') => Spec::Namespace(Namespace::Path(path.into())),
        _ => return value.split_whitespace().map(str::to_owned).collect(),
    };
    vec![spec.to_string()]
}

pub(super) fn needed<'a>(word: &'a Word, example: &str) -> Result<&'a str, StartError> {
    match word.value.as_deref().map(str::trim) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(StartError::Usage(format!(
            "option '{}' needs a value, for example {example}",
            word.name
        ))),
    }
}

pub(super) fn bad(word: &Word, why: &str) -> StartError {
    let value = word.value.as_deref().unwrap_or_default();
    StartError::Usage(format!("option '{}={value}': {why}", word.name))
}

/// The meaning of a value that is one word out of a few.
pub(super) fn choice<T: Copy>(word: &Word, choices: &[(&str, T)]) -> Result<T, StartError> {
    let value = needed(word, &format!("{}={}", word.name, choices[0].0))?;
    if let Some((_, meaning)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*meaning);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(bad(word, &format!("the values are {}", names.join(", "))))
}

/// The value of `idmap=`, which Podman has for something else.
pub(super) fn idmap<T: Copy>(word: &Word, choices: &[(&str, T)]) -> Result<T, StartError> {
    let value = word.value.as_deref().unwrap_or_default();
    if ["uids=", "gids="].iter().any(|start| value.starts_with(start)) {
        return Err(bad(
            word,
            "that is Podman's, for 'podman run -v …:idmap=…', which works on a mount of idshift \
             (Linux 6.12); to have idshift itself shift, write map=u:STORED:SHOWN:COUNT, and g: for groups",
        ));
    }
    choice(word, choices)
}

pub(super) fn cache(word: &Word) -> Result<CacheMode, StartError> {
    const VALUES: &str = "the values are coherent, none, exclusive and ttl:SECONDS (virtiofsd's auto is \
                          ttl:1, its always is exclusive, its never and metadata are none)";
    match needed(word, "cache=ttl:1")? {
        "none" => Ok(CacheMode::None),
        "exclusive" => Ok(CacheMode::Exclusive),
        "coherent" => Ok(CacheMode::Coherent),
        value => {
            let seconds = value.strip_prefix("ttl:").ok_or_else(|| bad(word, VALUES))?;
            // A year: far past any use, and far from where the kernel's clock sums overflow.
            let seconds =
                seconds.parse().ok().filter(|seconds| (0.0..=31_536_000.0).contains(seconds));
            let time = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
            time.map(CacheMode::Ttl).ok_or_else(|| {
                bad(word, "the time is a number of seconds from 0 to 31536000, for example ttl:0.5")
            })
        }
    }
}

pub(super) fn threads(word: &Word) -> Result<usize, StartError> {
    needed(word, "threads=4")?
        .parse()
        .ok()
        .filter(|count| (1..=256).contains(count))
        .ok_or_else(|| bad(word, "the number of threads is from 1 to 256"))
}

/// The value of `ownership=`.
pub(super) fn ownership(word: &Word) -> Result<Ownership, StartError> {
    let value = needed(word, "ownership=xattr")?;
    match value.split_once(':') {
        None if value == "chown" => Ok(Ownership::Chown),
        None if value == "xattr" => Ok(Ownership::Xattr { label: None }),
        Some(("xattr", label)) => match attribute(Some(label)) {
            Some(_) => Ok(Ownership::Xattr { label: Some(label.to_owned()) }),
            None => Err(bad(word, "a label has 1 to 64 letters, digits, '-', '_' and '.'")),
        },
        _ => Err(bad(word, "the values are chown, xattr and xattr:LABEL")),
    }
}

/// The value of `X-mount.mkdir`: a mode in octal, or none.
pub(super) fn mode(word: &Word) -> Result<u32, StartError> {
    let Some(value) = word.value.as_deref() else { return Ok(0o755) };
    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| bad(word, "the mode is an octal number, for example 0755"))
}

/// The value of `log=`.
pub(super) fn log(word: &Word) -> Result<String, StartError> {
    let level = needed(word, "log=debug")?;
    crate::daemon::log::check(level).map_err(|why| bad(word, &why))?;
    Ok(level.to_owned())
}

pub(super) fn unmapped(word: &Word) -> Result<UnmappedOwners, StartError> {
    const VALUES: &str = "the values are overflow, restrict, owner:UID[:GID], squash:UID[:GID] and \
                          deny";
    let value = needed(word, "unmapped=restrict")?;
    let (name, ids) = value.split_once(':').map_or((value, None), |(name, ids)| (name, Some(ids)));
    match (name, ids) {
        ("overflow", None) => Ok(UnmappedOwners::Overflow),
        ("restrict", None) => Ok(UnmappedOwners::Restrict),
        ("deny", None) => Ok(UnmappedOwners::Deny),
        ("owner", Some(ids)) => pair(word, ids).map(|(u, g)| UnmappedOwners::Owner(u, g)),
        ("squash", Some(ids)) => pair(word, ids).map(|(u, g)| UnmappedOwners::Squash(u, g)),
        ("owner" | "squash", None) => Err(bad(
            word,
            &format!("say whose, as shown in the mount, for example {name}:1000:1000"),
        )),
        _ => Err(bad(word, VALUES)),
    }
}

/// `UID` or `UID:GID`; a group that is left out has the user's number.
fn pair(word: &Word, ids: &str) -> Result<(UpperUid, UpperGid), StartError> {
    let (user, group) = ids.split_once(':').unwrap_or((ids, ids));
    let wrong = || bad(word, "ids are numbers from 0 to 4294967294, for example squash:1000:1000");
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let user = Id::new(number(user)?).ok_or_else(wrong)?;
    let group = Id::new(number(group)?).ok_or_else(wrong)?;
    Ok((user, group))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::super::{Options, Origin};
    use super::*;
    use crate::config::{MountFlags, Policies};
    use crate::shift::set_id::SetIdPolicy;

    fn parse(text: &str) -> Result<Policies, String> {
        Options::parse(&[text], Origin::Command, MountFlags::default())
            .map(|options| options.policies)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn protections_are_off_unless_asked_for() {
        assert_eq!(parse("ro").unwrap(), Policies::default());
        assert_eq!(
            parse("unmapped=overflow,deny_groups=off,suid=pass").unwrap(),
            Policies::default()
        );
    }

    #[test]
    fn ids_that_stand_in_are_read() {
        let root_and_five = UnmappedOwners::Owner(Id::new(0).unwrap(), Id::new(5).unwrap());
        assert_eq!(parse("unmapped=owner:0:5").unwrap().unmapped, root_and_five);
        let both = UnmappedOwners::Squash(Id::new(7).unwrap(), Id::new(7).unwrap());
        assert_eq!(parse("unmapped=squash:7").unwrap().unmapped, both);
    }

    #[test]
    fn suid_with_a_value_is_another_option_than_without() {
        let options =
            Options::parse(&["nosuid,suid=deny"], Origin::Command, MountFlags::default()).unwrap();
        assert!(options.flags.nosuid);
        assert_eq!(options.policies.set_id, SetIdPolicy::Deny);
    }

    #[test]
    fn wrong_values_are_named_with_the_right_ones() {
        for (text, part) in [
            ("unmapped=hide", "restrict"),
            ("unmapped=owner", "owner:1000"),
            ("unmapped=restrict:5", "overflow"),
            ("unmapped=squash:ann", "numbers"),
            ("unmapped=squash:1:2:3", "numbers"),
            ("unmapped=owner:4294967295", "4294967294"),
            ("deny_groups=yes", "off, group, all"),
            ("suid=no", "pass, deny, shadow"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text) && error.contains(part), "{error}");
        }
    }
}
