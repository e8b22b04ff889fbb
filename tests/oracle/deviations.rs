//! Where idshift is known to differ from the oracle. Each entry names its row in
//! `docs/semantics.md`, and a trial checks that the row is there.

use std::sync::LazyLock;

use crate::caller::{CAP_CHOWN, CAP_FOWNER, CAP_FSETID, Caller, Home};
use crate::older;
use crate::step::Step;

/// One known deviation.
pub struct Deviation {
    /// Stands, in backquotes, in its row of `docs/semantics.md`.
    pub id: &'static str,
    /// Whether the sides go different ways from there, so that the rest of a sequence says nothing.
    pub parts: bool,
    /// Whether two answers to a step, or two lines about one file, are this deviation: the
    /// oracle's, ours. Lines begin with `mode=`.
    shown_by: fn(&Step, &str, &str) -> bool,
    /// Whether it can be, after these steps.
    after: fn(&[Step]) -> bool,
}

const fn known(id: &'static str, shown_by: fn(&Step, &str, &str) -> bool) -> Deviation {
    Deviation { id, parts: false, shown_by, after: |_| true }
}

const fn parting(id: &'static str, shown_by: fn(&Step, &str, &str) -> bool) -> Deviation {
    Deviation { id, parts: true, shown_by, after: |_| true }
}

/// The list. It may only shrink.
pub const KNOWN: &[Deviation] = &[
    known("refused-by-another-errno", refused_by_another_errno),
    known("unmapped-acl-entries", unmapped_acl_entries),
    parting("fallocate-ranges", fallocate_ranges),
    parting("fsetid-in-namespace", fsetid_in_namespace),
    parting("privileges-lost-on-refusal", privileges_lost_on_refusal),
    parting("unmapped-whiteout", unmapped_whiteout),
    parting("text-busy-below", text_busy_below),
    known("trusted-names-on-btrfs", trusted_names_on_btrfs),
    Deviation {
        after: |before| before.iter().any(opens_for_writing),
        ..parting("chown-of-nothing-while-written", chown_of_nothing_while_written)
    },
    parting("bits-of-empty-files", bits_of_empty_files),
    Deviation {
        after: |before| before.iter().any(ends_appending),
        ..parting("append-flag-cleared", append_flag_cleared)
    },
];

/// What the FUSE of older kernels lacks, with the first version that has it.
pub const OLDER: &[((u32, u32), Deviation)] = &[
    ((6, 6), known("no-birth-time", no_birth_time)),
    ((6, 1), parting("no-tmpfile", no_tmpfile)),
    ((6, 9), known("atime-of-cached-reads", atime_of_cached_reads)),
    ((6, 9), parting("direct-io-of-any-size", direct_io_of_any_size)),
    ((6, 2), parting("sgid-without-group-execute", sgid_without_group_execute)),
    ((6, 4), parting("directory-and-create", directory_and_create)),
    ((6, 10), parting("security-names-with-bpf", security_names)),
    ((6, 6), parting("no-fchmodat2", no_fchmodat2)),
    ((5, 8), known("no-faccessat2", no_faccessat2)),
    ((5, 8), parting("whiteouts-as-devices", whiteouts_as_devices)),
    ((5, 6), parting("no-files-by-io-uring", no_files_by_io_uring)),
    ((5, 4), parting("set-id-bits-after-fallocate", set_id_bits_after_fallocate)),
    ((5, 3), parting("overlapping-copies", overlapping_copies)),
];

