//! What has to be known about options apart from each: how maps are written, and how option strings are.
//! `idshift mount --help` and the man pages are made from it and from the rows of `table`.

/// A way to write a map, as a person would type it.
#[derive(Debug, Clone, Copy)]
pub struct MapForm {
    /// How it is written; words in capitals stand for something else.
    pub form: &'static str,
    /// What it means.
    pub text: &'static str,
}

const fn map(form: &'static str, text: &'static str) -> MapForm {
    MapForm { form, text }
}

/// The ways to write a map.
pub const MAPS: &[MapForm] = &[
    map(
        "b:STORED:SHOWN:COUNT",
        "stored ids from STORED on are shown from SHOWN on, users and groups",
    ),
    map("u:STORED:SHOWN:COUNT", "the same for users alone"),
    map("g:STORED:SHOWN:COUNT", "the same for groups alone"),
    map("offset:N[:COUNT]", "b:0:N:COUNT; COUNT is 65536 if left out"),
    map("identity", "ids as they are"),
    map("file:PATH", "lines 'u|g|b STORED SHOWN COUNT' from a file"),
    map(
        "userns:PID, userns:/PATH",
        "the map of a user namespace, named by a process or by its file: its ids are stored, this \
         side's are shown",
    ),
    map(
        "subuid:NAME[:COUNT]",
        "the user NAME is shown as root, and NAME's ranges of /etc/subuid and /etc/subgid as \
         1, 2, 3, …; COUNT ids in all",
    ),
    map("name:u:STORED=SHOWN", "one user by name; name:g: for a group, name:b: for both"),
];

/// What has to be known about writing options, one sentence each.
pub const NOTES: &[&str] = &[
    "A mount made by an ordinary user always has nosuid and nodev.",
    "Options are separated by commas. A comma inside a value is written '\\,', a blank '\\040'.",
    "Where two options contradict each other, the later one counts.",
];
