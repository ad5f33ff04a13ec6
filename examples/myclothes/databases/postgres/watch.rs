//! Asks every server twice a second what it is and how far its log is.
//!
//! So a promoted replica is found within half a second, without a restart and whatever the order of the URL: what
//! `target_session_attrs=read-write` would find at each new connection, known before it is needed.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::PgLsn;

use super::routes::{Observed, Role};
use super::servers::{Server, Servers, Trouble};

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(500);
/// For one answer, a new connection included.
const DEADLINE: Duration = Duration::from_millis(1500);

const QUESTION: &str = "
    SELECT replica, position, zone,
           CASE WHEN replica THEN 0 ELSE ('x' || left(pg_walfile_name(position), 8))::bit(32)::bigint END
    FROM (SELECT pg_is_in_recovery() AS replica, current_setting('cluster_name') AS zone,
                 CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
                      ELSE pg_current_wal_lsn() END AS position) AS now";

/// Watches until it is dropped.
pub(super) struct Watch {
    _tasks: JoinSet<()>,
}

impl Watch {
    pub(super) fn start(servers: &Servers) -> Self {
        let mut tasks = JoinSet::new();
        for index in 0..servers.len() {
            tasks.spawn(watch(servers.clone(), index));
        }
        Self { _tasks: tasks }
    }
}

async fn watch(servers: Servers, index: usize) {
    let server = servers.at(index);
    loop {
        match timeout(DEADLINE, ask(server)).await {
            Ok(Ok(told)) => servers.observed(index, told),
            Ok(Err(trouble)) => servers.lost(index, &format!("{}: {trouble}", server.name)),
            Err(_) => servers.lost(index, &format!("{}: no answer in time", server.name)),
        }
        sleep(INTERVAL).await;
    }
}

async fn ask(server: &Server) -> Result<Observed, Trouble> {
    let client = server.probe.get().await?;
    let statement = client.prepare_cached(QUESTION).await?;
    let row = client.query_one(&statement, &[]).await?;
    let position: PgLsn = row.get(1);
    let role = match row.get(0) {
        true => Role::Replica,
        false => Role::Primary { timeline: u32::try_from(row.get::<_, i64>(3)).unwrap_or(0) },
    };
    // Some names may have no hyphens (`synchronous_standby_names`).
    let zone = row.get::<_, &str>(2).replace('_', "-");
    Ok(Observed { up: true, role, position: position.into(), zone, reason: None })
}
