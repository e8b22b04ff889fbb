//! What is agreed with the kernel when the connection starts: one table, which the log, `idshift
//! probe` and the documentation print.

use super::wire::{InitIn, InitOut, MAJOR, MINOR, OLDEST_MINOR};

/// A feature of the kernel's FUSE that idshift asks for.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// The name of its flag in include/uapi/linux/fuse.h.
    pub name: &'static str,
    /// The flag.
    pub bits: u64,
    /// The first kernel that has it.
    pub since: &'static str,
    /// What it is for here.
    pub why: &'static str,
    /// What happens on kernels without it.
    pub without: &'static str,
}

macro_rules! features {
    ($($flag:ident $bit:literal $since:literal $why:literal else $without:literal;)*) => {
        $(pub(super) const $flag: u64 = 1 << $bit;)*
        /// The features, in the order of their bits.
        pub const FEATURES: &[Feature] = &[$(Feature {
            name: stringify!($flag),
            bits: $flag,
            since: $since,
            why: $why,
            without: $without,
        }),*];
    };
}

// Not asked for: FUSE_ATOMIC_O_TRUNC. With it OPEN truncates before the kernel has asked whether the
// file is a program that runs, or whether a security module (Landlock) forbids it: both then refused
// what had been done, and the reply had no room for the new mode.
// Nor FUSE_ASYNC_DIO. With it the kernel drops no pages after an asynchronous direct write, so that
// pages which somebody has read meanwhile stay old.
features! {
    FUSE_ASYNC_READ 0 "2.6.20" "several reads of one file at once" else "one at a time";
    FUSE_POSIX_LOCKS 1 "2.6.15" "with locks=lower: fcntl(2) locks are held on the lower files"
        else "locks are seen on this mount alone";
    FUSE_EXPORT_SUPPORT 4 "2.6.26" "file handles (NFS) of a whole ext4 or btrfs lead to files that the kernel has forgotten"
        else "they become stale";
    FUSE_BIG_WRITES 5 "2.6.27" "writes of more than a page" else "page by page";
    FUSE_DONT_MASK 6 "2.6.35" "the server applies the umask, so that default ACLs can override it"
        else "inherited ACLs are cut by the umask";
    FUSE_FLOCK_LOCKS 10 "3.1" "with locks=lower: flock(2) locks are held on the lower files"
        else "locks are seen on this mount alone";
    FUSE_HAS_IOCTL_DIR 11 "2.6.36" "lsattr and chattr on directories" else "files only";
    FUSE_AUTO_INVAL_DATA 12 "3.6" "cached pages go when a file changed below"
        else "changes below show after reopening";
    FUSE_DO_READDIRPLUS 13 "3.9" "listings bring attributes along"
        else "one lookup per listed file";
    FUSE_READDIRPLUS_AUTO 14 "3.9" "… but only for listings that use them"
        else "always with attributes";
    FUSE_PARALLEL_DIROPS 18 "4.7" "several lookups in one directory at once"
        else "one at a time per directory";
    FUSE_WRITEBACK_CACHE 16 "3.15" "with io=cached,cache=exclusive: small writes are gathered"
        else "each is a message";
    FUSE_NO_OPEN_SUPPORT 17 "3.16" "with io=cached: opening and closing a file cost no message"
        else "they do";
    FUSE_POSIX_ACL 20 "4.9" "the kernel enforces shifted ACLs" else "ACLs are not supported";
    FUSE_MAX_PAGES 22 "4.20" "reads and writes of 1 MiB" else "of 128 KiB";
    FUSE_CACHE_SYMLINKS 23 "4.20" "targets of symbolic links are read once" else "read each time";
    FUSE_NO_OPENDIR_SUPPORT 24 "5.1" "with cache=exclusive: listing a directory again costs no message"
        else "opening and closing it do";
    FUSE_HANDLE_KILLPRIV_V2 28 "5.11"
        "writes need no question about file capabilities first, and requests say whose bits to clear"
        else "one more message before each write";
    FUSE_SETXATTR_EXT 29 "5.14" "setting an ACL says whether S_ISGID must go"
        else "the caller's groups are read from /proc";
    FUSE_INIT_EXT 30 "5.17" "room for the flags that follow" else "none of them";
    FUSE_PASSTHROUGH 37 "6.9" "the kernel reads and writes lower files without the server"
        else "contents are copied through the server";
    FUSE_HAS_RESEND 39 "6.9" "requests that a killed server had begun are answered by the next one"
        else "they end with EIO";
    FUSE_ALLOW_IDMAP 40 "6.12" "the mount can be idmapped by the kernel once more (':idmap' of container tools)"
        else "the mount cannot be idmapped";
    FUSE_OVER_IO_URING 41 "6.14" "with transport=uring: requests come through io_uring, on the caller's CPU"
        else "requests are read from /dev/fuse";
}

/// What to do where the kernel makes no idmapped mounts of FUSE.
pub const WITHOUT_IDMAP: &str = "not before Linux 6.12; give idshift the whole map (map=) and bind its \
                                 mount without ':idmap'";

/// What to do where the kernel does not offer io_uring.
pub const WITHOUT_URING: &str = "the kernel does not offer it: it has it from Linux 6.14 on, and only if \
                                 root has written Y to /sys/module/fuse/parameters/enable_uring (for \
                                 good: 'options fuse enable_uring=1' in /etc/modprobe.d/fuse.conf)";

