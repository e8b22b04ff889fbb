//! Where idshift is known to differ from the oracle. Each entry names its row in
//! `docs/semantics.md`, and a trial checks that the row is there.

use crate::step::Step;

/// One known deviation.
pub struct Deviation {
    /// Stands, in backquotes, in its row of `docs/semantics.md`.
    pub id: &'static str,
    /// Whether the sides go different ways from there, so that the rest of a sequence says nothing.
    pub parts: bool,
    /// Whether two answers to a step, or two lines about one file (no step), are this deviation:
    /// the oracle's, ours.
    shown_by: fn(Option<&Step>, &str, &str) -> bool,
}

/// The list. It may only shrink.
pub const KNOWN: &[Deviation] = &[
    Deviation { id: "refused-by-another-errno", parts: false, shown_by: refused_by_another_errno },
    Deviation { id: "unmapped-acl-entries", parts: false, shown_by: unmapped_acl_entries },
    Deviation { id: "no-tmpfile", parts: true, shown_by: no_tmpfile },
];

/// The deviation that a step's two answers show, if it is known.
pub fn of_answer(step: &Step, left: &str, right: &str) -> Option<&'static Deviation> {
    KNOWN.iter().find(|known| (known.shown_by)(Some(step), left, right))
}

/// The deviation that two lines about one file show, if it is known.
pub fn of_sight(left: &str, right: &str) -> Option<&'static Deviation> {
    KNOWN.iter().find(|known| (known.shown_by)(None, left, right))
}

/// Both refuse; the oracle looks at the map first and says EOVERFLOW, while a FUSE mount's
/// permissions are checked by the kernel before the server is asked.
fn refused_by_another_errno(step: Option<&Step>, left: &str, right: &str) -> bool {
    step.is_some() && left == "EOVERFLOW" && matches!(right, "EACCES" | "EPERM")
}

/// The FUSE library has no operation for O_TMPFILE.
fn no_tmpfile(step: Option<&Step>, _: &str, right: &str) -> bool {
    step.is_some_and(|step| step.call == "open" && step.args[2].contains("TMPFILE"))
        && right == "EOPNOTSUPP"
}

/// An ACL entry for an unmapped id: the oracle shows the invalid id, which a FUSE server cannot
/// send; it sends a placeholder without rights.
fn unmapped_acl_entries(_: Option<&Step>, left: &str, right: &str) -> bool {
    left != right && without_unmapped(left) == without_unmapped(right)
}

fn without_unmapped(line: &str) -> String {
    let blank = |word: &str| match word.rsplit_once(':') {
        Some((id, _)) if id.ends_with(":4294967295") || id.ends_with(":4294967294") => {
            format!("{}:unmapped", &id[..id.len() - 11])
        }
        _ => word.to_owned(),
    };
    line.split(',').map(blank).collect::<Vec<_>>().join(",")
}
