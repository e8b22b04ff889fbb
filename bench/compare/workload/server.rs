//! What a server costs while nobody asks it anything.

use std::time::Duration;

use super::{Group, Measure, Workload};
use crate::worker::Context;

pub(super) const IDLE: Workload = Workload {
    quick: true,
    most_rounds: 3,
    ..Workload::new("idle", Group::Server, MEASURES, |c: &mut Context| {
        // What the mount itself set off has to come to rest first.
        std::thread::sleep(Duration::from_millis(300));
        let nap = (c.window * 8).max(Duration::from_secs(1));
        c.once("idle", 1, || {
            std::thread::sleep(nap);
            Ok(())
        })
    })
};

const MEASURES: &[Measure] =
    &[Measure::new("idle", "a quiet mount: the server's share of one CPU is what counts")];
