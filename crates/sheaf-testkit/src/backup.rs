//! A test's PostgreSQL as it was at a moment: a copy of its files, and of its log what there was until then.

use std::time::Duration;

use anyhow::Result;
use sheaf_pg::cluster::{Cluster, ClusterOptions, SUPERUSER};
use tokio_postgres::Client;

use crate::standby::copy;
use crate::{ScratchDir, TestCluster, connect, wait_until};

const WITHIN: Duration = Duration::from_secs(60);

/// A copy of a primary's files as an operator takes one from time to time.
#[derive(Debug)]
pub struct TestBackup {
    options: ClusterOptions,
    dir: ScratchDir,
}

/// A primary of its own, on a timeline of its own. It ends with the test process.
#[derive(Debug)]
pub struct TestRestored {
    cluster: Cluster,
    _dir: ScratchDir,
}

impl TestBackup {
    /// Takes one.
    pub async fn take(primary: &TestCluster) -> Result<TestBackup> {
        let (dir, options) = copy(primary, "backup").await?;
        Ok(TestBackup { options, dir })
    }

    /// What the primary was at this position, by the log that it has left. It has to be stopped.
    pub async fn restore(mut self, primary: &TestCluster, until: &str) -> Result<TestRestored> {
        let log = primary.cluster().data_dir().join("pgdata/pg_wal");
        std::fs::write(self.options.data_dir.join("pgdata/recovery.signal"), "")?;
        for (name, value) in [
            (
                "restore_command",
                format!("cp \"{}/%f\" \"%p\"", log.display()),
            ),
            ("recovery_target_lsn", until.to_owned()),
            ("recovery_target_action", "promote".to_owned()),
        ] {
            self.options.settings.push((name.to_owned(), value));
        }
        let restored = TestRestored {
            cluster: Cluster::start(self.options).await?,
            _dir: self.dir,
        };
        let client = restored.superuser("postgres").await?;
        wait_until("it takes writes", WITHIN, async || {
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
            row.is_ok_and(|row| !row.get::<_, bool>(0))
        })
        .await;
        Ok(restored)
    }
}

impl TestRestored {
    /// The cluster itself.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A superuser's connection to one of its databases.
    pub async fn superuser(&self, dbname: &str) -> Result<Client> {
        connect(&self.cluster.connect_config(dbname, SUPERUSER)).await
    }
}
