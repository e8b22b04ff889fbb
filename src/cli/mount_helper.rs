//! The syntax in which mount(8) calls a helper:
//! `mount.fuse.idshift SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTS] [-t TYPE]` (mount(8),
//! "EXTERNAL HELPERS").

mod dropped;

use std::ffi::{OsStr, OsString};

use crate::cli::mount::{self, Call};
use crate::cli::version;
use crate::daemon::upgrade;
use crate::error::StartError;
use crate::mount::options::Origin;

const USAGE: &str = "\
usage: mount.fuse.idshift LOWER MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

This is the helper of mount(8): 'mount -t fuse.idshift LOWER MOUNTPOINT -o map=SPEC,…'.
'idshift mount --help' describes the options.";

/// What a helper is asked for.
#[derive(Debug)]
enum Parsed {
    Help,
    Version,
    Mount(Call),
}

/// Runs the helper; `args` come without the program's name.
pub fn run(args: &[OsString]) -> Result<u8, StartError> {
    match parse(args)? {
        Parsed::Help => say!("{USAGE}"),
        Parsed::Version => tell!("{}", version::short()),
        Parsed::Mount(call) => {
            dropped::check(&call.mountpoint)?;
            return mount::execute(call, Origin::MountProgram);
        }
    }
    Ok(0)
}

fn parse(args: &[OsString]) -> Result<Parsed, StartError> {
    let mut call = Call::default();
    let mut paths = Vec::new();
    let mut args = args.iter();
    let mut only_paths = false;
    while let Some(arg) = args.next() {
        let bytes = arg.as_encoded_bytes();
        if only_paths || !bytes.starts_with(b"-") || bytes == b"-" {
            paths.push(arg);
            continue;
        }
        match arg.to_str() {
            Some("--") => only_paths = true,
            Some("-h" | "--help") => return Ok(Parsed::Help),
            Some("-V" | "--version") => return Ok(Parsed::Version),
            Some(word) if word.starts_with(upgrade::OPTION) => {
                call.resume = word.strip_prefix(upgrade::OPTION).map(str::to_owned);
            }
            Some(letters) => cluster(letters, &mut args, &mut call)?,
            None => return Err(usage(&format!("'{}' is no option", arg.display()))),
        }
    }
    match paths[..] {
        [lower, mountpoint] => {
            call.lower = lower.into();
            call.mountpoint = mountpoint.into();
            Ok(Parsed::Mount(call))
        }
        _ => Err(usage(&format!("two paths are needed, and {} given", paths.len()))),
    }
}

/// Letters behind one dash. Of `o`, `t` and `N` the value is the rest of the word or the next one.
fn cluster<'a>(
    word: &str,
    args: &mut impl Iterator<Item = &'a OsString>,
    call: &mut Call,
) -> Result<(), StartError> {
    for (at, letter) in word.char_indices().skip(1) {
        match letter {
            'f' => call.fake = true,
            'v' => call.verbose = true,
            // No entry in /etc/mtab: there is none. Sloppy: mount(8) passes it on from its own
            // command line; a misspelt map would be ignored, so it changes nothing here.
            'n' | 's' => {}
            'o' | 't' | 'N' => {
                let rest = &word[at + 1..];
                let value = if rest.is_empty() {
                    args.next().map(OsString::as_os_str)
                } else {
                    Some(OsStr::new(rest))
                };
                let value = value.ok_or_else(|| usage(&format!("'-{letter}' needs a value")))?;
                return valued(letter, value, call);
            }
            other => return Err(usage(&format!("there is no option '-{other}'"))),
        }
    }
    Ok(())
}

fn valued(letter: char, value: &OsStr, call: &mut Call) -> Result<(), StartError> {
    match (letter, value.to_str()) {
        ('N', _) => call.namespace = Some(value.into()),
        ('o', Some(text)) => call.options.push(text.to_owned()),
        ('t', Some("fuse.idshift" | "idshift" | "fuse")) => {}
        ('t', _) => {
            return Err(usage(&format!("'-t {}': the type is fuse.idshift", value.display())));
        }
        _ => return Err(usage(&format!("'-{letter} {}' is not valid UTF-8", value.display()))),
    }
    Ok(())
}

fn usage(what: &str) -> StartError {
    StartError::Usage(format!("{what}\n{USAGE}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use std::path::Path;

    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn call(args: &[&str]) -> Call {
        match parse(&words(args)).unwrap() {
            Parsed::Mount(call) => call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_call_of_mount_is_understood() {
        let call = call(&[
            "/low",
            "/m nt",
            "-s",
            "-n",
            "-v",
            "-o",
            "rw,map=b:0:1:2",
            "-t",
            "fuse.idshift",
        ]);
        assert_eq!(call.lower, Path::new("/low"));
        assert_eq!(call.mountpoint, Path::new("/m nt"));
        assert_eq!(call.options, ["rw,map=b:0:1:2"]);
        assert!(call.verbose && !call.fake && call.namespace.is_none());
    }

    #[test]
    fn letters_may_stand_together_and_options_first() {
        let call = call(&["-sfnv", "-oro", "-N", "/run/ns", "/low", "/mnt"]);
        assert!(call.fake && call.verbose);
        assert_eq!(call.options, ["ro"]);
        assert_eq!(call.namespace.as_deref(), Some(Path::new("/run/ns")));
        let odd = super::parse(&words(&["--", "-low", "-mnt"])).unwrap();
        assert!(matches!(odd, Parsed::Mount(call) if call.lower == Path::new("-low")));
    }

    #[test]
    fn wrong_calls_are_usage_errors() {
        for wrong in [
            &["/low"][..],
            &["/low", "/mnt", "/more"],
            &["/low", "/mnt", "-o"],
            &["/low", "/mnt", "-x"],
            &["/low", "/mnt", "-t", "ext4"],
        ] {
            let error = parse(&words(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("usage:"), "{error}");
        }
    }

    #[test]
    fn help_and_version_need_no_paths() {
        assert!(matches!(parse(&words(&["--help"])).unwrap(), Parsed::Help));
        assert!(matches!(parse(&words(&["-V"])).unwrap(), Parsed::Version));
    }
}