/// What comes with an option of idshift's only. `io=cached` keeps contents in the mount's own cache
/// and opens files without the server.
pub const OF_OPTIONS: &[(&str, Deviation)] = &[
    ("locks=lower", known("no-holder-of-lower-locks", no_holder)),
    ("cache=coherent", known("atime-of-remembered-listings", atime_of_remembered_listings)),
    ("cache=exclusive", known("atime-of-remembered-listings", atime_of_remembered_listings)),
    ("io=cached", known("atime-of-cached-reads", atime_of_cached_reads)),
    ("io=cached", parting("chown-of-nothing-while-written", chown_of_nothing_while_written)),
    ("io=cached", parting("refused-when-written", refused_when_written)),
    ("io=cached", parting("direct-io-of-any-size", direct_io_of_any_size)),
    ("idmap=allow", parting("names-by-unmapped-callers", names_by_unmapped_callers)),
    ("idmap=allow", parting("chown-of-nothing-by-owners", chown_of_nothing_by_owners)),
    ("idmap=allow", parting("chown-without-fowner", chown_without_fowner)),
    ("stack=identity", parting("set-gid-of-no-program", set_gid_of_no_program)),
    ("stack=composed", parting("set-gid-of-no-program", set_gid_of_no_program)),
    ("stack=wider", parting("set-gid-of-no-program", set_gid_of_no_program)),
    ("io=cached", known("holes-of-gathered-writes", holes_of_gathered_writes)),
];

/// Faults that are still to be mended. `IDSHIFT_ORACLE_STRICT` shows them as such.
pub const PENDING: &[Deviation] = &[];

/// The deviation that two answers to a step, or two lines about one file after it, show. `options`
/// are those of the tested mount.
pub fn find(
    step: &Step,
    before: &[Step],
    options: &str,
    left: &str,
    right: &str,
) -> Option<&'static Deviation> {
    let strict = std::env::var_os("IDSHIFT_ORACLE_STRICT").is_some();
    let pending = if strict { &[] } else { PENDING };
    let older = OLDER.iter().filter(|(since, _)| kernel() < *since).map(|(_, known)| known);
    let default = |of: &str, value: &'static str| if options.contains(of) { "" } else { value };
    let defaults = [default("cache=", "cache=coherent"), default("idmap=", "idmap=allow")];
    let is_on = |option: &str| options.split(',').chain(defaults).any(|on| on == option);
    let chosen = OF_OPTIONS.iter().filter(|(option, _)| is_on(option));
    KNOWN
        .iter()
        .chain(pending)
        .chain(older)
        .chain(chosen.map(|(_, known)| known))
        .find(|known| (known.shown_by)(step, left, right) && (known.after)(before))
}

/// Version and patch level of the kernel that idshift sees.
fn kernel() -> (u32, u32) {
    static VERSION: LazyLock<(u32, u32)> = LazyLock::new(older::kernel);
    *VERSION
}

/// A line about a file, without what FUSE cannot tell on this kernel, or in this mode.
pub fn tellable(line: &str, options: &str) -> String {
    let mut line = line.to_owned();
    if kernel() < (6, 6) {
        line = line.replace(" NOT-AS-BELOW:btime", "");
    }
    if options.contains("io=cached") {
        // While the kernel gathers writes it keeps these times itself.
        line = line.replace(" NOT-AS-BELOW:mtime", "").replace(" NOT-AS-BELOW:ctime", "");
    }
    line
}

fn no_birth_time(step: &Step, left: &str, right: &str) -> bool {
    step.call == "btime" && (left, right) == ("ok true", "ok false")
}

fn no_tmpfile(step: &Step, _: &str, right: &str) -> bool {
    (step.call == "open" || step.call == "uring")
        && step.args.iter().any(|arg| arg.contains("TMPFILE"))
        && right == "EOPNOTSUPP"
}

/// What the kernel has of a file it gives without asking the server; with passthrough it keeps
/// nothing of its own.
fn atime_of_cached_reads(_: &Step, left: &str, right: &str) -> bool {
    field(left, "atime=") == Some("now") && equal_but(left, right, "atime=")
}

/// The server cannot tell truncate(2) to nothing from `O_TRUNC`, which on some file systems (xfs)
/// clears set-ID bits also of a file that is empty already.
fn bits_of_empty_files(step: &Step, left: &str, right: &str) -> bool {
    truncates_to_nothing(step) && lost_bits(left, right).is_some()
}

