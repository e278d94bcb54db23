//! Waiting for a client's process to end, where the kernel cannot say who has its memory mapped.

use std::fs;
use std::time::Duration;

use larder_protocol::socket::{self, Peer};

use super::{Connection, watched};

/// How often a process is looked for that there is no descriptor of.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until the process at the other end has ended. True when it has.
pub(super) async fn wait(connection: &Connection, peer: Peer, pidfd: bool) -> bool {
    if pidfd && let Ok(pidfd) = socket::peer_pidfd(connection.get_ref()) {
        return match watched(pidfd) {
            Ok(pidfd) => pidfd.readable().await.is_ok(),
            Err(_) => false,
        };
    }
    // The number alone may be another process's by now, but not with the same start.
    let Some(started) = start_of(peer.pid) else { return true };
    while start_of(peer.pid).as_ref() == Some(&started) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// When a process started, in the kernel's ticks, as it prints it. `None` when it has ended.
fn start_of(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from behind it: the start is field 22, the state field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A process that nobody has waited for has no memory any more. One whose first thread alone has ended looks like it.
    if fields.next()? == "Z" && fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() == 1) {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}
