//! The options of a mount: `-o` strings as they come from a command line, from mount(8) or from
//! `/etc/fstab`, read into one checked value. Nothing here touches the system; what the options
//! mean for this machine is decided in `mount::check`.

pub mod described;
pub mod foreign;
pub mod generic;
pub mod known;
pub mod own;
pub mod situation;
pub mod split;
pub mod table;
mod values;

use crate::config::{
    ActAs, Backend, CacheMode, GuardMode, IoMode, LockMode, MountFlags, Ownership, Policies,
    Sandbox, Transport,
};
use crate::error::StartError;
use crate::mount::flags;
use split::Word;
use table::Row;

/// The name that the mount carries behind `fuse.` in `/proc/mounts`.
pub const SUBTYPE: &str = "idshift";

/// Who wrote the option string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A person, on the command line: `user`, `owner`, … still imply `noexec,nosuid,nodev`.
    Command,
    /// mount(8), which has already expanded them (and an `exec` after them has already won), and
    /// which on a remount also hands back what it read in `/proc/self/mountinfo`.
    MountProgram,
}

impl Origin {
    /// As one command says it to another.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Command => "command",
            Origin::MountProgram => "mount",
        }
    }
}

/// What the option strings ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a yes or no of its own
pub struct Options {
    /// Map specs, in the order in which they were given.
    pub maps: Vec<String>,
    /// Flags that the kernel keeps on the mount.
    pub flags: MountFlags,
    /// Others than the one who mounts may enter; asked for by name.
    pub allow_other: bool,
    /// The source to show in `/proc/mounts`.
    pub fsname: Option<String>,
    /// See [`CacheMode`].
    pub cache: CacheMode,
    /// See [`IoMode`].
    pub io: IoMode,
    /// See [`LockMode`].
    pub locks: LockMode,
    /// Whose everything is to be (`owned-by=`), as it was written.
    pub owned_by: Option<String>,
    /// See [`ActAs`].
    pub act_as: ActAs,
    /// See [`Policies`].
    pub policies: Policies,
    /// Show what is mounted below the lower directory.
    pub submounts: bool,
    /// See [`Ownership`].
    pub ownership: Ownership,
    /// See [`GuardMode`].
    pub guard: GuardMode,
    /// See [`Sandbox`].
    pub sandbox: Sandbox,
    /// See [`Transport`].
    pub transport: Transport,
    /// A new server goes on should the server be killed.
    pub restart: bool,
    /// Make a mount point that is not there, with this mode.
    pub make_mountpoint: Option<u32>,
    /// The kernel may not idmap the mount.
    pub no_idmap: bool,
    /// Worker threads.
    pub threads: Option<usize>,
    /// The log level or filter.
    pub log: Option<String>,
    /// See [`Backend`].
    pub backend: Backend,
    /// Change the flags of a mount that is there.
    pub remount: bool,
    /// All of this as it was written, in that order.
    pub words: Vec<Word>,
}

impl Options {
    /// Reads option strings, left to right; where two contradict each other, the later one wins,
    /// as in mount(8). `flags` are those to start from: none for a new mount, the present ones for
    /// a remount.
    pub fn parse<S: AsRef<str>>(
        strings: &[S],
        origin: Origin,
        flags: MountFlags,
    ) -> Result<Self, StartError> {
        let mut options = Self { flags, ..Self::default() };
        for string in strings {
            for word in split::split(string.as_ref())? {
                options.apply(word, origin)?;
            }
        }
        Ok(options)
    }

    fn apply(&mut self, word: Word, origin: Origin) -> Result<(), StartError> {
        if is_for_others(&word.name, origin) {
            return Ok(());
        }
        // Without its value: reading it says what is missing.
        let valueless = |row: &&Row| word.value.is_none() && row.names.contains(&&*word.name);
        let row =
            table::rows().find(|row| row.is_for(&word)).or_else(|| table::rows().find(valueless));
        if let Some(row) = row {
            (row.read)(self, &word, origin)?;
            self.words.push(word);
            return Ok(());
        }
        if origin == Origin::MountProgram && is_from_mountinfo(&word.name) {
            return Ok(());
        }
        Err(unknown(&word))
    }
}

/// Takes a flag that the kernel keeps on the mount.
fn flag(options: &mut Options, word: &Word, _: Origin) -> Result<(), StartError> {
    if flags::apply(&mut options.flags, &word.name) { Ok(()) } else { Err(unknown(word)) }
}

/// Options that are meant for fstab readers, systemd and mount(8), never for a helper: mount(8)
/// passes `x-…` on in some versions. `X-mount.…` is carried out by mount(8), and without it by nobody else.
fn is_for_others(name: &str, origin: Origin) -> bool {
    let of_mount = name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("x-mount."));
    if of_mount {
        return origin == Origin::MountProgram;
    }
    name.starts_with("x-") || name.starts_with("X-") || name == "comment"
}

/// What the kernel shows of a FUSE mount, which mount(8) merges into the options of a remount.
fn is_from_mountinfo(name: &str) -> bool {
    matches!(name, "user_id" | "group_id" | "rootmode" | "max_read" | "fd" | "blksize")
}

/// What to say of an option that no row takes.
fn unknown(word: &Word) -> StartError {
    let name = &word.name;
    if let Some(advice) = foreign::advice(word) {
        return StartError::Usage(format!("option '{word}': {advice}"));
    }
    if table::names().any(|known| known == name) {
        return StartError::Usage(format!(
            "option '{word}': '{name}' takes no value; write just '{name}'"
        ));
    }
    if let Some((_, reason)) = known::REFUSED.iter().find(|(refused, _)| refused == name) {
        return StartError::Usage(format!("option '{name}': {reason}"));
    }
    if crate::shift::parse::looks_like_a_spec(name) {
        return StartError::Usage(format!(
            "unknown option '{name}': it looks like an id map; write 'map={name}', and 'map=' again \
             before each further one"
        ));
    }
    let hint = match known::nearest(name) {
        Some(near) => format!("; did you mean '{near}'?"),
        None => "; 'idshift mount --help' lists the options".to_owned(),
    };
    StartError::Usage(format!("unknown option '{name}'{hint}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests;
