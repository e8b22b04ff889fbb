//! What is agreed with the kernel when the connection starts: one table, which the log, `idshift
//! probe` and the documentation print.

use fuser::{InitFlags, KernelConfig};

/// A feature of the kernel's FUSE that idshift asks for.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// The name of its flag in include/uapi/linux/fuse.h.
    pub name: &'static str,
    /// The flag's bit.
    pub bits: u64,
    /// The first kernel that has it.
    pub since: &'static str,
    /// What it is for here.
    pub why: &'static str,
    /// What happens on kernels without it.
    pub without: &'static str,
}

macro_rules! features {
    ($($flag:ident $since:literal $why:literal else $without:literal;)*) => {
        &[$(Feature {
            name: stringify!($flag),
            bits: InitFlags::$flag.bits(),
            since: $since,
            why: $why,
            without: $without,
        }),*]
    };
}

/// The features, in the order in which they came to the kernel.
pub const FEATURES: &[Feature] = features! {
    FUSE_ATOMIC_O_TRUNC "2.6.24" "O_TRUNC is part of opening, as the lower file system does it"
        else "a message more, and some bits survive it on empty files";
    FUSE_DONT_MASK "2.6.35" "the server applies the umask, so that default ACLs can override it"
        else "inherited ACLs are cut by the umask";
    FUSE_AUTO_INVAL_DATA "3.6" "cached pages go when a file changed below"
        else "changes below show after reopening";
    FUSE_DO_READDIRPLUS "3.9" "listings bring attributes along"
        else "one lookup per listed file";
    FUSE_READDIRPLUS_AUTO "3.9" "…but only for listings that use them"
        else "always with attributes";
    FUSE_ASYNC_DIO "3.13" "direct I/O in parallel" else "direct I/O one request at a time";
    FUSE_PARALLEL_DIROPS "4.7" "several lookups in one directory at once"
        else "one at a time per directory";
    FUSE_HAS_IOCTL_DIR "2.6.36" "lsattr and chattr on directories" else "files only";
    FUSE_POSIX_ACL "4.9" "the kernel enforces shifted ACLs" else "ACLs are not supported";
    FUSE_CACHE_SYMLINKS "4.20" "targets of symbolic links are read once" else "read each time";
    FUSE_HANDLE_KILLPRIV_V2 "5.11" "writes need no question about file capabilities first"
        else "one more message before each write";
    FUSE_PASSTHROUGH "6.9" "the kernel reads and writes lower files without the server"
        else "contents are copied through the server";
};

/// Asks for every feature of the table that the kernel offers, and says in the log what is missing.
/// `stack_depth` is how deep the file systems of backing files may be stacked.
pub(super) fn negotiate(config: &mut KernelConfig, stack_depth: u32) {
    for feature in FEATURES {
        let wanted = InitFlags::from_bits_retain(feature.bits);
        if config.add_capabilities(wanted).is_ok() {
            tracing::debug!(feature = feature.name, "on: {}", feature.why);
        } else {
            tracing::info!(
                feature = feature.name,
                "not in this kernel (Linux {}): {}",
                feature.since,
                feature.without
            );
        }
    }
    if config.set_max_stack_depth(stack_depth).is_err() {
        tracing::debug!(stack_depth, "the kernel stacks file systems less deep");
    }
    // Requests of 1 MiB are the most that the kernel's default page limit lets through.
    if config.set_max_write(MAX_WRITE).is_err() || config.set_max_background(BACKGROUND).is_err() {
        tracing::debug!("the library keeps its own request sizes");
    }
}

const MAX_WRITE: u32 = 1 << 20;
/// Requests that may wait without a caller blocking on them, such as read-ahead.
const BACKGROUND: u16 = 64;
