//! The table of mount options. Each option is one [`Row`], in [`super::own`] or [`super::generic`], and
//! everything that is known about options comes from the rows: the parser, `idshift mount --help`, the man
//! page, the list of names that a slip of the finger is compared with, what a remount and `backend=kernel` do
//! with an option, who may give it, which options exclude it, and what `idshift status` shows.
//!
//! # A new option
//!
//! 1. In `own.rs`: a row, and a field of [`Options`] with its documentation there if the option has a value
//!    to remember. A row says `..Row::OWN` for what is usual: ordinary users may give it, a remount
//!    leaves it as it was and says so, `backend=kernel` refuses it.
//! 2. Where it acts: read `config.options.FIELD`.
//!
//! Nothing else. `tests/mount/every_option.rs` goes through the rows, and fails for an option that some
//! situation accepts without a word and without an effect; it needs an example of the option there only if the
//! `form` does not show one.

use std::fmt::{self, Display, Formatter};

use super::split::Word;
use super::{Options, Origin};
use crate::error::StartError;

/// An option, or a few that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The names, without values.
    pub names: &'static [&'static str],
    /// How it is written: `cache=coherent | ttl:SECONDS | none | exclusive`. Words in capitals stand for
    /// something else.
    pub form: &'static str,
    /// What it does.
    pub text: &'static str,
    /// Whether a value belongs to it.
    pub has_value: bool,
    /// Takes the option.
    pub read: Read,
    /// The option as `idshift status` shows it; `None` where it has its default.
    pub shown: fn(&Options) -> Option<Shown>,
    /// Who may give it.
    pub who: Who,
    /// What `backend=kernel` makes of it.
    pub kernel: Kernel,
    /// What a remount makes of it.
    pub remount: Remount,
    /// Which options exclude it.
    pub conflicts: &'static [Conflict],
}

/// Reads an option into the field that it is about.
pub type Read = fn(&mut Options, &Word, Origin) -> Result<(), StartError>;

/// Who may give an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody, as far as `mount::check` has no objection.
    Everyone,
    /// Root of the machine, for this reason; others only with its default.
    Root(&'static str),
}

/// What `backend=kernel` makes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// An idmapped mount has the same.
    Has,
    /// An idmapped mount is as these values say; others need a server.
    HasOnly(&'static [&'static str]),
    /// It is about the server, and there is none; an idmapped mount is as these values say.
    HasNoServer(&'static [&'static str]),
}

/// What a remount makes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remount {
    /// It is changed.
    Changes,
    /// It stays as it was, and whoever gives it is told.
    Stays,
    /// It has no effect on any mount, as its description says.
    Nothing,
}

/// Two options that exclude each other.
#[derive(Debug, Clone, Copy)]
pub struct Conflict {
    /// As they are written.
    pub options: [&'static str; 2],
    /// Whether they meet.
    pub meet: fn(&Options) -> bool,
    /// Why not, and what to do.
    pub why: &'static str,
}

impl Row {
    /// What is usual for an option of idshift.
    pub const OWN: Self = Self {
        names: &[],
        form: "",
        text: "",
        has_value: true,
        read: |_, _, _| Ok(()),
        shown: |_| None,
        who: Who::Everyone,
        kernel: Kernel::HasOnly(&[]),
        remount: Remount::Stays,
        conflicts: &[],
    };

    /// What is usual for an option of every mount: a flag.
    pub const GENERIC: Self = Self {
        has_value: false,
        read: super::flag,
        kernel: Kernel::Has,
        remount: Remount::Changes,
        ..Self::OWN
    };

    /// Whether `word` is this option. `suid` and `suid=…` are two.
    pub fn is_for(&self, word: &Word) -> bool {
        self.names.contains(&&*word.name) && self.has_value == word.value.is_some()
    }
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    super::own::ROWS.iter().chain(super::generic::ROWS)
}

/// The names of all options.
pub fn names() -> impl Iterator<Item = &'static str> {
    rows().flat_map(|row| row.names).copied()
}

/// An option as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: &'static str,
    /// Its value; `None` for a flag that is set.
    pub value: Option<String>,
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// An option with this value.
pub(super) fn written(name: &'static str, value: impl Display) -> Shown {
    Shown { name, value: Some(value.to_string()) }
}

/// A flag that is set.
pub(super) fn set(name: &'static str) -> Shown {
    Shown { name, value: None }
}

/// The word for a value, of the same list that it is read with.
pub(super) fn word_for<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, meaning)| meaning == value).map_or("", |(word, _)| word)
}
