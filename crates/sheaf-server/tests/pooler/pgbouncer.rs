//! A PgBouncer for one test, in transaction mode. Tests fail where it is not installed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use sheaf_pg::{Pool, Tls};
use sheaf_testkit::{ScratchDir, ServerCommand, ServerProcess, TestDatabase, free_port};

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// Fewer server connections than clients, so that each client's transactions wander between them.
const SERVER_CONNECTIONS: usize = 2;

/// A PgBouncer before one database; it ends with this value.
pub(crate) struct Pooler {
    database: String,
    port: u16,
    _process: ServerProcess,
    _dir: ScratchDir,
}

impl Pooler {
    pub(crate) async fn start(database: &TestDatabase) -> Result<Pooler> {
        ensure!(
            Path::new(PGBOUNCER).exists(),
            "no {PGBOUNCER}, which `scripts/bootstrap.sh --test` installs"
        );
        let dir = ScratchDir::new("pooler")?;
        let users = dir.path().join("users.txt");
        std::fs::write(&users, "\"sheaf_app\" \"\"\n\"sheaf_search\" \"\"\n")?;
        let port = free_port()?;
        let cluster = database.cluster().cluster();
        let name = database.name();
        let settings = format!(
            "[databases]\n{name} = host={} port={} dbname={name}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n",
            cluster.socket_dir().display(),
            cluster.port(),
            users.display(),
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, settings)?;
        // It refuses to be root, and only the cluster's own account may enter the directory of its socket.
        let account = cluster.socket_dir().metadata()?;
        let log = dir.path().join("pgbouncer.log");
        let command = if account.uid() == dir.path().metadata()?.uid() {
            ServerCommand::new(PGBOUNCER, log)
        } else {
            let (user, group) = (account.uid(), account.gid());
            ServerCommand::new("setpriv", log).args([
                format!("--reuid={user}"),
                format!("--regid={group}"),
                "--clear-groups".to_owned(),
                PGBOUNCER.to_owned(),
            ])
        };
        let mut process = command.args([&file]).spawn()?;
        let within = Duration::from_secs(20);
        process.wait_for_output("process up", within).await?;
        Ok(Pooler {
            database: name.to_owned(),
            port,
            _process: process,
            _dir: dir,
        })
    }

    pub(crate) fn pool(&self, role: &str, connections_max: usize) -> Result<Pool> {
        let (port, database) = (self.port, &self.database);
        let url = format!("host=127.0.0.1 port={port} user={role} dbname={database}");
        Ok(Pool::new(&url.parse()?, connections_max, &Tls::none()))
    }
}
