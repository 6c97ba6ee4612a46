//! A database for one test.

use std::sync::Arc;

use anyhow::{Context, Result};
use sheaf_pg::cluster::SUPERUSER;
use tokio_postgres::{Client, Config};

use crate::cluster::TEMPLATE;
use crate::{TestCluster, connect};

/// A database of the test's own, dropped with this value. Roles belong to the cluster and are shared.
#[derive(Debug)]
pub struct TestDatabase {
    cluster: Arc<TestCluster>,
    name: String,
}

impl TestDatabase {
    /// A migrated one on the shared cluster.
    pub async fn create() -> Result<Self> {
        Self::create_in(&TestCluster::shared().await?).await
    }

    /// A migrated one on this cluster.
    pub async fn create_in(cluster: &Arc<TestCluster>) -> Result<Self> {
        cluster.ensure_template().await?;
        Self::clone_from(cluster, TEMPLATE).await
    }

    /// One without our schema, on the shared cluster, for tests of the migrations. Our roles may exist already.
    pub async fn create_empty() -> Result<Self> {
        Self::clone_from(&TestCluster::shared().await?, "template0").await
    }

    async fn clone_from(cluster: &Arc<TestCluster>, template: &str) -> Result<Self> {
        let name = cluster.next_database();
        let client = cluster.superuser("postgres").await?;
        client
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .with_context(|| format!("clone {template}"))?;
        Ok(TestDatabase {
            cluster: Arc::clone(cluster),
            name,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &Arc<TestCluster> {
        &self.cluster
    }

    /// How to connect as a role, for instance `sheaf_app`.
    pub fn config(&self, role: &str) -> Config {
        self.cluster.cluster().connect_config(&self.name, role)
    }

    /// A connection as a role.
    pub async fn client(&self, role: &str) -> Result<Client> {
        connect(&self.config(role))
            .await
            .with_context(|| format!("connect as {role}"))
    }

    /// How to connect as superuser.
    pub fn superuser_config(&self) -> Config {
        self.config(SUPERUSER)
    }

    /// A connection as superuser, to look at what no role may see.
    pub async fn superuser(&self) -> Result<Client> {
        self.client(SUPERUSER).await
    }
}

impl Drop for TestDatabase {
    /// Best effort, beside the test: the cluster ends with the process anyway, this only bounds its size.
    fn drop(&mut self) {
        if !self.cluster.cluster().is_running() {
            return;
        }
        let config = self.cluster.cluster().connect_config("postgres", SUPERUSER);
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let _ = runtime.block_on(async {
                    connect(&config).await?.batch_execute(&statement).await?;
                    anyhow::Ok(())
                });
            }
        });
    }
}
