//! A busy machine: one process of the lowest priority on each CPU.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::failure::{Result, Say};

/// The hidden command that makes this program one of them.
pub(crate) const COMMAND: &str = "--burn";

/// Burns until its standard input ends, that is, until its parent lets go or dies.
pub(crate) fn main() -> Result<()> {
    rustix::process::nice(19).say("nice")?;
    std::thread::spawn(|| {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new()).say("stdin")?;
    Ok(())
}

/// Burners that run until this is dropped.
pub(crate) struct Burners(Vec<(Child, Option<ChildStdin>)>);

impl Burners {
    /// One for each CPU.
    pub(crate) fn start() -> Result<Self> {
        let cpus = std::thread::available_parallelism().say("number of CPUs")?.get();
        let program = std::env::current_exe().say("where this program is")?;
        let start = |_| {
            let mut child =
                Command::new(&program).arg(COMMAND).stdin(Stdio::piped()).spawn().say("burner")?;
            let stdin = child.stdin.take();
            Ok((child, stdin))
        };
        (0..cpus).map(start).collect::<Result<_>>().map(Self)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for (child, stdin) in &mut self.0 {
            drop(stdin.take());
            // It ends because its input has ended.
            child.wait().ok();
        }
    }
}
