//! The server of a benchmark: a `sheaf dev` of this executable, in an empty directory that goes with it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::Method;
use hyper::body::Bytes;
use sheaf_config::Roles;
use sheaf_pg::Pool;
use sheaf_store::catalogue::{Catalogue, Catalogues};
use sheaf_store::{TenantScope, tenants};
use tokio::process::{Child, Command};

use super::connection::Connection;
use crate::{commands, private_file};

/// How long the server may take to be ready: it makes a database first.
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct World {
    dir: PathBuf,
    server: Child,
    authority: String,
    key: String,
    pub(super) pools: Roles<Pool>,
    pub(super) scope: TenantScope,
}

impl World {
    pub(super) async fn start() -> Result<World> {
        let dir = std::env::temp_dir().join(format!("sheaf-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let authority = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(dir.join("server.log"))?;
        let server = Command::new(std::env::current_exe().context("finding this executable")?)
            .args(["dev", "--listen", &authority, "--data-dir"])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the server of the benchmark")?;
        let key_file = dir.join("demo.key");
        let begun = Instant::now();
        let key = loop {
            if let Ok(key) = private_file::read(&key_file)
                && let Ok(mut connection) = Connection::open(&authority, &key).await
                && connection
                    .call(Method::GET, "/readyz", "text/plain", Bytes::new())
                    .await
                    .is_ok()
            {
                break key;
            }
            if begun.elapsed() > READY_WITHIN {
                bail!(
                    "the server of the benchmark is not ready; see {}",
                    dir.join("server.log").display()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let pools = commands::private_pools(&dir)?;
        let tenant = tenants::fetch_tenant(&pools.app, "demo")
            .await?
            .context("the first tenant is there")?;
        let scope = TenantScope::system(tenant.tenant, "a benchmark writes its baseline");
        Ok(World {
            dir,
            server,
            authority,
            key,
            pools,
            scope,
        })
    }

    /// A connection of its own for one client.
    pub(super) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.authority, &self.key).await
    }

    /// The catalogue as it is now.
    pub(super) async fn catalogue(&self) -> Result<std::sync::Arc<Catalogue>> {
        Ok(Catalogues::new(self.pools.app.clone())
            .refresh(&self.scope)
            .await?)
    }

    /// Ends the server and removes its data.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = self
            .server
            .id()
            .context("the server of the benchmark has ended by itself")?;
        Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await?;
        tokio::time::timeout(STOP_WITHIN, self.server.wait())
            .await
            .context("the server does not stop")??;
        std::fs::remove_dir_all(&self.dir)
            .with_context(|| format!("removing {}", self.dir.display()))
    }
}
