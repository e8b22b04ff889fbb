//! Extended attributes, and the two kinds whose values hold ids: POSIX ACLs and capabilities.

use super::{Answer, Args, Hands, check, done, text};
use crate::step::{decode, encode};

const FLAGS: &[(&str, i32)] = &[("CREATE", libc::XATTR_CREATE), ("REPLACE", libc::XATTR_REPLACE)];

impl Hands {
    /// `getx PATH NAME`, `setx PATH NAME VALUE [FLAGS]`, `rmx PATH NAME`, `listx PATH`; with `l`
    /// not through a symlink, with `f` on a slot.
    pub(super) fn xattr_call(&mut self, call: &str, args: &Args<'_>) -> Answer {
        if let Some(call) = call.strip_prefix('f') {
            let fd = self.slot(args.word(0))?;
            return by_path(call, &text(&format!("/proc/self/fd/{fd}")), args, Some(fd));
        }
        by_path(call, &self.path(args.word(0))?, args, None)
    }
}

fn by_path(call: &str, path: &std::ffi::CStr, args: &Args<'_>, fd: Option<i32>) -> Answer {
    let name = if call == "listx" { c"".to_owned() } else { text(args.word(1)) };
    let (path, name) = (path.as_ptr(), name.as_ptr());
    let mut room = vec![0_u8; 65_536];
    // SAFETY: live C strings; buffers are as long as they say.
    unsafe {
        let (buffer, length) = (room.as_mut_ptr(), room.len());
        match call {
            "getx" | "lgetx" => {
                let got = check(match (fd, call) {
                    (Some(fd), _) => libc::fgetxattr(fd, name, buffer.cast(), length),
                    (None, "lgetx") => libc::lgetxattr(path, name, buffer.cast(), length),
                    _ => libc::getxattr(path, name, buffer.cast(), length),
                })?;
                room.truncate(got.cast_unsigned());
                Ok(value_text(args.word(1), &room))
            }
            "setx" | "lsetx" => {
                let value = value_bytes(args.word(2));
                let (start, length) = (value.as_ptr().cast(), value.len());
                let flags = args.flags(3, FLAGS);
                done(match (fd, call) {
                    (Some(fd), _) => libc::fsetxattr(fd, name, start, length, flags),
                    (None, "lsetx") => libc::lsetxattr(path, name, start, length, flags),
                    _ => libc::setxattr(path, name, start, length, flags),
                })
            }
            "rmx" => done(libc::removexattr(path, name)),
            "listx" => {
                let got = check(libc::listxattr(path, buffer.cast(), length))?;
                room.truncate(got.cast_unsigned());
                Ok(names(&room).join(" "))
            }
            _ => panic!("no call is named {call:?}"),
        }
    }
}

/// The names in a list of xattrs, sorted: file systems give them in an order of their own.
pub fn names(list: &[u8]) -> Vec<String> {
    let mut names: Vec<_> =
        list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(encode).collect();
    names.sort();
    names
}

/// The bytes of a value word: `acl:u::6,u:1000:7,g::4,m::7,o::4`, `cap2:HEX`, `cap3:HEX:ROOTID`
/// (effective bit set), `hex:…`, `len:N`, or the word's own bytes.
pub fn value_bytes(word: &str) -> Vec<u8> {
    let Some((kind, rest)) = word.split_once(':') else { return decode(word) };
    match kind {
        "acl" => acl(rest),
        "cap2" => capability(2, rest, None),
        "cap3" => {
            let (mask, root) = rest.split_once(':').expect("cap3:MASK:ROOTID");
            capability(3, mask, Some(root.parse().expect("an id")))
        }
        "hex" => (0..rest.len() / 2)
            .map(|n| u8::from_str_radix(&rest[2 * n..2 * n + 2], 16).expect("hex"))
            .collect(),
        "len" => vec![b'x'; rest.parse().expect("a length")],
        _ => decode(word),
    }
}

/// `struct posix_acl_xattr_header` and its entries (linux/posix_acl_xattr.h), little endian.
fn acl(entries: &str) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for entry in entries.split(',').filter(|entry| !entry.is_empty()) {
        let parts: Vec<&str> = entry.split(':').collect();
        let [kind, id, rights] = parts[..] else { panic!("an ACL entry: {entry:?}") };
        let tag: u16 = match (kind, id.is_empty()) {
            ("u", true) => 0x01,
            ("u", false) => 0x02,
            ("g", true) => 0x04,
            ("g", false) => 0x08,
            ("m", _) => 0x10,
            ("o", _) => 0x20,
            _ => panic!("an ACL entry: {entry:?}"),
        };
        let id = if id.is_empty() { u32::MAX } else { id.parse().expect("an id") };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.parse::<u16>().expect("rights").to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `struct vfs_cap_data` or `struct vfs_ns_cap_data` (linux/capability.h).
fn capability(version: u32, mask: &str, root: Option<u32>) -> Vec<u8> {
    let mask = u64::from_str_radix(mask, 16).expect("hex");
    let mut words = vec![version << 24 | 1, (mask & 0xffff_ffff) as u32, 0, (mask >> 32) as u32, 0];
    words.extend(root);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A value as a word, in the form that `value_bytes` reads where it has one.
pub fn value_text(name: &str, value: &[u8]) -> String {
    if name.starts_with("system.posix_acl_") && value.len() >= 4 && value.len() % 8 == 4 {
        return acl_text(value);
    }
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    if value.len() > 64 {
        return format!("len:{} {:x}", value.len(), super::data::hash(value));
    }
    if value.iter().all(u8::is_ascii_graphic) { encode(value) } else { format!("hex:{hex}") }
}

fn acl_text(value: &[u8]) -> String {
    let entries = value[4..].chunks_exact(8).map(|entry| {
        let word = |n: usize| u16::from_le_bytes([entry[n], entry[n + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let tag = match word(0) {
            0x01 => "u:".to_owned(),
            0x02 => format!("u:{id}"),
            0x04 => "g:".to_owned(),
            0x08 => format!("g:{id}"),
            0x10 => "m:".to_owned(),
            0x20 => "o:".to_owned(),
            other => format!("tag{other}:{id}"),
        };
        format!("{tag}:{}", word(2))
    });
    format!("acl:{}", entries.collect::<Vec<_>>().join(","))
}
