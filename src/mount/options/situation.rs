//! What becomes of the options that were given: with `backend=kernel`, at a remount, for ordinary users. An
//! option is honoured, or somebody is told.

use super::Options;
use super::split::Word;
use super::table::{Kernel, Remount, Row, Who, rows};
use crate::error::StartError;
use crate::host::mountinfo::Mount;
use crate::mount::flags::{self, Flag};

/// Options that an idmapped mount of the kernel does not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// What only a server can do.
    pub needs_server: Vec<String>,
    /// What is about a server alone.
    pub about_server: Vec<String>,
}

impl Options {
    /// The last word of each option, with its row.
    fn given(&self) -> impl Iterator<Item = (&'static Row, &Word)> {
        rows().filter_map(|row| {
            let word = self.words.iter().rfind(|word| row.is_for(word))?;
            Some((row, word))
        })
    }

    /// The given options that an idmapped mount of the kernel does not have, as they were written.
    pub fn missing_in_kernel(&self) -> Missing {
        let mut missing = Missing::default();
        for (row, word) in self.given() {
            let is_one_of =
                |values: &[&str]| values.iter().any(|value| word.value.as_deref() == Some(value));
            match row.kernel {
                Kernel::HasOnly(values) if !is_one_of(values) => {
                    missing.needs_server.push(word.to_string());
                }
                Kernel::HasNoServer(values) if !is_one_of(values) => {
                    missing.about_server.push(word.to_string());
                }
                _ => {}
            }
        }
        let of_file_system = flags::set(self.flags).filter(|flag| flag.attr.is_none());
        missing.needs_server.extend(of_file_system.map(|flag| flag.name.to_owned()));
        missing
    }

    /// The option that clears a flag, if the last one about that flag does.
    pub(in crate::mount) fn clears(&self, flag: &Flag) -> Option<&Word> {
        let told = |word: &Word| flag.told_by(&word.name).filter(|_| word.value.is_none());
        let last = self.words.iter().rfind(|word| told(word).is_some())?;
        (told(last) == Some(false)).then_some(last)
    }

    /// The given options that a remount of `mount` leaves as they were, as they were written.
    pub fn left_by_remount(&self, mount: &Mount) -> Vec<String> {
        let is_so_already = |word: &Word| match &*word.name {
            "allow_other" => mount.fs_options.split(',').any(|option| option == "allow_other"),
            "fsname" => word.value.as_deref() == mount.source.to_str(),
            _ => false,
        };
        let present = [&mount.options, &mount.fs_options];
        let is_set =
            |flag: &Flag| present.iter().any(|text| text.split(',').any(|it| it == flag.name));
        let kept = flags::FLAGS.iter().filter(|flag| !flag.changes_at_remount);
        let flags = kept.filter(|flag| flag.is_set(self.flags) && !is_set(flag));
        self.given()
            .filter(|(row, word)| row.remount == Remount::Stays && !is_so_already(word))
            .map(|(_, word)| word.to_string())
            .chain(flags.map(|flag| flag.name.to_owned()))
            .collect()
    }

    /// Refuses what only root of the machine may ask for.
    pub fn check_without_root(&self) -> Result<(), StartError> {
        for row in rows() {
            if let (Who::Root(why), Some(shown)) = (row.who, (row.shown)(self)) {
                return Err(StartError::Usage(format!(
                    "option '{shown}': is for root of the machine, because {why}; leave it out, or let \
                     root mount"
                )));
            }
        }
        Ok(())
    }

    /// Refuses options that exclude each other.
    pub fn check_conflicts(&self) -> Result<(), StartError> {
        let met = rows().flat_map(|row| row.conflicts).find(|conflict| (conflict.meet)(self));
        met.map_or(Ok(()), |conflict| {
            let [one, other] = conflict.options;
            let why = conflict.why;
            Err(StartError::Usage(format!("option '{one}' with '{other}': {why}")))
        })
    }
}
