//! A step: who calls, which call, its arguments. One line of text, so that a failing sequence can
//! be printed, saved, and replayed.
//!
//! `alice open 1 d/file CREAT|RDWR 0644`
//!
//! `alice+bob write …` is done by both at the same time.
//!
//! Words are separated by spaces; `%XX` in a word stands for a byte, a `%` alone for the empty
//! word. `long:4000:a/b` is the path `a/b` behind as many `./` as make it that long. `@u1000` and `@g1000` stand for "the id that the caller calls this lower id by".

use std::fmt;

use crate::caller::{Caller, Home};

/// One call by one caller. Both sides get it word for word, but for `@` ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The caller's name in the roster of `caller.rs`.
    pub caller: String,
    /// The call's name in `calls.rs`.
    pub call: String,
    /// Its arguments, still encoded.
    pub args: Vec<String>,
}

impl Step {
    pub fn new(caller: &str, call: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { caller: caller.to_owned(), call: call.to_owned(), args }
    }

    /// Reads one line; `None` for an empty one or a comment.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        let caller = words.next()?;
        let call = words.next().unwrap_or_else(|| panic!("no call in the step {line:?}"));
        Some(Self { caller, call, args: words.collect() })
    }

    /// Who makes the call: more than one at the same time.
    pub fn callers(&self) -> Vec<Caller> {
        self.caller.split('+').map(Caller::named).collect()
    }

    /// Whether all callers are people who use the mount under test.
    pub fn through_the_mount(&self) -> bool {
        let beside = [Home::Lower, Home::Other];
        self.callers().iter().all(|caller| !beside.contains(&caller.home))
    }

    /// The line that the worker gets: ids resolved.
    pub fn request(&self, resolve: impl Fn(char, u32) -> u32) -> String {
        let mut line = self.call.clone();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&resolved(arg, &resolve));
        }
        line
    }

    /// The words of the step that name paths, for looking at them afterwards.
    pub fn paths(&self) -> Vec<&str> {
        let at = |n: usize| self.args.get(n).map(String::as_str);
        let found = match self.call.as_str() {
            "rename" | "link" => vec![at(0), at(1)],
            "open" | "uring" | "symlink" => vec![at(1)],
            "close" | "read" | "pread" | "write" | "pwrite" | "ftruncate" | "fallocate"
            | "copy" | "seek" | "fsync" | "fdatasync" | "syncfs" | "fchmod" | "fchown"
            | "futime" | "fstat" | "umask" | "flock" | "lock" | "getlk" | "mmapw" | "mmapr"
            | "storm" | "count" | "setfl" => {
                vec![]
            }
            "uringas" => vec![at(3)],
            _ => vec![at(0)],
        };
        // A path that starts at a descriptor is seen through the other names in the tree.
        found.into_iter().flatten().filter(|path| !path.starts_with("fd:")).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.caller, self.call)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

/// Replaces `@u1000` and `@g1000`.
fn resolved(word: &str, resolve: &impl Fn(char, u32) -> u32) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let kind = after.chars().nth(1).unwrap_or_default();
        let digits: String = after.chars().skip(2).take_while(char::is_ascii_digit).collect();
        assert!(matches!(kind, 'u' | 'g') && !digits.is_empty(), "no id in the word {word:?}");
        out.push_str(&resolve(kind, digits.parse().expect("an id")).to_string());
        rest = &after[2 + digits.len()..];
    }
    out.push_str(rest);
    out
}

/// The bytes of a word.
pub fn decode(word: &str) -> Vec<u8> {
    if word == "%" {
        return Vec::new();
    }
    if let Some((length, path)) = word.strip_prefix("long:").and_then(|word| word.split_once(':')) {
        let missing = length.parse::<usize>().expect("a length") - path.len();
        let front = "./".repeat(missing / 2) + &"/"[..missing % 2];
        return (front + path).into_bytes();
    }
    let bytes = word.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = word.get(at + 1..at + 3).expect("two digits after %");
            out.push(u8::from_str_radix(hex, 16).expect("hex digits after %"));
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// Bytes as one word.
pub fn encode(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "%".to_owned();
    }
    let mut out = String::new();
    for &byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'#' | b'@') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}
