//! What the filter of a running server says to a call.

use crate::common::inject::Stopped;

/// The filters of one process.
pub(super) struct Filters(Vec<Vec<libc::sock_filter>>);

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;

impl Filters {
    pub(super) fn of(server: &Stopped) -> Self {
        let filters = server.filters().unwrap();
        assert!(filters.len() >= 2, "{} filters", filters.len());
        Self(filters)
    }

    /// Whether the call would be made.
    pub(super) fn allow(&self, call: i64, args: [u64; 6]) -> bool {
        // struct seccomp_data of linux/seccomp.h.
        let mut data = Vec::new();
        data.extend(u32::try_from(call).unwrap().to_ne_bytes());
        data.extend(X86_64.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        for arg in args {
            data.extend(arg.to_ne_bytes());
        }
        self.0.iter().all(|filter| run(filter, &data) == libc::SECCOMP_RET_ALLOW)
    }
}

/// Runs one: instructions as in `linux/filter.h`, those that `linux/seccomp.h` has.
fn run(program: &[libc::sock_filter], data: &[u8]) -> u32 {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP: u16 = 0x05;
    const EQUAL: u16 = 0x15;
    const GREATER: u16 = 0x25;
    const AT_LEAST: u16 = 0x35;
    const HAS_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let (mut at, mut value) = (0, 0_u32);
    loop {
        let one = &program[at];
        at += 1;
        let k = one.k;
        let mut branch = |holds: bool| at += usize::from(if holds { one.jt } else { one.jf });
        match one.code {
            LOAD => {
                let offset = usize::try_from(k).unwrap();
                value = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            AND => value &= k,
            JUMP => at += usize::try_from(k).unwrap(),
            EQUAL => branch(value == k),
            GREATER => branch(value > k),
            AT_LEAST => branch(value >= k),
            HAS_BITS => branch(value & k != 0),
            RETURN => return k,
            other => panic!("an instruction that is not known here: {other:#x}"),
        }
    }
}
