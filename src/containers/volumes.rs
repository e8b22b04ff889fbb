//! What `idshift volumes` does: the volume plugin protocol of Docker and Podman ([`protocol`]), over volumes that are written
//! down ([`store`]) and mounted as long as a container uses them ([`mounted`]).

pub mod mounted;
pub mod protocol;
pub mod server;
pub mod store;
