//! The filter of system calls: refusing all that [`super::calls`] does not list.
//!
//! What is refused fails with `EPERM`. A signal would end the server, and with it perhaps the root
//! file system of a machine; `ENOSYS` might reach the kernel's FUSE, which takes it to mean that
//! the whole operation is not offered, and never asks again. Only `clone3` gets `ENOSYS`: its flags
//! are in memory, where no filter sees them, and on this errno the C library uses `clone`.
//!
//! The kernel works out once which calls are allowed whatever their arguments (Linux 5.11) and
//! then runs no filter for them, so the calls that requests are made of pay nothing.

use std::collections::BTreeMap;

use rustix::io::Errno;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::calls::{FEATURES, Pins, When, narrow};
use crate::sys::seccomp::{self, Instruction};

/// Puts the filter on this process, for good. `no_new_privs` must be set.
pub(super) fn install(pins: &Pins) -> Result<(), String> {
    let step = |program: Vec<Instruction>, log| {
        seccomp::install(&program, log).map_err(|errno| format!("seccomp(2): {errno}"))
    };
    step(clone3_is_missing()?, false)?;
    // The last one: it allows no further filters.
    step(allow_list(pins)?, true)
}

fn allow_list(pins: &Pins) -> Result<Vec<Instruction>, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for one in narrow(pins) {
        let conditions = one.when.iter().map(|when| condition(*when)).collect::<Result<_, _>>();
        let rule = conditions.and_then(SeccompRule::new).map_err(|error| error.to_string())?;
        rules.entry(one.call).or_default().push(rule);
    }
    for call in FEATURES.iter().flat_map(|feature| feature.calls) {
        rules.insert(*call, Vec::new());
    }
    compile(rules, errno(Errno::PERM), SeccompAction::Allow)
}

fn clone3_is_missing() -> Result<Vec<Instruction>, String> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(rules, SeccompAction::Allow, errno(Errno::NOSYS))
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<Vec<Instruction>, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let program: seccompiler::BpfProgram = SeccompFilter::new(rules, otherwise, action, arch)
        .and_then(TryInto::try_into)
        .map_err(|error| error.to_string())?;
    Ok(program.into_iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect())
}

fn condition(when: When) -> Result<SeccompCondition, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    match when {
        When::Is(at, value) => SeccompCondition::new(at, Dword, SeccompCmpOp::Eq, u64::from(value)),
        When::Not(at, value) => {
            SeccompCondition::new(at, Dword, SeccompCmpOp::Ne, u64::from(value))
        }
        When::Bits(at, mask, value) => {
            let masked = SeccompCmpOp::MaskedEq(u64::from(mask));
            SeccompCondition::new(at, Dword, masked, u64::from(value))
        }
        When::Null(at) => SeccompCondition::new(at, Qword, SeccompCmpOp::Eq, 0),
    }
}

fn errno(errno: Errno) -> SeccompAction {
    SeccompAction::Errno(errno.raw_os_error().unsigned_abs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // in a test the panic is the failure
mod tests {
    use super::*;

    fn some_pins() -> Pins {
        Pins { mounts: vec![4, 9], group: Some(7), rings: (20..60).collect() }
    }

    #[test]
    fn a_call_is_listed_once_and_never_both_ways() {
        let mut seen = std::collections::BTreeSet::new();
        for call in FEATURES.iter().flat_map(|feature| feature.calls) {
            assert!(seen.insert(*call), "{call} is listed twice");
        }
        for one in narrow(&some_pins()) {
            assert!(!seen.contains(&one.call), "{} is allowed with any arguments", one.name);
            assert!(!one.when.is_empty(), "{}", one.name);
        }
    }

    #[test]
    fn what_leads_out_is_not_listed() {
        let out = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_quotactl,
            libc::SYS_keyctl,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_pidfd_getfd,
            libc::SYS_kill,
            libc::SYS_setuid,
            libc::SYS_dup3,
            libc::SYS_close_range,
            libc::SYS_recvmsg,
            libc::SYS_setresuid,
        ];
        let listed = |call: i64| {
            FEATURES.iter().any(|feature| feature.calls.contains(&call))
                || narrow(&some_pins()).iter().any(|one| one.call == call)
        };
        assert_eq!(out.into_iter().find(|call| listed(*call)), None);
    }

    #[test]
    fn both_filters_compile() {
        assert!(allow_list(&some_pins()).unwrap().len() > 100);
        assert!(!clone3_is_missing().unwrap().is_empty());
    }
}
