//! What must hold for any bytes at all: the bodies of the fuzz targets in `fuzz/`, one for each
//! thing that parses. They are built for fuzzing (`cargo fuzz` sets `cfg(fuzzing)`) and for the
//! unit tests, which run the committed corpus through them.
//!
//! A body returns where the input was handled well, and panics where it was not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the panic is the finding

mod session;
mod texts;
mod values;

use std::path::Path;

/// A body: it gets the input, and an empty directory for those that need files.
pub type Body = fn(&[u8], &Path);

/// All of them, by the names of their targets and corpora.
pub const TARGETS: &[(&str, Body)] = &[
    ("acl", |input, _| values::acl(input)),
    ("capability", |input, _| values::capability(input)),
    ("dirents", |input, _| values::dirents(input)),
    ("events", |input, _| crate::lower::watch::fuzz_events(input)),
    ("kept", |input, _| values::kept(input)),
    ("map_specs", |input, _| texts::map_specs(input)),
    ("mount_options", |input, _| texts::mount_options(input)),
    ("mountinfo", |input, _| texts::mountinfo(input)),
    ("override_stat", |input, _| values::override_stat(input)),
    ("requests", |input, _| crate::fuse::driver::fuzz_requests(input)),
    ("session", session::run),
    ("subids", |input, _| texts::subids(input)),
];

/// Runs the body of one target.
///
/// # Panics
///
/// If there is no such target, and where the body finds something.
pub fn run(target: &str, input: &[u8], empty: &Path) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a known target");
    body(input, empty);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Each target with its corpus, which has at least one input for each.
    #[test]
    fn the_corpus_is_handled_well() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        if !corpus.exists() {
            return; // a published package comes without it
        }
        for (target, body) in TARGETS {
            let mut inputs = 0;
            for entry in fs::read_dir(corpus.join(target)).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                let empty = tempfile::tempdir().unwrap();
                body(&fs::read(&path).unwrap(), empty.path());
                inputs += 1;
            }
            assert!(inputs > 0, "no corpus for {target}");
        }
    }
}
