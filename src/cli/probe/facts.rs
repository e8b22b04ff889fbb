//! What this machine, this user and this lower directory can do. Everything is found by trying,
//! or by asking the kernel, and nothing is changed.

pub mod init;
pub mod lower;
mod sandbox;

use std::fmt;
use std::path::Path;

use crate::fuse::negotiate::{FEATURES, WITHOUT_IDMAP, WITHOUT_URING, can_be_idmapped, has_uring};
use crate::host::privilege::{self, Standing};
use crate::mount::check;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Yes,
    /// It is not there.
    No,
    /// It cannot be told as this user.
    Unknown,
    /// A plain fact.
    Fact,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Unknown => "?",
            Answer::Fact => "",
        })
    }
}

impl From<bool> for Answer {
    fn from(is: bool) -> Self {
        if is { Answer::Yes } else { Answer::No }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The heading that it stands under.
    pub section: &'static str,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub answer: Answer,
    /// The fact itself, the reason, or what it means.
    pub detail: String,
}

/// The rows of one section, as they are found.
#[derive(Debug)]
pub struct Section {
    name: &'static str,
    rows: Vec<Row>,
}

impl Section {
    fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new() }
    }

    fn add(&mut self, what: &str, answer: impl Into<Answer>, detail: impl Into<String>) {
        self.rows.push(Row {
            section: self.name,
            what: what.to_owned(),
            answer: answer.into(),
            detail: detail.into(),
        });
    }
}

/// `FUSE_PASSTHROUGH` in the kernel's include/uapi/linux/fuse.h.
const PASSTHROUGH: u64 = 1 << 37;

/// Looks at everything; at a lower directory too, if one is given.
pub fn all(lower_directory: Option<&Path>) -> Vec<Row> {
    let standing = Standing::of_this_process();
    let init = init::ask();
    let mut rows = machine(standing);
    rows.extend(fuse(standing, init.as_ref()));
    rows.extend(namespaces(standing));
    rows.extend(sandbox::parts(standing));
    let found = lower_directory.map(|path| lower::look_at(path, standing));
    let outlook = outlook(standing, init.ok().map(|init| init.flags), found.as_ref());
    rows.extend(found.map(|found| found.rows).unwrap_or_default());
    rows.extend(outlook);
    rows
}

/// What idshift will use here, and why.
fn outlook(standing: Standing, offer: Option<u64>, lower: Option<&lower::Found>) -> Vec<Row> {
    let passthrough = offer.is_some_and(|offer| offer & PASSTHROUGH != 0);
    let mut section = Section::new("What idshift will use");
    let (by, why) = match (standing, check::why_no_fuse(standing)) {
        (_, Some(_)) => ("nothing", "FUSE cannot be reached, see above"),
        (Standing::Ordinary, None) => ("fusermount3", "an ordinary user may not mount"),
        _ => ("mount(2)", "this process may mount"),
    };
    section.add("to mount", Answer::Fact, format!("{by}: {why}"));
    let remote = lower.is_some_and(|found| found.remote);
    let (by, why) = match (standing, passthrough) {
        (Standing::Root, _) if remote => {
            ("the server", "somebody else serves the lower file system, and is told who opens what")
        }
        (Standing::Root, true) => ("the kernel itself", "it has passthrough"),
        (Standing::Root, false) => ("the server", "this kernel has no passthrough"),
        _ => ("the server", "passthrough is for root only"),
    };
    section.add("to read and write", Answer::Fact, format!("{by}: {why}"));
    match offer.map(can_be_idmapped) {
        Some(true) => {
            section.add("idmapped mounts of it", true, "':idmap' of container tools works");
        }
        Some(false) => section.add("idmapped mounts of it", false, WITHOUT_IDMAP),
        None => section.add("idmapped mounts of it", Answer::Unknown, "needs Linux 6.12"),
    }
    let uring = "requests by io_uring";
    match offer.map(has_uring) {
        Some(true) => section.add(
            uring,
            true,
            "transport=uring has callers answered on their own CPU: no other one is woken",
        ),
        Some(false) => section.add(uring, false, WITHOUT_URING),
        None => section.add(uring, Answer::Unknown, "needs Linux 6.14"),
    }
    if let Some(found) = lower {
        let (by, why) = match found.handles {
            Some(true) => ("file handles", "they can be opened here"),
            Some(false) => ("a verified walk from the top", "file handles cannot be opened here"),
            None => ("nothing", "the lower directory cannot be opened"),
        };
        section.add("to find files again", Answer::Fact, format!("{by}: {why}"));
        if found.handles.is_some() {
            section.add("with backend=auto", Answer::Fact, found.backend.clone());
        }
    }
    section.rows
}

