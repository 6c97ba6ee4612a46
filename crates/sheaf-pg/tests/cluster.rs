//! A private cluster keeps its data and its promises through restarts and kills.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sheaf_pg::cluster::{
    Binaries, Cluster, ClusterError, ClusterOptions, Durability, SUPERUSER, StopMode,
};
use tokio_postgres::{Client, Config, NoTls};

/// A data directory that goes away with the test, whatever still runs in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let unique = format!("sheaf-pg-{name}-{}", std::process::id());
        Scratch(std::env::temp_dir().join(unique))
    }

    fn options(&self) -> Result<ClusterOptions> {
        let path = std::env::var_os("PATH").context("PATH is set")?;
        let binaries = Binaries::find(None, &path)?;
        let mut options = ClusterOptions::new(binaries, self.0.join("data"), std::env::temp_dir());
        options.durability = Durability::Test;
        options.settings = vec![("shared_buffers".into(), "32MB".into())];
        Ok(options)
    }

    async fn start(&self) -> Result<Cluster> {
        Ok(Cluster::start(self.options()?).await?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for pid in processes_in(&self.0.join("data/pgdata")) {
            let _ = kill("KILL", pid);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::remove_dir_all(&self.0).is_err()
            && self.0.exists()
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }
}

fn kill(signal: &str, pid: u32) -> std::io::Result<bool> {
    Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .map(|status| status.success())
}

fn processes_in(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn superuser(cluster: &Cluster) -> Result<Client> {
    connect(&cluster.connect_config("postgres", SUPERUSER)).await
}

async fn setting(client: &Client, name: &str) -> Result<String> {
    let row = client
        .query_one("SELECT current_setting($1)", &[&name])
        .await?;
    Ok(row.get(0))
}

async fn write_row(cluster: &Cluster) -> Result<()> {
    let client = superuser(cluster).await?;
    client
        .batch_execute("CREATE TABLE kept (n int8); INSERT INTO kept VALUES (42)")
        .await?;
    Ok(())
}

async fn read_row(cluster: &Cluster) -> Result<i64> {
    let client = superuser(cluster).await?;
    Ok(client.query_one("SELECT n FROM kept", &[]).await?.get(0))
}

/// Starts a postmaster that nobody's child handle knows, as a killed predecessor leaves it: the cluster is made and
/// stopped, then its server started by hand, as its owner.
async fn leave_postmaster(scratch: &Scratch) -> Result<u32> {
    let cluster = scratch.start().await?;
    write_row(&cluster).await?;
    cluster.stop(StopMode::Fast).await?;
    let pgdata = cluster.data_dir().join("pgdata");
    let owner = pgdata.metadata()?;
    let pg_ctl = scratch.options()?.binaries.program("pg_ctl");
    let mut command = Command::new(pg_ctl);
    command
        .args(["start", "-w", "-D"])
        .arg(&pgdata)
        .args(["-l", "/dev/null", "-o"])
        .arg(format!(
            "-p {} -k {}",
            cluster.port(),
            cluster.socket_dir().display()
        ))
        .current_dir("/")
        .stdout(Stdio::null());
    std::os::unix::process::CommandExt::uid(&mut command, owner.uid());
    std::os::unix::process::CommandExt::gid(&mut command, owner.gid());
    ensure!(command.status()?.success(), "pg_ctl starts the server");
    let pid_file = std::fs::read_to_string(pgdata.join("postmaster.pid"))?;
    Ok(pid_file.lines().next().context("pid")?.parse()?)
}

#[tokio::test]
async fn data_survives_a_restart_and_the_port_stays() -> Result<()> {
    let scratch = Scratch::new("restart");
    let cluster = scratch.start().await?;
    write_row(&cluster).await?;
    let (port, pid) = (cluster.port(), cluster.postmaster_pid());
    cluster.restart().await?;
    assert_eq!(read_row(&cluster).await?, 42);
    assert_eq!(cluster.port(), port);
    assert_ne!(cluster.postmaster_pid(), pid);
    cluster.stop(StopMode::Fast).await?;
    assert!(!cluster.is_running());
    drop(cluster);
    let again = scratch.start().await?;
    assert_eq!(read_row(&again).await?, 42);
    Ok(())
}

#[tokio::test]
async fn a_killed_postmaster_is_recovered_though_a_backend_lives_on() -> Result<()> {
    let scratch = Scratch::new("kill9");
    let cluster = scratch.start().await?;
    write_row(&cluster).await?;
    // A loop in C that never waits does not notice that its postmaster died.
    let busy = superuser(&cluster).await?;
    let query = tokio::spawn(async move {
        busy.batch_execute("SELECT count(*) FROM generate_series(1, 100000000000)")
            .await
    });
    let watcher = superuser(&cluster).await?;
    let is_busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series%' \
                   AND pid <> pg_backend_pid()";
    while watcher.query_one(is_busy, &[]).await?.get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    cluster.kill9().await?;
    assert!(!cluster.is_running());
    cluster.restart().await?;
    assert!(
        query.await?.is_err(),
        "the backend is gone with its postmaster"
    );
    assert_eq!(read_row(&cluster).await?, 42);
    cluster.stop(StopMode::Immediate).await?;
    drop(cluster);
    assert_eq!(read_row(&scratch.start().await?).await?, 42);
    Ok(())
}

#[tokio::test]
async fn a_crash_after_a_truncation_that_was_rolled_back_is_recovered_at_the_second_attempt()
-> Result<()> {
    let scratch = Scratch::new("truncated");
    let cluster = scratch.start().await?;
    let client = superuser(&cluster).await?;
    client
        .batch_execute(
            "CREATE UNLOGGED TABLE staged (n bigint); CREATE TABLE kept (n bigint); CHECKPOINT",
        )
        .await?;
    client.batch_execute("BEGIN; TRUNCATE staged").await?;
    // Its commit brings the log of the truncation to disk; that it was rolled back never comes there.
    let other = superuser(&cluster).await?;
    other.batch_execute("INSERT INTO kept VALUES (1)").await?;
    client.batch_execute("ROLLBACK").await?;
    cluster.stop(StopMode::Immediate).await?;
    drop(cluster);
    let cluster = scratch.start().await?;
    let log = std::fs::read_to_string(scratch.0.join("data/postgres.log"))?;
    ensure!(
        log.contains("File exists"),
        "the first attempt has met the file that was left"
    );
    let client = superuser(&cluster).await?;
    let row = client.query_one("SELECT count(*) FROM kept", &[]).await?;
    ensure!(row.get::<_, i64>(0) == 1, "what was committed is there");
    Ok(())
}

#[tokio::test]
async fn a_second_start_on_the_same_directory_is_refused() -> Result<()> {
    let scratch = Scratch::new("second");
    let cluster = scratch.start().await?;
    let error = Cluster::start(scratch.options()?)
        .await
        .expect_err("the directory is taken");
    assert!(matches!(error, ClusterError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    superuser(&cluster).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_left_running_is_stopped_and_its_data_kept() -> Result<()> {
    let scratch = Scratch::new("leftover");
    let left = leave_postmaster(&scratch).await?;
    let cluster = scratch.start().await?;
    assert!(!processes_in(&cluster.data_dir().join("pgdata")).contains(&left));
    assert_eq!(read_row(&cluster).await?, 42);
    Ok(())
}

#[tokio::test]
async fn a_pid_file_with_the_number_of_a_stranger_does_not_stop_the_start() -> Result<()> {
    let scratch = Scratch::new("stranger");
    let cluster = scratch.start().await?;
    write_row(&cluster).await?;
    cluster.kill9().await?;
    let pgdata = cluster.data_dir().join("pgdata");
    let owner = pgdata.metadata()?.uid();
    drop(cluster);
    // A living process of the server's own user: PostgreSQL alone would take it for a postmaster.
    let mut command = Command::new("sleep");
    std::os::unix::process::CommandExt::uid(command.arg("600").current_dir("/"), owner);
    let mut stranger = command.spawn()?;
    let file = pgdata.join("postmaster.pid");
    let text = std::fs::read_to_string(&file)?;
    let (_, rest) = text.split_once('\n').context("pid file has lines")?;
    std::fs::write(&file, format!("{}\n{rest}", stranger.id()))?;
    let outcome = scratch.start().await;
    let unharmed = stranger.try_wait()?.is_none();
    stranger.kill()?;
    stranger.wait()?;
    assert!(unharmed, "the stranger lives");
    assert_eq!(read_row(&outcome?).await?, 42);
    Ok(())
}

#[tokio::test]
async fn a_making_that_was_cut_short_is_thrown_away() -> Result<()> {
    let scratch = Scratch::new("halfmade");
    let new = scratch.0.join("data/pgdata.new/base");
    std::fs::create_dir_all(&new)?;
    std::fs::write(new.join("rest"), "of an initdb that was killed")?;
    let cluster = scratch.start().await?;
    superuser(&cluster).await?;
    assert!(!cluster.data_dir().join("pgdata.new").exists());
    Ok(())
}

#[tokio::test]
async fn what_is_no_cluster_is_left_alone() -> Result<()> {
    let scratch = Scratch::new("foreign");
    let file = scratch.0.join("data/pgdata/precious");
    std::fs::create_dir_all(file.parent().context("parent")?)?;
    std::fs::write(&file, "x")?;
    let error = scratch.start().await.expect_err("not a cluster");
    assert!(
        error.to_string().contains("no PostgreSQL data directory"),
        "{error}"
    );
    assert!(file.exists());
    Ok(())
}

#[tokio::test]
async fn a_bad_setting_stops_the_start_with_the_servers_own_words() -> Result<()> {
    let scratch = Scratch::new("badsetting");
    let mut options = scratch.options()?;
    options
        .settings
        .push(("shared_buffers".into(), "many".into()));
    let error = Cluster::start(options).await.expect_err("no such size");
    assert!(matches!(error, ClusterError::Start { .. }), "{error}");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
    Ok(())
}

#[tokio::test]
async fn defaults_hold_and_full_durability_syncs() -> Result<()> {
    let scratch = Scratch::new("defaults");
    let mut options = scratch.options()?;
    options.durability = Durability::Full;
    options.settings.clear();
    let cluster = Cluster::start(options).await?;
    let client = superuser(&cluster).await?;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("shared_buffers", "512MB"),
        ("wal_level", "logical"),
        ("wal_compression", "lz4"),
        ("default_toast_compression", "lz4"),
        ("TimeZone", "UTC"),
        ("lc_collate", "C"),
        ("server_encoding", "UTF8"),
        ("listen_addresses", "127.0.0.1"),
    ] {
        assert_eq!(setting(&client, name).await?, value, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_network_needs_the_password_and_the_socket_directory_is_private() -> Result<()> {
    let scratch = Scratch::new("password");
    let cluster = scratch.start().await?;
    let mut network = Config::new();
    network
        .host("127.0.0.1")
        .port(cluster.port())
        .user(SUPERUSER)
        .dbname("postgres");
    assert!(connect(&network).await.is_err(), "no password, no entry");
    network.password("guess");
    assert!(
        connect(&network).await.is_err(),
        "a wrong password, no entry"
    );
    let file = cluster.password_file();
    network.password(std::fs::read_to_string(&file)?.trim());
    connect(&network).await?;
    assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
    let socket_dir = cluster.socket_dir().metadata()?;
    assert_eq!(socket_dir.permissions().mode() & 0o777, 0o700);
    let log = std::fs::read_to_string(cluster.log_file())?;
    assert!(!log.contains(std::fs::read_to_string(&file)?.trim()));
    Ok(())
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_moves_only_the_socket() -> Result<()> {
    let scratch = Scratch::new("long");
    let mut options = scratch.options()?;
    options.data_dir = scratch.0.join("x".repeat(100)).join("data");
    let cluster = Cluster::start(options).await?;
    superuser(&cluster).await?;
    let socket_dir = cluster.socket_dir().to_path_buf();
    assert!(
        socket_dir.starts_with(std::env::temp_dir()),
        "{}",
        socket_dir.display()
    );
    cluster.restart().await?;
    superuser(&cluster).await?;
    cluster.stop(StopMode::Fast).await?;
    assert!(!socket_dir.exists(), "it is removed at the end");
    Ok(())
}

#[tokio::test]
async fn the_exit_of_the_server_is_noticed_and_its_process_group_is_its_own() -> Result<()> {
    let scratch = Scratch::new("exit");
    let cluster = scratch.start().await?;
    let pid = cluster.postmaster_pid();
    // Field 5 of stat is the process group.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("stat")?;
    assert_eq!(fields.split(' ').nth(2), Some(pid.to_string().as_str()));
    ensure!(kill("INT", pid)?, "the postmaster takes a signal");
    let status = cluster.wait_exit().await.context("status is known")?;
    assert!(status.success(), "{status}");
    assert!(!cluster.is_running());
    Ok(())
}

#[tokio::test]
async fn root_is_told_which_directory_the_servers_user_may_not_enter() -> Result<()> {
    let scratch = Scratch::new("closed");
    let closed = scratch.0.join("closed");
    std::fs::create_dir_all(&closed)?;
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700))?;
    let mut options = scratch.options()?;
    options.data_dir = closed.join("data");
    let outcome = Cluster::start(options).await;
    if closed.metadata()?.uid() == 0 {
        let error = outcome
            .expect_err("closed to the unprivileged user")
            .to_string();
        let expected = format!("may not enter {}", closed.display());
        assert!(error.contains(&expected), "{error}");
    } else {
        // Our own directory is open to us, and we run the server ourselves.
        superuser(&outcome?).await?;
    }
    Ok(())
}
