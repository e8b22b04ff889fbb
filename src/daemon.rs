//! The processes that keep a mount: the server, its supervisor and its privileged helper; how they
//! start, log, give up their rights, and hand a mount to another program.

mod adopt;
pub mod background;
mod facts;
pub mod helper;
pub mod log;
pub mod resume;
pub mod sandbox;
pub mod serve;
mod supervise;
pub mod upgrade;