/// Whether a kernel that offers these flags sends requests through io_uring.
pub fn has_uring(offered: u64) -> bool {
    offered & FUSE_OVER_IO_URING != 0
}

/// Whether a kernel that offers these flags lets mounts be idmapped.
pub fn can_be_idmapped(offered: u64) -> bool {
    offered & FUSE_ALLOW_IDMAP != 0
}

/// The oldest and the newest minor version of the protocol (its major version is 7) that is spoken.
pub const PROTOCOL: (u32, u32) = (OLDEST_MINOR, MINOR);

/// The most that one write carries; with the page limit it is also what the kernel lets through.
pub(super) const MAX_WRITE: u32 = 1 << 20;
const PAGE_SIZE: u32 = 4096;
/// Requests that may wait without a caller blocking on them, such as read-ahead.
const BACKGROUND: u16 = 64;

/// What both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed(u64);

impl Agreed {
    /// Whether a feature is on.
    pub(super) fn has(self, feature: u64) -> bool {
        self.0 & feature == feature
    }

    /// The features that are on, as the kernel numbers them.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// What another program has agreed on. `None` if it is more than this one knows, or a feature
    /// that it would have left out.
    pub(super) fn adopt(bits: u64, left_out: u64) -> Option<Self> {
        let known = FEATURES.iter().fold(0, |all, feature| all | feature.bits);
        (bits & !known == 0 && bits & left_out == 0).then_some(Self(bits))
    }
}

/// Chooses from what the kernel offers; `offered_high` are its flags from bit 32 up. Features that
/// it lacks are named in the log with what that means. `left_out` are features that the options do
/// not ask for.
pub(super) fn agree(
    init: InitIn,
    offered_high: u32,
    stack_depth: u32,
    left_out: u64,
) -> (Agreed, InitOut) {
    let high = if u64::from(init.flags) & FUSE_INIT_EXT == 0 { 0 } else { offered_high };
    let offered = u64::from(init.flags) | u64::from(high) << 32;
    let wanted = || FEATURES.iter().filter(|feature| feature.bits & left_out == 0);
    let agreed = wanted().fold(0, |all, feature| all | feature.bits) & offered;
    for feature in wanted().filter(|feature| feature.bits & offered == 0) {
        let Feature { name, since, without, .. } = feature;
        tracing::info!("{name} is not in this kernel (Linux {since}): {without}");
    }
    let out = InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: init.max_readahead,
        flags: u32::try_from(agreed & u64::from(u32::MAX)).unwrap_or(0),
        flags2: u32::try_from(agreed >> 32).unwrap_or(0),
        max_background: BACKGROUND,
        congestion_threshold: BACKGROUND / 4 * 3,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: u16::try_from(MAX_WRITE / PAGE_SIZE).unwrap_or(u16::MAX),
        max_stack_depth: if agreed & FUSE_PASSTHROUGH == 0 { 0 } else { stack_depth },
        ..InitOut::default()
    };
    (Agreed(agreed), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u64) -> (Agreed, InitOut) {
        let low = u32::try_from(flags & 0xffff_ffff).unwrap();
        let init = InitIn { major: 7, minor: 45, max_readahead: 131_072, flags: low };
        agree(init, u32::try_from(flags >> 32).unwrap(), 1, 0)
    }

    #[test]
    fn nothing_is_taken_that_is_not_offered() {
        assert_eq!(offer(0).0, Agreed(0));
        let (agreed, out) = offer(FUSE_POSIX_ACL | FUSE_DONT_MASK);
        assert!(agreed.has(FUSE_POSIX_ACL) && !agreed.has(FUSE_PASSTHROUGH));
        assert_eq!((out.flags2, out.max_stack_depth), (0, 0));
    }

    #[test]
    fn high_flags_count_only_with_their_extension() {
        assert!(!offer(FUSE_PASSTHROUGH).0.has(FUSE_PASSTHROUGH));
        let (agreed, out) = offer(FUSE_PASSTHROUGH | FUSE_INIT_EXT);
        assert!(agreed.has(FUSE_PASSTHROUGH));
        assert_eq!((out.flags2, out.max_stack_depth), (1 << 5, 1));
    }

    #[test]
    fn nothing_is_taken_that_the_options_leave_out() {
        let init = InitIn { major: 7, minor: 45, max_readahead: 0, flags: u32::MAX };
        assert!(!agree(init, 0, 1, FUSE_POSIX_LOCKS).0.has(FUSE_POSIX_LOCKS));
    }

    #[test]
    fn what_was_agreed_is_taken_over_whole_or_not_at_all() {
        let all = FEATURES.iter().fold(0, |all, f| all | f.bits);
        assert_eq!(Agreed::adopt(all, 0).map(Agreed::bits), Some(all));
        assert_eq!(Agreed::adopt(all, FUSE_POSIX_LOCKS), None);
        assert_eq!(Agreed::adopt(all | 1 << 63, 0), None);
    }

    #[test]
    fn nothing_is_taken_that_is_not_in_the_table() {
        let (_, out) = offer(u64::MAX);
        let known = FEATURES.iter().fold(0, |all, f| all | f.bits);
        assert_eq!(u64::from(out.flags) | u64::from(out.flags2) << 32, known);
    }
}
