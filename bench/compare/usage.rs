//! What a server uses: CPU time and memory, from proc(5).

use std::fs;
use std::path::PathBuf;

/// CPU time of all threads of a process since it began, in nanoseconds; 0 without a process.
pub(crate) fn cpu(pid: Option<u32>) -> u64 {
    let Some(pid) = pid else { return 0 };
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let Ok(threads) = fs::read_dir(tasks) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The most memory that a process has had resident so far (`VmHWM`), in KiB.
pub(crate) fn peak_memory(pid: Option<u32>) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid?)).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
