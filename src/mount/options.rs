//! The options of a mount: `-o` strings as they come from a command line, from mount(8) or from
//! `/etc/fstab`, read into one checked value. Nothing here touches the system; what the options
//! mean for this machine is decided in `mount::check`.

pub mod described;
pub mod known;
mod policies;
pub mod split;

use std::time::Duration;

use crate::config::{
    Backend, CacheMode, GuardMode, IoMode, LockMode, MountFlags, Ownership, Policies, Sandbox,
};
use crate::error::StartError;
use crate::shift::parse::Spec;
use crate::shift::sources::Namespace;
use split::Word;

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
    /// A new server goes on should the server be killed.
    pub restart: bool,
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
                options.apply(&word, origin)?;
            }
        }
        Ok(options)
    }

    fn apply(&mut self, word: &Word, origin: Origin) -> Result<(), StartError> {
        if is_for_others(&word.name) {
            return Ok(());
        }
        if self.apply_valued(word)? {
            return Ok(());
        }
        if origin == Origin::MountProgram && is_from_mountinfo(&word.name) {
            return Ok(());
        }
        let known = self.apply_flag(&word.name) || self.apply_generic(&word.name, origin);
        match &word.value {
            None if known => Ok(()),
            Some(value) if known => Err(StartError::Usage(format!(
                "option '{name}={value}': '{name}' takes no value; write just '{name}'",
                name = word.name
            ))),
            _ => Err(unknown(word)),
        }
    }

    /// Flags that the kernel knows. `true` if `name` is one of them.
    fn apply_flag(&mut self, name: &str) -> bool {
        let flags = &mut self.flags;
        match name {
            "ro" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "nosuid" => flags.nosuid = true,
            "suid" => flags.nosuid = false,
            "nodev" => flags.nodev = true,
            "dev" => flags.nodev = false,
            "noexec" => flags.noexec = true,
            "exec" => flags.noexec = false,
            "nosymfollow" => flags.nosymfollow = true,
            "symfollow" => flags.nosymfollow = false,
            "sync" => flags.sync = true,
            "async" => flags.sync = false,
            "dirsync" => flags.dirsync = true,
            "lazytime" => flags.lazytime = true,
            "nolazytime" => flags.lazytime = false,
            "nodiratime" => flags.nodiratime = true,
            "diratime" => flags.nodiratime = false,
            "noatime" => flags.set_atime(true, false, false),
            "strictatime" => flags.set_atime(false, true, false),
            "relatime" => flags.set_atime(false, false, true),
            "atime" => flags.noatime = false,
            // The kernel's default is relatime; its opposite is what mount(8) calls strictatime.
            "norelatime" | "nostrictatime" => flags.strictatime = false,
            _ => return false,
        }
        true
    }

    /// Options without a value that mean something to idshift or to mount(8) alone. `true` if
    /// `name` is one of them.
    fn apply_generic(&mut self, name: &str, origin: Origin) -> bool {
        match name {
            "allow_other" => self.allow_other = true,
            "submounts" => self.submounts = true,
            "remount" => self.remount = true,
            "user" | "users" if origin == Origin::Command => {
                self.flags.nosuid = true;
                self.flags.nodev = true;
                self.flags.noexec = true;
            }
            "owner" | "group" if origin == Origin::Command => {
                self.flags.nosuid = true;
                self.flags.nodev = true;
            }
            "defaults" if origin == Origin::Command => self.flags = MountFlags::default(),
            // default_permissions is always on; the others are for mount(8) or change nothing here.
            "default_permissions"
            | "user"
            | "users"
            | "owner"
            | "group"
            | "defaults"
            | "auto"
            | "noauto"
            | "nofail"
            | "nouser"
            | "nousers"
            | "noowner"
            | "nogroup"
            | "_netdev"
            | "_rnetdev"
            | "silent"
            | "loud"
            | "iversion"
            | "noiversion"
            | "nomand" => {}
            _ => return false,
        }
        true
    }

    /// Options that take a value. `true` if `word` is one of them.
    fn apply_valued(&mut self, word: &Word) -> Result<bool, StartError> {
        match word.name.as_str() {
            "map" => self.maps.extend(specs(needed(word, "map=b:0:100000:65536")?)),
            "fsname" => self.fsname = Some(needed(word, "fsname=NAME")?.to_owned()),
            "subtype" => {
                if needed(word, "subtype=idshift")? != SUBTYPE {
                    return Err(bad(word, "the type of this mount is always 'fuse.idshift'"));
                }
            }
            "cache" => self.cache = cache(word)?,
            "io" => {
                self.io = choice(
                    word,
                    &[("passthrough", IoMode::Passthrough), ("cached", IoMode::Cached)],
                )?;
            }
            "locks" => {
                self.locks =
                    choice(word, &[("mount", LockMode::Mount), ("lower", LockMode::Lower)])?;
            }
            "backend" => {
                self.backend = choice(
                    word,
                    &[
                        ("fuse", Backend::Fuse),
                        ("kernel", Backend::Kernel),
                        ("auto", Backend::Auto),
                    ],
                )?;
            }
            "ownership" => {
                let value = needed(word, "ownership=xattr")?;
                self.ownership = super::ownership::parse(value).map_err(|why| bad(word, why))?;
            }
            "guard" => self.guard = choice(word, GuardMode::NAMES)?,
            "sandbox" => {
                self.sandbox = choice(word, &[("on", Sandbox::On), ("off", Sandbox::Off)])?;
            }
            "restart" => self.restart = choice(word, &[("off", false), ("on", true)])?,
            "owned-by" => {
                self.owned_by = Some(needed(word, "owned-by=1000:1000")?.to_owned());
            }
            "idmap" => self.no_idmap = choice(word, &[("allow", false), ("deny", true)])?,
            "threads" => self.threads = Some(threads(word)?),
            "log" => {
                let level = needed(word, "log=debug")?;
                super::log::check(level).map_err(|why| bad(word, &why))?;
                self.log = Some(level.to_owned());
            }
            _ => return policies::apply(&mut self.policies, word),
        }
        Ok(true)
    }
}

