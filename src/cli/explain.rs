//! `idshift explain`: what somebody may do with a path of a mount, and which rule says so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::status::ask::{Answer, Asking};
use crate::error::StartError;
use crate::fs::Want;
use crate::plain;
use crate::report::Question;
use crate::sys::users;

/// Explain what a user may do with PATH on an idshift mount, and which rule denies it
///
/// Tells how the file is stored and shown, which entry of the map translates its owners, which ACL
/// and policies apply, and what the user may do. Directories above the mount are not looked at.
/// Only root and the user who runs the mount's server may ask.
///
/// Exit code: 0, or with --want 32 if it is denied.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who: a name or a number as the mount shows it, with groups, the primary one first; you, if
    /// left out. The user 0 has all capabilities, others have none
    #[arg(short, long, value_name = "USER[:GROUP[,GROUP]…]")]
    user: Option<String>,
    /// What for: r, w, x, create, delete, chmod or chown; all of these if left out
    #[arg(short, long, value_name = "WHAT")]
    want: Option<String>,
    /// A path in the mount; for 'create' it need not be there
    path: PathBuf,
}

/// Whoever explains waits longer than whoever looks.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(args: &Args) -> Result<u8, StartError> {
    let want = args.want.as_deref().map(want).transpose()?;
    let (uid, groups) = match &args.user {
        Some(user) => person(user)?,
        None => myself()?,
    };
    let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let details = format!("{uid}\n{}\n{}\n", groups.join(","), want.map_or("", Want::name));
    let system = |source| StartError::System { what: "cannot ask the mount".to_owned(), source };
    let path = std::path::absolute(&args.path).map_err(system)?;
    let mut asking = Asking::start(&path, Question::Rights, details.as_bytes()).map_err(system)?;
    let wrong = |why: &str| {
        Err(StartError::Path { role: "path", path: args.path.clone(), why: why.to_owned() })
    };
    let text = match asking.wait(Instant::now() + PATIENCE).map_err(system)? {
        Answer::Text(_, text) => text,
        Answer::Hung => return wrong("the mount's server does not answer; see 'idshift status'"),
        Answer::Failed(_, Errno::NOTTY) => {
            return wrong("is in no idshift mount; 'idshift status' lists them");
        }
        Answer::Failed(_, Errno::PERM) => {
            return wrong("only root and the user who runs the mount's server may ask");
        }
        Answer::Failed(_, Errno::NOTCONN | Errno::CONNABORTED) => {
            return wrong("the mount's server has gone; see 'idshift status'");
        }
        Answer::Failed(_, errno) => return wrong(&errno.to_string()),
    };
    let (verdict, lines) = text.split_once('\n').unwrap_or((&text, ""));
    tell!("{}", plain::lines(lines));
    Ok(if verdict.starts_with("denied") { 32 } else { 0 })
}

fn want(word: &str) -> Result<Want, StartError> {
    Want::from_name(word).ok_or_else(|| {
        let words: Vec<_> = Want::NAMES.iter().map(|(name, _)| *name).collect();
        StartError::Usage(format!("option '--want={word}': give one of {}", words.join(", ")))
    })
}

fn myself() -> Result<(u32, Vec<u32>), StartError> {
    let more = rustix::process::getgroups().map_err(|errno| StartError::System {
        what: "cannot read the own groups".to_owned(),
        source: errno.into(),
    })?;
    let gid = rustix::process::getegid().as_raw();
    let more = more.into_iter().map(rustix::process::Gid::as_raw).filter(|other| *other != gid);
    Ok((rustix::process::geteuid().as_raw(), std::iter::once(gid).chain(more).collect()))
}

/// `USER`, with the groups of the account, or `USER:GROUP,…`.
fn person(text: &str) -> Result<(u32, Vec<u32>), StartError> {
    let wrong = |what: &str, name: &str| {
        StartError::Usage(format!(
            "option '--user={text}': there is no {what} '{name}' here; give a number"
        ))
    };
    let (user, groups) = match text.split_once(':') {
        Some((user, groups)) => (user, Some(groups)),
        None => (text, None),
    };
    let account = match user.parse() {
        Ok(uid) => users::user_by_uid(uid).ok().flatten().ok_or(uid),
        Err(_) => {
            Ok(users::user_by_name(user).ok().flatten().ok_or_else(|| wrong("user", user))?)
        }
    };
    let uid = account.as_ref().map_or_else(|uid| *uid, |account| account.uid);
    let Some(groups) = groups else {
        // A number without an account: with the group of the same number, as useradd(8) makes it.
        return Ok((
            uid,
            account.map_or_else(
                |uid| vec![uid],
                |account| users::groups_of(&account.name, account.gid),
            ),
        ));
    };
    let one = |name: &str| match name.parse() {
        Ok(gid) => Ok(gid),
        Err(_) => users::gid_by_name(name).ok().flatten().ok_or_else(|| wrong("group", name)),
    };
    Ok((uid, groups.split(',').map(one).collect::<Result<_, _>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn users_are_given_by_name_or_number() {
        assert_eq!(person("0:0,4").unwrap(), (0, vec![0, 4]));
        assert_eq!(person("root").unwrap().0, 0);
        assert_eq!(person("3999999").unwrap(), (3_999_999, vec![3_999_999]));
        assert_eq!(person("7:root").unwrap(), (7, vec![0]));
        for wrong in ["nobody-of-that-name", "0:no-such-group", ""] {
            assert!(person(wrong).unwrap_err().to_string().contains("give a number"), "{wrong}");
        }
        assert!(want("read").unwrap_err().to_string().contains("r, w, x"));
    }
}