/// Whether a step, if it goes well, may be `bits-of-empty-files`: not that of a caller whose
/// truncation clears nothing.
pub fn truncates_to_nothing(step: &Step) -> bool {
    let clears =
        |caller: &Caller| caller.caps & CAP_FSETID == 0 || matches!(caller.home, Home::Namespace);
    step.call == "truncate"
        && step.args.get(1).is_some_and(|size| size == "0")
        && step.callers().iter().all(clears)
}

/// What the lower file system refuses when a file is opened, is refused when it is used.
fn refused_when_written(step: &Step, left: &str, right: &str) -> bool {
    step.call == "open" && left == "EPERM" && right.starts_with("ok")
}

/// The server uses the lower file's cache on behalf of a direct write.
fn direct_io_of_any_size(step: &Step, left: &str, right: &str) -> bool {
    matches!(step.call.as_str(), "read" | "pread" | "write" | "pwrite")
        && left == "EINVAL"
        && right.starts_with("ok")
}

/// While the kernel gathers writes, all of a file counts as data.
fn holes_of_gathered_writes(step: &Step, _: &str, _: &str) -> bool {
    step.call == "seek" && step.args.iter().any(|arg| arg == "DATA" || arg == "HOLE")
}

/// What the kernel remembers of a directory it lists without asking the server.
fn atime_of_remembered_listings(_: &Step, left: &str, right: &str) -> bool {
    let directory =
        field(left, "mode=").is_some_and(|mode| mode.len() == 5 && mode.starts_with('4'));
    // A line may show an unmapped ACL entry as well.
    let (left, right) = (without_unmapped(left), without_unmapped(right));
    directory && field(&left, "atime=") == Some("now") && equal_but(&left, &right, "atime=")
}

/// Such a bit once marked mandatory locking, and stayed; on the lower file system itself too.
fn sgid_without_group_execute(_: &Step, left: &str, right: &str) -> bool {
    let bit_more = lost_bits(right, left) == Some(0o2000);
    bit_more && field(right, "mode=").is_some_and(|mode| !has_group_execute(mode))
}

fn has_group_execute(mode: &str) -> bool {
    u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o010 != 0)
}

/// Every file system's answer was another.
fn directory_and_create(step: &Step, left: &str, right: &str) -> bool {
    step.call == "open" && left == "EINVAL" && right != "EINVAL" && step.args[2].contains("CREAT")
}

/// With the BPF security module those kernels let everyone set and remove such attributes who may
/// write to the file, on every file system.
fn security_names(step: &Step, left: &str, right: &str) -> bool {
    matches!(step.call.as_str(), "setx" | "lsetx" | "fsetx" | "rmx")
        && step.args.get(1).is_some_and(|name| name.starts_with("security."))
        && left == "EPERM"
        && right != "EPERM"
}

/// The system call itself is missing, for every file system.
fn no_fchmodat2(step: &Step, _: &str, right: &str) -> bool {
    step.call == "chmod" && step.args.len() > 2 && right == "ENOSYS"
}

fn no_faccessat2(step: &Step, _: &str, right: &str) -> bool {
    step.call == "access" && right == "ENOSYS"
}

/// Making a whiteout takes CAP_MKNOD of the machine there.
fn whiteouts_as_devices(step: &Step, _: &str, right: &str) -> bool {
    step.call == "rename"
        && step.args.iter().any(|arg| arg.contains("WHITEOUT"))
        && right == "EPERM"
}

fn no_files_by_io_uring(step: &Step, _: &str, right: &str) -> bool {
    step.call.starts_with("uring") && matches!(right, "ENOSYS" | "EINVAL" | "EBADF")
}

fn overlapping_copies(step: &Step, left: &str, right: &str) -> bool {
    step.call == "copy" && left == "EINVAL" && right.starts_with("ok")
}

/// FUSE and the file systems below both left them.
fn set_id_bits_after_fallocate(step: &Step, left: &str, right: &str) -> bool {
    step.call == "fallocate" && lost_bits(right, left).is_some_and(|bits| bits != 0)
}

