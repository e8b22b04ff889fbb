//! What works, and what is said, where system calls of newer kernels are missing: levels of
//! distributions that are still in use (RHEL 8, Ubuntu 20.04, Debian 11 and 12).

use std::fs;

use crate::common::mount::{free, temp_dir};
use crate::common::program::{Called, program};
use crate::common::runner::{needs_idshift, needs_real_root};
use crate::common::{self, lo, machine, older, owner, put_dir, put_file};

common::tests!(demo, what_is_missing_is_named, mounting_again_and_again);

const LEVELS: &[&str] = &["4.18", "5.4", "5.10", "6.1"];

/// The program of today as on that kernel.
fn on(kernel: &str) -> impl Fn(&[&dyn AsRef<std::ffi::OsStr>]) -> Called {
    needs_idshift();
    let wrapper = older::wrap(&machine().binary, kernel, &machine().base);
    move |arguments| program(&wrapper, arguments)
}

fn demo() {
    for kernel in LEVELS {
        let called = on(kernel)(&[&"demo"]);
        assert_eq!(called.code, 0, "{kernel}: {}{}", called.out, called.err);
        assert_eq!(called.err, "", "{kernel}");
        assert!(called.out.contains("Nothing is left behind"), "{kernel}: {}", called.out);
    }
}

/// The call and the kernel that has it.
fn what_is_missing_is_named() {
    needs_real_root("guards, and the kernel's idmapped mount");
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    put_file(&lower.join("file"), b"content", 0o644, lo(7), lo(7));
    let idshift = on("4.18");
    let mount = |more: &str| {
        let options = format!("{}{more}", common::MAP);
        idshift(&[&"mount", &"-o", &options, &lower, &upper])
    };
    let refused = |called: &Called, words: &[&str]| {
        assert_ne!(called.code, 0);
        for word in words {
            assert!(called.err.contains(word), "{word}: {}", called.err);
        }
    };
    refused(&mount(",guard=nosuid"), &["guard", "Linux 5.12"]);
    refused(&mount(",backend=kernel"), &["Linux 5.12"]);
    refused(&mount(",cache=coherent"), &["cache", "Linux 5.17"]);
    assert_eq!(mount(",restart=on").code, 0);
    assert_eq!(owner(&upper.join("file")), (7, 7));
    let report = idshift(&[&"status", &upper]);
    assert_eq!(report.code, 0, "{}", report.err);
    refused(&idshift(&[&"upgrade", &upper]), &["Linux 5.3", "pidfd_open"]);
    assert_eq!(idshift(&[&"explain", &upper.join("file")]).code, 0);
    assert_eq!(idshift(&[&"umount", &upper]).code, 0);
    assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
    free(&upper);
}

/// The number of a mount is that of the next one, and what ends with the first is not to end that.
fn mounting_again_and_again() {
    let dir = temp_dir();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    put_dir(&lower, 0o755, lo(0), lo(0));
    put_dir(&upper, 0o755, 0, 0);
    put_file(&lower.join("file"), b"content", 0o644, lo(7), lo(7));
    let idshift = on("4.18");
    for _ in 0..20 {
        let called = idshift(&[&"mount", &"-o", &common::MAP, &lower, &upper]);
        assert_eq!(called.code, 0, "{}", called.err);
        assert_eq!(fs::read(upper.join("file")).unwrap(), b"content");
        assert_eq!(idshift(&[&"umount", &upper]).code, 0);
    }
}