fn machine(standing: Standing) -> Vec<Row> {
    let mut section = Section::new("This machine");
    let name = rustix::system::uname();
    section.add(
        "kernel",
        Answer::Fact,
        format!("{} ({})", name.release().to_string_lossy(), name.machine().to_string_lossy()),
    );
    let uid = rustix::process::geteuid().as_raw();
    section.add(
        "user",
        Answer::Fact,
        match standing {
            Standing::Root => "root: makes mounts itself, and they honour set-user-ID programs \
                               and devices unless told not to"
                .to_owned(),
            Standing::NamespaceRoot => "root of a user namespace: makes mounts itself, for the \
                                        processes in that namespace"
                .to_owned(),
            Standing::Ordinary => {
                format!("uid {uid}: makes mounts through fusermount3, always with nosuid and nodev")
            }
        },
    );
    section.rows
}

fn fuse(standing: Standing, init: Result<&init::Init, &String>) -> Vec<Row> {
    let mut section = Section::new("FUSE");
    match check::why_no_fuse(standing) {
        None => section.add(check::DEVICE, true, "idshift can mount"),
        Some(why) => section.add(check::DEVICE, false, why),
    }
    match init {
        Ok(init) => {
            let version = format!("{}.{}, as the kernel says at mount", init.major, init.minor);
            section.add("protocol", Answer::Fact, version);
            for feature in FEATURES {
                let on = init.has(feature.bits);
                let meaning = if on { feature.why } else { feature.without };
                section.add(feature.name, on, format!("{meaning} (Linux {})", feature.since));
            }
        }
        Err(why) => section.add("protocol", Answer::Unknown, why),
    }
    match privilege::fusermount() {
        Some(path) => section.add("fusermount3", true, path.display().to_string()),
        None => section.add("fusermount3", false, "ordinary users need it: package fuse3"),
    }
    let conf = "allow_other for ordinary users, in /etc/fuse.conf";
    section.add("user_allow_other", privilege::user_allow_other(), conf);
    section.rows
}

/// Settings that keep ordinary users from making user namespaces, and the value that allows them.
const SETTINGS: &[(&str, &str)] = &[
    ("kernel.unprivileged_userns_clone", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "0"),
];

fn namespaces(standing: Standing) -> Vec<Row> {
    let mut section = Section::new("User namespaces");
    let setting = |name: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")));
        text.ok().map(|text| text.trim().to_owned())
    };
    match init::try_user_namespace() {
        Ok(()) => section.add("can be made", true, "tried"),
        Err(why) => section.add("can be made", false, why),
    }
    if let Some(most) = setting("user.max_user_namespaces") {
        section.add("user.max_user_namespaces", most != "0", most.clone());
    }
    for (name, allowed) in SETTINGS {
        if let Some(value) = setting(name) {
            section.add(name, value == *allowed, format!("{value} ({allowed} allows everybody)"));
        }
    }
    if standing == Standing::Ordinary {
        match crate::host::userns::granted_ranges() {
            Some((uids, gids)) => section.add(
                "ids of one's own",
                true,
                format!(
                    "{} uids from {}, {} gids from {} (/etc/subuid, /etc/subgid)",
                    uids.count, uids.first, gids.count, gids.first
                ),
            ),
            None => section.add(
                "ids of one's own",
                false,
                "no line for this user in /etc/subuid and /etc/subgid, or no newuidmap",
            ),
        }
    }
    section.rows
}