/// Both refuse; the oracle looks at the map first and says EOVERFLOW, while a FUSE mount's
/// permissions are checked by the kernel before the server is asked.
fn refused_by_another_errno(_: &Step, left: &str, right: &str) -> bool {
    left == "EOVERFLOW" && matches!(right, "EACCES" | "EPERM")
}

/// The kernel's FUSE client has these two modes refused for everyone.
fn fallocate_ranges(step: &Step, _: &str, right: &str) -> bool {
    let mode = step.args.get(1).map_or("", String::as_str);
    step.call == "fallocate" && matches!(mode, "COLLAPSE" | "INSERT") && right == "EOPNOTSUPP"
}

/// The kernel's FUSE client asks for CAP_FSETID in the initial user namespace.
fn fsetid_in_namespace(step: &Step, left: &str, right: &str) -> bool {
    step.caller == "nsroot" && lost_bits(left, right) == Some(0o2000)
}

/// The kernel's FUSE client clears set-ID bits and file capabilities before it asks the server,
/// who then refuses.
fn privileges_lost_on_refusal(step: &Step, left: &str, right: &str) -> bool {
    match step.call.as_str() {
        "fallocate" => lost_bits(left, right).is_some(),
        "chown" | "lchown" | "fchown" => {
            left.contains(" security.capability=") && !right.contains(" security.capability=")
        }
        _ => false,
    }
}

/// Whether a step, if it is refused, may be `privileges-lost-on-refusal`. Nobody need look at the
/// file after it (a call on a descriptor names no path), so the lower trees are asked right away:
/// later the difference could be anybody's.
pub fn may_lose_privileges(step: &Step, before: &[Step]) -> bool {
    match step.call.as_str() {
        "fallocate" | "chown" | "lchown" | "fchown" => true,
        // A direct write that is not aligned, where the file system looks at that first (xfs).
        "write" | "pwrite" => step.args.first().is_some_and(|slot| direct(step, slot, before)),
        "copy" => step.args.get(2).is_some_and(|slot| direct(step, slot, before)),
        _ => false,
    }
}

/// Whether a slot of the step's caller was last opened for direct writing.
fn direct(step: &Step, slot: &str, before: &[Step]) -> bool {
    let mut opens = before.iter().rev().filter(|open| {
        open.call == "open"
            && open.caller == step.caller
            && open.args.first().is_some_and(|s| s == slot)
    });
    opens.next().is_some_and(|open| {
        opens_for_writing(open) && open.args.iter().any(|arg| arg.contains("DIRECT"))
    })
}

/// The oracle makes a whiteout of a caller without lower ids and stores the invalid id.
fn unmapped_whiteout(step: &Step, _: &str, right: &str) -> bool {
    step.call == "rename"
        && step.args.get(2).is_some_and(|flags| flags.contains("WHITEOUT"))
        && right == "EOVERFLOW"
}

/// That the lower file is open for writing by a process below cannot be seen through the mount.
fn text_busy_below(step: &Step, left: &str, _: &str) -> bool {
    step.call == "exec" && left == "ETXTBSY"
}

fn opens_for_writing(step: &Step) -> bool {
    let writes = |arg: &String| arg.contains("WRONLY") || arg.contains("RDWR");
    step.through_the_mount() && step.args.iter().any(writes)
}

/// The kernel sends one and the same request before a write and for a `chown(-1, -1)`. While
/// somebody has the file open for writing, it is taken for the first, which needs no rights.
fn chown_of_nothing_while_written(step: &Step, left: &str, right: &str) -> bool {
    is_chown_of_nothing(step) && (left, right) == ("EPERM", "ok")
}

fn is_chown_of_nothing(step: &Step) -> bool {
    let nothing = |n: usize| step.args.get(n).is_some_and(|arg| arg == "-1");
    step.call.ends_with("chown") && nothing(1) && nothing(2)
}

