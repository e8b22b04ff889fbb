//! What `idshift mount --help` says about options, laid out for a terminal of 80 columns.

use crate::mount::options::described::{MAPS, NOTES};
use crate::mount::options::{generic, own};

/// Columns of the text, and of what stands left of it.
const WIDTH: usize = 78;
const MARGIN: usize = 26;
const INDENT: usize = 2;

/// The exit codes, as mount(8) defines them.
pub const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "done; of a mount: it answers"),
    ("1", "wrong usage"),
    ("2", "system error"),
    ("32", "mount failure"),
];

/// The options of a mount, all of them.
pub fn mount_options() -> String {
    let mut lines = vec!["Id maps (map=SPEC; several specs add up):".to_owned()];
    for map in MAPS {
        entry(&mut lines, map.form, map.text);
    }
    lines.push("  'idshift map explain SPEC…' says in words what a map does.".to_owned());
    for (title, options) in
        [("Options of idshift:", own::ROWS), ("Options of every mount:", generic::ROWS)]
    {
        lines.extend([String::new(), title.to_owned()]);
        for option in options {
            entry(&mut lines, option.form, option.text);
        }
    }
    lines.push(String::new());
    lines.extend(NOTES.iter().flat_map(|note| wrapped(note, WIDTH)));
    lines.extend([String::new(), "Exit codes:".to_owned()]);
    lines.extend(EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:<3} {meaning}")));
    lines.join("\n")
}

/// A form on the left and its meaning on the right, below it where the form is long.
fn entry(lines: &mut Vec<String>, form: &str, meaning: &str) {
    let mut left = format!("{:INDENT$}{form}", "");
    if left.chars().count() + 2 > MARGIN {
        lines.push(std::mem::take(&mut left));
    }
    for line in wrapped(meaning, WIDTH - MARGIN) {
        lines.push(format!("{left:MARGIN$}{line}"));
        left.clear();
    }
}

/// The lines of a text broken at blanks; a word that is too long has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > width {
            lines.push(String::new());
            length = 0;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += word_length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::options::table;

    #[test]
    fn nothing_is_wider_than_a_terminal_and_no_option_is_left_out() {
        let text = mount_options();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for option in table::rows() {
            assert!(text.contains(option.form), "{}", option.form);
        }
    }

    #[test]
    fn lines_break_at_blanks_alone() {
        assert_eq!(wrapped("a bb  ccc dd", 4), ["a bb", "ccc", "dd"]);
        assert_eq!(wrapped("longer x", 3), ["longer", "x"]);
        let mut lines = Vec::new();
        entry(&mut lines, "f=X", "means x");
        assert_eq!(lines, [format!("  f=X{:21}means x", "")]);
    }
}
