//! What `/etc/subuid` and `/etc/subgid` grant (subuid(5)). Other sources that nsswitch.conf(5) may
//! name for them are not asked: there is no stable interface to them.

use std::io;

use crate::shift::sources::{OwnIds, Range};
use crate::sys::users::{self, User};

/// Who may use which further uids.
pub const SUBUID: &str = "/etc/subuid";
/// Who may use which further gids.
pub const SUBGID: &str = "/etc/subgid";

/// A line of one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant<'a> {
    /// Login name or number, as it stands there.
    pub user: &'a str,
    /// What it grants.
    pub range: Range,
}

/// The lines `user:first:count` of a file. As in the programs of the shadow package, what is not
/// in that form is skipped.
pub fn grants(text: &str) -> impl Iterator<Item = Grant<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let user = fields.next().filter(|user| !user.is_empty() && !user.starts_with('#'))?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Grant { user, range: Range { first, count } })
    })
}

/// The text of one of the files; none grants nothing.
pub fn text_of(file: &str) -> io::Result<String> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// What a file grants to an account, by its name and by its number, in the order of the lines.
pub fn granted_to(text: &str, account: &User) -> Vec<Range> {
    let number = account.uid.to_string();
    grants(text)
        .filter(|grant| grant.user == account.name || grant.user == number)
        .map(|grant| grant.range)
        .collect()
}

/// The account that a login name or a number means.
pub fn account(user: &str) -> Result<User, String> {
    let failed = |errno| format!("cannot look up user '{}': {errno}", user.escape_debug());
    if let Some(found) = users::user_by_name(user).map_err(failed)? {
        return Ok(found);
    }
    let by_number = match user.parse() {
        Ok(uid) => users::user_by_uid(uid).map_err(failed)?,
        Err(_) => None,
    };
    by_number.ok_or_else(|| {
        format!(
            "there is no user '{}' on this machine ('getent passwd' lists them)",
            user.escape_debug()
        )
    })
}

/// All ids that a user may use: the account's own, and the granted ones.
pub fn own_ids(user: &str) -> Result<OwnIds, String> {
    let account = account(user)?;
    let granted = |file: &str| {
        let text = text_of(file).map_err(|error| format!("cannot read {file}: {error}"))?;
        Ok::<_, String>(granted_to(&text, &account))
    };
    Ok(OwnIds {
        uid: account.uid,
        gid: account.gid,
        uids: granted(SUBUID)?,
        gids: granted(SUBGID)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_name_and_by_number() {
        let text = "root:1:5\nann:100000:65536\n# ann:9:9\n1000:300000:7\nann:x:1\nann:1\n\n:1:1\n";
        let ann = User { name: "ann".to_owned(), uid: 1000, gid: 1000 };
        assert_eq!(
            granted_to(text, &ann),
            [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 7 }]
        );
        let other = User { name: "an".to_owned(), uid: 100, gid: 100 };
        assert_eq!(granted_to(text, &other), []);
        assert_eq!(grants(text).count(), 3);
    }

    #[test]
    fn accounts_have_names_and_numbers() {
        assert_eq!(account("root").unwrap(), account("0").unwrap());
        let error = account("no such user").unwrap_err();
        assert!(error.contains("no user 'no such user'"), "{error}");
        assert_eq!(text_of("/no such file").unwrap(), "");
        assert!(text_of("/").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            grants(&text).count();
        }
    }
}
