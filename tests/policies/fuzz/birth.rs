//! What may be made by one call, and how.

use super::judge::{S_ISGID, Trial};
use super::outcome::{PROGRAM, SET_ID, Verdict};
use super::shown::effective;
use super::step::Call;
use super::tree::{KEPT, Object, RECORD, S_IFDIR, S_IFLNK, S_IFREG, Stored};
use crate::common::{ACL_ACCESS, ACL_DEFAULT, machine};

/// Judges what a call has made.
pub(super) fn judge(trial: &Trial<'_>, after: &Stored, number: u64, made: &Object) -> Verdict {
    let (policy, step) = (trial.policy, trial.step);
    let kind = trial.kind_made().ok_or("made out of nothing")?;
    if made.kind != kind {
        return Err("made as another kind".into());
    }
    let names: Vec<_> = after.names_of(number).collect();
    let [(parent, _)] = names[..] else { return Err(format!("made with the names {names:?}")) };
    // The directory that an unnamed file was made in gives it group and ACL.
    let parent = if step.call == Call::Tmpfile {
        trial.find(step.path, true)?.number.ok_or("without such a directory")?
    } else {
        *parent
    };
    let parent = &trial.before.objects[&parent];
    if machine().kernel_backend && step.call == Call::Whiteout {
        return Ok(());
    }
    let (uid, gid, squashed) = policy.born(step.who).ok_or("made by somebody of no ids")?;
    let inherits = parent.mode & S_ISGID != 0;
    // Beside an attribute there is no room for a node: a whiteout is the server's.
    let (uid, gid, inherits) = match step.call {
        Call::Whiteout if policy.recorded => (0, 0, false),
        _ => (uid, gid, inherits),
    };
    if made.uid != uid || made.gid != if inherits { parent.gid } else { gid } {
        return Err("made with other ids".into());
    }
    trial.may_make_device(kind, made.device, squashed)?;
    let asked = match step.call {
        Call::Symlink => 0o777,
        Call::Whiteout => 0,
        _ => step.mode,
    };
    let inherited = if kind == S_IFDIR && inherits { S_ISGID } else { 0 };
    let asked = if kind == S_IFDIR { asked & !SET_ID } else { asked };
    if made.mode & !(asked | inherited) != 0 {
        return Err("made with bits that nobody asked for".into());
    }
    if kind == S_IFREG && made.mode & SET_ID != 0 {
        let member = policy.shown_group(made.gid).is_some_and(|gid| step.who.is_in(gid));
        if squashed || !policy.stores_set_id(made.uid, made.gid) {
            return Err("made with set-ID bits, which the policy forbids".into());
        }
        if made.mode & PROGRAM == PROGRAM && !member && !step.who.is_root() {
            return Err("made as a program of another's group".into());
        }
    }
    if policy.recorded
        && step.call != Call::Whiteout
        && (made.real.0 & 0o7077 != 0 || (made.real.1, made.real.2) != (0, 0))
    {
        return Err("the lower file is not the server's".into());
    }
    if made.capability().is_some() || (!made.content.0.is_empty() && kind != S_IFLNK) {
        return Err("made with contents or capabilities".into());
    }
    inherited_acls(made, parent)
}

/// A new file's ACLs come from the directory's default one.
fn inherited_acls(made: &Object, parent: &Object) -> Verdict {
    let given = parent.acl(ACL_DEFAULT).unwrap_or_default();
    for name in [ACL_ACCESS, ACL_DEFAULT] {
        for entry in made.acl(name).unwrap_or_default() {
            let of = given.iter().find(|given| (given.0, given.2) == (entry.0, entry.2));
            let most = of.map_or(0, |given| given.1);
            if entry.1 & !most != 0 && effective(entry, &given) & !most != 0 {
                return Err(format!("made with {entry:?} in its {name}"));
            }
        }
    }
    for name in made.attributes.keys() {
        if ![ACL_ACCESS, ACL_DEFAULT, KEPT, RECORD].contains(&name.as_str()) {
            return Err(format!("made with {name}"));
        }
    }
    Ok(())
}
