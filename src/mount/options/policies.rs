//! The options that choose protections: `unmapped=`, `deny_groups=`, `suid=`.

use super::split::Word;
use super::{bad, choice, needed};
use crate::config::Policies;
use crate::error::StartError;
use crate::shift::deny_groups::DenyGroups;
use crate::shift::foreign::{Creators, ForeignOwners};
use crate::shift::id::{Id, UpperGid, UpperUid};
use crate::shift::set_id::SetIdPolicy;
use crate::shift::unmapped::UnmappedOwners;

/// Takes an option that chooses a protection; `false` if it is another one.
pub(super) fn apply(policies: &mut Policies, word: &Word) -> Result<bool, StartError> {
    match word.name.as_str() {
        "unmapped" => policies.unmapped = unmapped(word)?,
        "deny_groups" => {
            policies.deny_groups = choice(
                word,
                &[("off", DenyGroups::Off), ("group", DenyGroups::Group), ("all", DenyGroups::All)],
            )?;
        }
        "creators" => {
            policies.creators =
                choice(word, &[("refuse", Creators::Refuse), ("squash", Creators::Squash)])?;
        }
        "chown" => {
            policies.foreign_owners = choice(
                word,
                &[("refuse", ForeignOwners::Refuse), ("ignore", ForeignOwners::Ignore)],
            )?;
        }
        // Without a value it is the opposite of nosuid.
        "suid" if word.value.is_some() => {
            policies.set_id = choice(
                word,
                &[
                    ("pass", SetIdPolicy::Pass),
                    ("deny", SetIdPolicy::Deny),
                    ("shadow", SetIdPolicy::Shadow),
                ],
            )?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn unmapped(word: &Word) -> Result<UnmappedOwners, StartError> {
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
    use crate::config::MountFlags;

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
