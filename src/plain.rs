//! Text that others have chosen, for a terminal.
//!
//! Any user can mount something that calls itself an idshift mount, with any source, at a directory
//! of any name, answer whatever he likes, and name files as he likes: none of it may move the cursor,
//! change a setting, or look like a line of ours.

use std::path::Path;

/// The text with its control characters written out, newlines too.
pub(crate) fn line(text: &str) -> String {
    write_out(text, |_| false)
}

/// A path on a line.
pub(crate) fn path(path: &Path) -> String {
    line(&path.display().to_string())
}

/// The same for a text of several lines.
pub(crate) fn lines(text: &str) -> String {
    write_out(text, |letter| letter == '\n')
}

fn write_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && !stays(letter) {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_letters() {
        assert_eq!(line("/mnt/ä \x1b[2J\n\u{9b}x"), "/mnt/ä \\u{1b}[2J\\n\\u{9b}x");
        assert_eq!(lines("a\r\nb\x07\n"), "a\\r\nb\\u{7}\n");
    }
}
