//! `cargo bench --bench compare`: idshift beside the kernel's idmapped mount and its FUSE peers.
//!
//! Every subject shows the same lower tree. One round mounts each of them in turn, runs a workload
//! on it as the mapped root of a user namespace, and unmounts it again; rounds repeat, so that
//! whatever else the machine does hits all subjects alike. Medians are compared, and what is not
//! installed is left out by name.
//!
//! | module | what is in it |
//! |---|---|
//! | [`plan`] | which subjects run which workloads, how often |
//! | [`subject`], [`mounted`] | what is compared, and a mount of it |
//! | [`floor`] | a server that does nothing: what the protocol itself costs |
//! | [`stage`], [`tree`] | the files that all subjects show |
//! | [`worker`], [`client`] | the process that does the work, and this side of it |
//! | [`workload`] | what is done |
//! | [`results`], [`report`] | the numbers, and how they are shown |
//! | [`sandbox`], [`burner`], [`usage`], [`machine`] | the surroundings |
#![allow(clippy::cast_precision_loss)] // numbers of operations and nanoseconds, shown rounded
#![allow(clippy::format_push_string)] // text is put together outside of what is timed

mod args;
mod burner;
mod client;
mod failure;
mod floor;
mod machine;
mod mounted;
mod plan;
mod report;
mod results;
mod sandbox;
mod stage;
mod subject;
mod tree;
mod usage;
mod worker;
mod workload;

use std::process::ExitCode;

use clap::Parser;
use failure::Result;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        // `cargo test --all-targets` starts the program bare: it measures nothing there.
        None => {
            println!("run it with: cargo bench --bench compare -- --help");
            Ok(())
        }
        Some(worker::COMMAND) => worker::main(),
        Some(burner::COMMAND) => burner::main(),
        Some(floor::COMMAND) => floor::main(),
        Some(_) => run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("compare: {why}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let args = args::Args::parse();
    if args.list {
        workload::list();
        return Ok(());
    }
    sandbox::enter()?;
    sandbox::end_on_signals()?;
    let stage = stage::Stage::build(&args)?;
    let (subjects, left_out) = subject::find(&args, &stage);
    for (name, why) in &left_out {
        eprintln!("left out: {name}: {why}");
    }
    let machine = machine::describe(&stage, &args);
    let mut results = results::Results::new(machine, args::Args::as_typed(), left_out);
    plan::run(&args, &stage, &subjects, &mut results)?;
    report::write(&results, &args.out)
}
