//! JSON to print: what `--json` of the commands needs, and no more.

use std::fmt::{self, Display, Write};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number that is not negative.
    Number(u64),
    /// A string.
    Text(String),
    /// Values in their order.
    List(Vec<Json>),
    /// Values by name, in their order.
    Object(Vec<(&'static str, Json)>),
    /// The same with names that only the data tells.
    Named(Vec<(String, Json)>),
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Json::Bool(value)
    }
}

impl From<u32> for Json {
    fn from(value: u32) -> Self {
        Json::Number(value.into())
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Json::Number(value)
    }
}

impl From<usize> for Json {
    fn from(value: usize) -> Self {
        Json::Number(value as u64)
    }
}

impl From<&str> for Json {
    fn from(value: &str) -> Self {
        Json::Text(value.to_owned())
    }
}

impl From<String> for Json {
    fn from(value: String) -> Self {
        Json::Text(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Json::Null, Into::into)
    }
}

impl FromIterator<Json> for Json {
    fn from_iter<I: IntoIterator<Item = Json>>(values: I) -> Self {
        Json::List(values.into_iter().collect())
    }
}

impl Display for Json {
    /// What holds no list or object stands on one line, everything else one part a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Json {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let one_line = self.is_flat();
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => Display::fmt(value, f),
            Json::Number(value) => Display::fmt(value, f),
            Json::Text(text) => write_quoted(f, text),
            Json::List(values) => {
                write_parts(f, depth, one_line, "[]", values, |f, value| value.write(f, depth + 1))
            }
            Json::Object(members) => {
                write_parts(f, depth, one_line, "{}", members, |f, (name, value)| {
                    write_member(f, depth, name, value)
                })
            }
            Json::Named(members) => {
                write_parts(f, depth, one_line, "{}", members, |f, (name, value)| {
                    write_member(f, depth, name, value)
                })
            }
        }
    }

    fn is_flat(&self) -> bool {
        let plain = |value: &Json| match value {
            Json::List(values) => values.is_empty(),
            Json::Object(members) => members.is_empty(),
            Json::Named(members) => members.is_empty(),
            _ => true,
        };
        match self {
            Json::List(values) => values.iter().all(plain),
            Json::Object(members) => members.iter().all(|(_, value)| plain(value)),
            Json::Named(members) => members.iter().all(|(_, value)| plain(value)),
            _ => true,
        }
    }
}

fn write_member(f: &mut fmt::Formatter<'_>, depth: usize, name: &str, value: &Json) -> fmt::Result {
    write_quoted(f, name)?;
    f.write_str(": ")?;
    value.write(f, depth + 1)
}

fn write_parts<T>(
    f: &mut fmt::Formatter<'_>,
    depth: usize,
    one_line: bool,
    brackets: &str,
    parts: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    let (open, close) = brackets.split_at(1);
    f.write_str(open)?;
    for (at, part) in parts.iter().enumerate() {
        match (one_line, at) {
            (true, 0) => {}
            (true, _) => f.write_str(", ")?,
            (false, 0) => write!(f, "\n{:1$}", "", 2 * (depth + 1))?,
            (false, _) => write!(f, ",\n{:1$}", "", 2 * (depth + 1))?,
        }
        write(f, part)?;
    }
    if !one_line {
        write!(f, "\n{:1$}", "", 2 * depth)?;
    }
    f.write_str(close)
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' | '\\' => write!(f, "\\{letter}")?,
            control if control < ' ' => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(Json::from("a\"b\\c\n").to_string(), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn nested_values_are_indented() {
        let row = Json::Object(vec![("a", 1_u32.into()), ("b", None::<bool>.into())]);
        assert_eq!(row.to_string(), "{\"a\": 1, \"b\": null}");
        let rows = Json::List(vec![row.clone(), row.clone()]);
        let lines = "[\n  {\"a\": 1, \"b\": null},\n  {\"a\": 1, \"b\": null}\n]";
        assert_eq!(rows.to_string(), lines);
        let outer = Json::Object(vec![("x", Json::List(vec![row])), ("y", Json::List(vec![]))]);
        let lines = "{\n  \"x\": [\n    {\"a\": 1, \"b\": null}\n  ],\n  \"y\": []\n}";
        assert_eq!(outer.to_string(), lines);
    }
}
