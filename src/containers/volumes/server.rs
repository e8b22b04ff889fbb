//! HTTP over a Unix socket, which is the one that systemd has made, or a new one that only its owner can reach.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::Mode;
use tiny_http::{Header, Response, Server};

use super::protocol::{Plugin, is_refusal};
use crate::containers::Problem;
use crate::plain;

/// No request of the protocol is longer.
const LONGEST: u64 = 1024 * 1024;

/// Answers until the process is ended. One request after the other: volumes are made and used one at a time.
pub fn serve(plugin: &Plugin, listener: UnixListener) -> Result<(), Problem> {
    let failed = |error: &dyn std::fmt::Display| Problem::new(format!("cannot serve: {error}"));
    let server = Server::from_listener(listener, None).map_err(|error| failed(&error))?;
    let kind = Header::from_bytes("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        .map_err(|()| failed(&"no header"))?;
    for mut request in server.incoming_requests() {
        let mut body = Vec::new();
        let read = request.as_reader().take(LONGEST).read_to_end(&mut body);
        let answer = read.ok().and_then(|_| plugin.answer(request.url(), &body));
        let sent = match answer {
            // Podman looks at the status alone, Docker at both.
            Some(answer) => {
                let status = if is_refusal(&answer) { 500 } else { 200 };
                let response = Response::from_string(answer.to_string()).with_status_code(status);
                request.respond(response.with_header(kind.clone()))
            }
            None => request.respond(Response::from_string("").with_status_code(404)),
        };
        if let Err(error) = sent {
            complain!("idshift volumes: an answer could not be sent: {error}");
        }
    }
    Ok(())
}

/// The socket of systemd's, if this process was started for one (sd_listen_fds(3)).
pub fn activated() -> Result<Option<UnixListener>, Problem> {
    let given = listenfd::ListenFd::from_env().take_unix_listener(0);
    given.map_err(|error| Problem::new(format!("the socket that systemd hands over: {error}")))
}

/// A new socket at this path, which may be there from a former run.
pub fn listen(path: &Path) -> Result<UnixListener, Problem> {
    let failed =
        |error: std::io::Error| Problem::new(format!("socket '{}': {error}", plain::path(path)));
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(Problem::new(format!(
                "socket '{}': another server answers there",
                plain::path(path)
            )));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    // The socket is its owner's from the first moment on.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path).map_err(failed);
    rustix::process::umask(before);
    listener
}
