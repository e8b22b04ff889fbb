//! What `sandbox=on` takes from a server here.

use rustix::thread::CapabilitySet;

use super::{Answer, Row, Section};
use crate::config::Ownership;
use crate::daemon::sandbox::{capabilities, landlock};
use crate::host::privilege::Standing;
use crate::sys::seccomp;

/// The parts, and which of them this machine and user give.
pub(super) fn parts(standing: Standing) -> Vec<Row> {
    let mut section = Section::new("Confining the server (sandbox=on)");
    match standing {
        Standing::Ordinary if !landlock::is_there() => section.add(
            "files out of reach",
            false,
            "this kernel has no Landlock (Linux 5.19, switched on): an ordinary user's server still \
             opens that user's files; in a user namespace it does not ('unshare -rm')",
        ),
        _ => section.add("files out of reach", true, "all but the lower directory's"),
    }
    section.add("rights given up", Answer::Fact, rights_kept(standing));
    let filter = seccomp::is_there();
    let meaning = if filter {
        "no programs, processes, sockets, mounts"
    } else {
        "this kernel has no filters (CONFIG_SECCOMP_FILTER)"
    };
    section.add("system calls filtered", filter, meaning);
    section.add("core dumps and tracing off", true, "and no new privileges, no environment");
    section.rows
}

fn rights_kept(standing: Standing) -> String {
    if standing == Standing::Ordinary {
        return "an ordinary user has none".to_owned();
    }
    let needs = capabilities::needs(&Ownership::Chown, standing == Standing::Root);
    let names = needs.iter().flat_map(|need| need.capability.iter_names()).map(|(name, _)| name);
    let kept: Vec<String> = names.map(str::to_lowercase).collect();
    let all = CapabilitySet::all().bits().count_ones();
    format!("all but {} of {all} capabilities: {}", kept.len(), kept.join(", "))
}