/// Options that are meant for fstab readers, systemd and mount(8), never for a helper: mount(8)
/// passes `x-…` on in some versions.
fn is_for_others(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-") || name == "comment"
}

/// What the kernel shows of a FUSE mount, which mount(8) merges into the options of a remount.
fn is_from_mountinfo(name: &str) -> bool {
    matches!(name, "user_id" | "group_id" | "rootmode" | "max_read" | "fd" | "blksize")
}

/// One `map=` may hold several specs, separated by blanks; a path may contain blanks, so a value
/// that starts with `file:` or `userns:/` is one spec. The escapes that the option string used up are put back
/// for the parser of specs, which has the same.
fn specs(value: &str) -> Vec<String> {
    let spec = match (value.strip_prefix("file:"), value.strip_prefix("userns:")) {
        (Some(path), _) => Spec::File(path.into()),
        (_, Some(path)) if path.starts_with('/') => Spec::Namespace(Namespace::Path(path.into())),
        _ => return value.split_whitespace().map(str::to_owned).collect(),
    };
    vec![spec.to_string()]
}

fn needed<'a>(word: &'a Word, example: &str) -> Result<&'a str, StartError> {
    match word.value.as_deref().map(str::trim) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(StartError::Usage(format!(
            "option '{}' needs a value, for example {example}",
            word.name
        ))),
    }
}

fn bad(word: &Word, why: &str) -> StartError {
    let value = word.value.as_deref().unwrap_or_default();
    StartError::Usage(format!("option '{}={value}': {why}", word.name))
}

/// The meaning of a value that is one word out of a few.
fn choice<T: Copy>(word: &Word, choices: &[(&str, T)]) -> Result<T, StartError> {
    let value = needed(word, &format!("{}={}", word.name, choices[0].0))?;
    if let Some((_, meaning)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*meaning);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(bad(word, &format!("the values are {}", names.join(", "))))
}

fn cache(word: &Word) -> Result<CacheMode, StartError> {
    const VALUES: &str = "the values are coherent, none, exclusive and ttl:SECONDS";
    match needed(word, "cache=ttl:1")? {
        "none" => Ok(CacheMode::None),
        "exclusive" => Ok(CacheMode::Exclusive),
        "coherent" => Ok(CacheMode::Coherent),
        value => {
            let seconds = value.strip_prefix("ttl:").ok_or_else(|| bad(word, VALUES))?;
            // A year: far past any use, and far from where the kernel's clock sums overflow.
            let seconds =
                seconds.parse().ok().filter(|seconds| (0.0..=31_536_000.0).contains(seconds));
            let time = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
            time.map(CacheMode::Ttl).ok_or_else(|| {
                bad(word, "the time is a number of seconds from 0 to 31536000, for example ttl:0.5")
            })
        }
    }
}

fn threads(word: &Word) -> Result<usize, StartError> {
    needed(word, "threads=4")?
        .parse()
        .ok()
        .filter(|count| (1..=256).contains(count))
        .ok_or_else(|| bad(word, "the number of threads is from 1 to 256"))
}

fn unknown(word: &Word) -> StartError {
    let name = &word.name;
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
