//! Waiting for a standby to replay up to a position, where the server has a command for it.

use std::time::Duration;

use sheaf_model::Lsn;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::PgError;

/// The first version with `WAIT FOR LSN`.
const WAIT_SINCE: u32 = 190_000;

const STEP: &str = "waiting for a standby to replay";

/// Whether a server of this version can be told to wait.
pub fn has_wait(server_version: u32) -> bool {
    server_version >= WAIT_SINCE
}

/// Waits until the standby has replayed up to the position, for so long; whether it has. In no transaction: a snapshot
/// would hold the replay up. The command does not know of timelines, so that whatever is read afterwards has to say on
/// which it is.
pub async fn wait_replayed(client: &Client, lsn: Lsn, at_most: Duration) -> Result<bool, PgError> {
    let waited = client.simple_query(&wait_command(lsn, at_most)).await;
    let messages = waited.map_err(PgError::statement(STEP))?;
    let status = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get("status"),
        _ => None,
    });
    // The others are that the time was up, and that the server was promoted.
    Ok(status.ok_or_else(|| PgError::unreadable(STEP, "status"))? == "success")
}

/// It takes no parameters. A time of zero would be none.
fn wait_command(lsn: Lsn, at_most: Duration) -> String {
    let millis = at_most.as_millis().max(1);
    format!("WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{millis}ms', NO_THROW)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_wait_themselves_since_version_19() {
        for (version, has) in [
            (150_004, false),
            (170_000, false),
            (180_099, false),
            (190_000, true),
            (190_001, true),
            (200_000, true),
        ] {
            assert_eq!(has_wait(version), has, "{version}");
        }
    }

    #[test]
    fn the_command_names_the_position_and_always_a_time() {
        let command = wait_command(Lsn(0x0306_EE20), Duration::from_millis(300));
        let expected =
            "WAIT FOR LSN '0/306EE20' WITH (MODE 'standby_replay', TIMEOUT '300ms', NO_THROW)";
        assert_eq!(command, expected);
        let short = wait_command(Lsn(u64::MAX), Duration::from_micros(10));
        let expected = "WAIT FOR LSN 'FFFFFFFF/FFFFFFFF' WITH (MODE 'standby_replay', TIMEOUT '1ms', NO_THROW)";
        assert_eq!(short, expected);
    }
}