/// A mount that may be idmapped is not told who gives a file another name, or whether the map has him.
fn names_by_unmapped_callers(step: &Step, left: &str, right: &str) -> bool {
    matches!(step.call.as_str(), "link" | "rename") && left == "EOVERFLOW" && right != "EOVERFLOW"
}

/// Nor in which groups of the idmap its caller is.
fn set_gid_of_no_program(_: &Step, left: &str, right: &str) -> bool {
    let other = lost_bits(left, right).or(lost_bits(right, left));
    other == Some(0o2000) && field(left, "mode=").is_some_and(|mode| !has_group_execute(mode))
}

/// Nor who does a `chown(-1, -1)`: only a capability over everything counts.
fn chown_of_nothing_by_owners(step: &Step, left: &str, right: &str) -> bool {
    is_chown_of_nothing(step) && (left, right) == ("ok", "EPERM")
}

/// Whoever may change a file's owner is taken for somebody who may change its mode.
fn chown_without_fowner(step: &Step, left: &str, right: &str) -> bool {
    step.call.ends_with("chown")
        && step.callers().iter().any(|caller| caller.caps & (CAP_CHOWN | CAP_FOWNER) == CAP_CHOWN)
        && (left, right) == ("EPERM", "ok")
}

fn ends_appending(step: &Step) -> bool {
    step.call == "setfl" && !step.args[1].contains("APPEND")
}

/// With passthrough the kernel writes through a descriptor of its own, which keeps its O_APPEND.
fn append_flag_cleared(step: &Step, left: &str, right: &str) -> bool {
    let contents = ["contents=", "size="].map(|name| field(left, name) == field(right, name));
    matches!(step.call.as_str(), "write" | "pwrite") && contents.contains(&false)
}

/// btrfs lists `trusted.*` names to everyone.
fn trusted_names_on_btrfs(step: &Step, left: &str, right: &str) -> bool {
    let shown = |line: &str| -> Vec<String> {
        line.split(' ').filter(|name| !name.starts_with("trusted.")).map(str::to_owned).collect()
    };
    step.call == "listx" && left.contains(" trusted.") && shown(left) == shown(right)
}

/// A lock on a lower file is the server's, and FUSE cannot carry the -1 that fcntl(2) has for those
/// of open files.
fn no_holder(step: &Step, left: &str, right: &str) -> bool {
    step.call == "getlk" && right.ends_with(" holder:0") && equal_but(left, right, "holder:")
}

/// The value of a field of a line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(name))
}

fn equal_but(left: &str, right: &str, name: &str) -> bool {
    let rest = |line: &str| -> Vec<String> {
        line.split(' ').filter(|word| !word.starts_with(name)).map(str::to_owned).collect()
    };
    left != right && rest(left) == rest(right)
}

/// The set-ID bits that only the left line has, where the lines differ in nothing else.
fn lost_bits(left: &str, right: &str) -> Option<u32> {
    let mode = |line| u32::from_str_radix(field(line, "mode=")?, 8).ok();
    let (before, after) = (mode(left)?, mode(right)?);
    let lost = before & !after;
    (equal_but(left, right, "mode=") && before & after == after && lost & !0o6000 == 0)
        .then_some(lost)
}

/// An ACL entry for an unmapped id: the oracle shows the invalid id, which a FUSE server cannot
/// send; it sends a placeholder without rights.
fn unmapped_acl_entries(_: &Step, left: &str, right: &str) -> bool {
    left != right && without_unmapped(left) == without_unmapped(right)
}

fn without_unmapped(line: &str) -> String {
    let blank = |word: &str| match word.rsplit_once(':') {
        Some((id, _)) if id.ends_with(":4294967295") || id.ends_with(":4294967294") => {
            format!("{}:unmapped", &id[..id.len() - 11])
        }
        _ => word.to_owned(),
    };
    line.split(',').map(blank).collect::<Vec<_>>().join(",")
}
