//! What to say to a spec that is none: other tools write the same numbers in other ways, so name
//! the tool and show the form. A hint never decides for the user.

/// What can be given.
pub(super) const SUPPORTED: &str = "b:ON-DISK:IN-MOUNT:COUNT (users and groups), u:… (users), \
     g:… (groups), offset:N[:COUNT], identity, file:PATH, userns:PID or userns:/PATH, \
     subuid:NAME[:COUNT] and name:u:ON-DISK=IN-MOUNT";

/// Why `text` is no spec, with what was probably meant.
pub(super) fn not_a_spec(text: &str) -> String {
    match meant(text) {
        Some(hint) => hint,
        None => format!("this is no map spec; there are {SUPPORTED}"),
    }
}

/// bindfs's `alice/bob` and `@staff/@users`: names in the place of numbers.
fn bindfs_names(text: &str) -> Option<String> {
    let (from, to) = text.split_once('/')?;
    let kind = |name: &str| if name.starts_with('@') { "g" } else { "u" };
    let bare = |name: &str| name.trim_start_matches('@').to_owned();
    let is_name = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !name.is_empty() && name.bytes().all(fits)
    };
    let (stored, shown) = (bare(from), bare(to));
    (kind(from) == kind(to) && is_name(&stored) && is_name(&shown)).then(|| {
        format!(
            "names are given with name:, the one on disk first: bindfs's --map={text} is written \
             name:{}:{stored}={shown}",
            kind(from)
        )
    })
}

fn meant(text: &str) -> Option<String> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let numbers_between = |separator: char| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.iter().all(|part| digits(part)).then_some(parts.len())
    };
    if text.starts_with("X-mount.idmap=") || text.starts_with("x-mount.idmap=") {
        return Some(
            "this is an option of mount(8); give only what stands behind its '=', each part with \
             its prefix, as in b:0:100000:65536, and see with 'idshift map explain' what it does"
                .to_owned(),
        );
    }
    if matches!(text, "u" | "g" | "b") || text.starts_with("lxc.idmap") || digits(text) {
        return Some(
            "colons belong between the numbers: the line 'u 0 100000 65536' of lxc.idmap and the \
             line '0 100000 65536' of /proc/PID/uid_map are written u:0:100000:65536 (inside = on \
             disk)"
                .to_owned(),
        );
    }
    if numbers_between(':') == Some(3) {
        return Some(format!(
            "a prefix is missing: b:{text} if this is for users and groups, the first number the \
             id on disk and the second the one in the mount; u: and g: are for one kind"
        ));
    }
    if numbers_between('/') == Some(2) {
        return Some(
            "bindfs's --map=1000/1001 is written u:1000:1001:1, its @1000/@1001 g:1000:1001:1"
                .to_owned(),
        );
    }
    if let Some(names) = bindfs_names(text) {
        return Some(names);
    }
    if text.starts_with("subgid:") {
        return Some(
            "subuid:NAME is for users and groups; it reads /etc/subgid for the groups".to_owned(),
        );
    }
    if text.starts_with("user:[") || text.contains("/ns/user") {
        return Some("a user namespace is given as userns:PID or userns:/PATH".to_owned());
    }
    if matches!(text.split(':').next(), Some("uid" | "gid" | "both")) {
        return Some("the prefixes are u, g and b, as in u:0:100000:65536".to_owned());
    }
    text.starts_with('/').then(|| "a file with extents is given as file:PATH".to_owned())
}
