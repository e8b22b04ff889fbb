//! Names of options that are wrong: which one was meant, or why it is refused.

use super::table;

/// Options of other programs, or of a later idshift, that people will try: the reason why they are
/// refused and what to write instead.
pub const REFUSED: &[(&str, &str)] = &[
    (
        "allow_root",
        "FUSE in the kernel knows only 'the user who mounted' and, with allow_other, 'everyone the \
         file modes let in'; use allow_other",
    ),
    (
        "auto_unmount",
        "it is not needed: the server unmounts when it is told to end, and 'idshift umount' removes \
         a mount whose server has died",
    ),
    ("context", "SELinux contexts are not offered by this version"),
    ("fscontext", "SELinux contexts are not offered by this version"),
    ("defcontext", "SELinux contexts are not offered by this version"),
    ("rootcontext", "SELinux contexts are not offered by this version"),
    ("mand", "the kernel has had no mandatory locks since Linux 5.15"),
    ("uid", "idshift shifts ids through a map: write map=u:STORED:SHOWN:1"),
    ("gid", "idshift shifts ids through a map: write map=g:STORED:SHOWN:1"),
];

/// The known option nearest to `name`; `None` if none is near enough to be a slip of the finger.
pub fn nearest(name: &str) -> Option<&'static str> {
    closest(name, table::names())
}

/// The word of `words` nearest to `typed`, if it is near enough to be a slip of the finger.
pub fn closest<'a>(typed: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let most = (typed.chars().count() / 3).clamp(1, 3);
    words
        .into_iter()
        .map(|word| (strsim::osa_distance(&typed, word), word))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    #[test]
    fn slips_find_what_was_meant_and_noise_finds_nothing() {
        assert_eq!(nearest("nosuit"), Some("nosuid"));
        assert_eq!(nearest("mpa"), Some("map"));
        assert_eq!(nearest("allowother"), Some("allow_other"));
        assert_eq!(nearest("Backend"), Some("backend"));
        assert_eq!(nearest("frobnicate"), None);
        assert_eq!(nearest(""), None);
    }
}
