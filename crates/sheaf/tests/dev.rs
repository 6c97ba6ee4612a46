//! `sheaf dev` from outside: it starts with nothing there, keeps what it had, and survives being killed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_testkit::{
    HttpClient, Injected, ScratchDir, ServerCommand, ServerProcess, free_port, wait_until,
};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

struct Dev {
    dir: ScratchDir,
    port: u16,
}

impl Dev {
    fn new(name: &str) -> Result<Dev> {
        Ok(Dev {
            dir: ScratchDir::new(name)?,
            port: free_port()?,
        })
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn client(&self) -> Result<HttpClient> {
        HttpClient::new(&format!("http://127.0.0.1:{}", self.port))
    }

    fn command(&self) -> ServerCommand {
        let (data_dir, listen) = (self.data_dir(), format!("127.0.0.1:{}", self.port));
        ServerCommand::new(SHEAF, self.dir.path().join("log"))
            .args(["dev", "--listen", &listen, "--data-dir"])
            .args([&data_dir])
            .data_dir(&data_dir.join("postgres"))
    }

    async fn start(&self) -> Result<ServerProcess> {
        self.started(self.command()).await
    }

    async fn started(&self, command: ServerCommand) -> Result<ServerProcess> {
        let mut process = command.spawn()?;
        process
            .wait_ready(&self.client()?, "/readyz", START)
            .await?;
        Ok(process)
    }

    fn key(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.data_dir().join("demo.key"))?
            .trim()
            .to_owned())
    }

    fn postmaster(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.data_dir().join("postgres/pgdata/postmaster.pid"))?;
        Ok(text
            .lines()
            .next()
            .context("the first line is the pid")?
            .parse()?)
    }

    /// Writes one entity; its answer is the claim that it is stored.
    async fn write(&self, id: u32) -> Result<u16> {
        let client = self.client()?.with_key(&self.key()?);
        let body = format!("{{\"attributes\":{{\"n\":{id}}}}}");
        let path = format!("/v1/entities/thing/{id}");
        let headers = [("content-type", "application/json")];
        Ok(client
            .request("PATCH", &path, &headers, body.as_bytes())
            .await?
            .status)
    }

    async fn read(&self, id: u32) -> Result<u16> {
        let client = self.client()?.with_key(&self.key()?);
        Ok(client
            .get(&format!("/v1/entities/thing/{id}"))
            .await?
            .status)
    }
}

fn kill9(pid: i32) -> Result<()> {
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -s KILL {pid}")])
        .status()?;
    ensure!(killed.success(), "process {pid} can be killed");
    Ok(())
}

fn sheaf(arguments: &[&str], data_dir: &Path) -> Result<Output> {
    let mut command = Command::new(SHEAF);
    Ok(command
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .output()?)
}

#[tokio::test]
async fn it_starts_from_nothing_and_keeps_keys_and_data_over_a_restart() -> Result<()> {
    let dev = Dev::new("dev-restart")?;
    let mut process = dev.start().await?;
    let (key, output) = (dev.key()?, process.output());
    for name in ["demo.key", "admin.key"] {
        let path = dev.data_dir().join(name);
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name} is for its owner alone");
        let key = std::fs::read_to_string(&path)?;
        assert!(output.contains(key.trim()), "{name} is printed");
    }
    assert_eq!(dev.write(1).await?, 201);
    assert!(
        process.sigterm(STOP).await?.success(),
        "a clean stop exits with 0"
    );
    assert!(
        !dev.data_dir()
            .join("postgres/pgdata/postmaster.pid")
            .exists(),
        "postgresql is stopped with it"
    );

    let mut process = dev.start().await?;
    assert_eq!(dev.key()?, key, "the key stays");
    assert_eq!(dev.read(1).await?, 200);
    let second = Command::new(SHEAF)
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dev.data_dir())
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("in use by another sheaf"),
        "{said}"
    );
    assert!(process.sigterm(STOP).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_kill_of_the_server_or_of_postgresql_loses_nothing_that_was_answered() -> Result<()> {
    let dev = Dev::new("dev-kill")?;
    let (server_killed, postgres_killed) = (
        Injected::new("server killed"),
        Injected::new("postgresql killed"),
    );
    let mut written = 0;
    for _ in 0..2 {
        let mut process = dev.start().await?;
        written += 1;
        assert_eq!(dev.write(written).await?, 201);
        let postmaster = dev.postmaster()?;
        kill9(postmaster)?;
        postgres_killed.count();
        wait_until("another postgresql has been started", START, async || {
            dev.postmaster().is_ok_and(|pid| pid != postmaster)
        })
        .await;
        process.wait_ready(&dev.client()?, "/readyz", START).await?;
        written += 1;
        assert_eq!(dev.write(written).await?, 201);
        process.kill9().await?;
        server_killed.count();
    }
    let mut process = dev.start().await?;
    for id in 1..=written {
        assert_eq!(
            dev.read(id).await?,
            200,
            "entity {id} was answered and is there"
        );
    }
    assert!(process.sigterm(STOP).await?.success());
    server_killed.require();
    postgres_killed.require();
    Ok(())
}

fn environment(pid: impl Display) -> Result<BTreeMap<String, String>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    let variables = environment.split(|byte| *byte == 0);
    let pairs = variables.filter_map(|variable| str::from_utf8(variable).ok()?.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

#[tokio::test]
async fn the_server_tells_the_allocator_what_nobody_told_it_and_its_postgresql_nothing()
-> Result<()> {
    let names = [
        "MALLOC_ARENA_MAX",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
    ];
    let dev = Dev::new("dev-allocator")?;
    let command = dev.command().env("MALLOC_ARENA_MAX", "7");
    let command = command.env_remove("MALLOC_MMAP_THRESHOLD_");
    let command = command.env_remove("MALLOC_TRIM_THRESHOLD_");
    let mut process = dev.started(command).await?;
    let told = environment(process.pid())?;
    let told = names.map(|name| told.get(name).map(String::as_str));
    assert_eq!(told, [Some("7"), Some("1048576"), Some("16777216")]);
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid()))?;
    let listen = format!("127.0.0.1:{}", dev.port);
    let arguments: Vec<&str> = line.split('\0').take(4).collect();
    assert_eq!(arguments, [SHEAF, "dev", "--listen", &listen]);
    let of_postgres = environment(dev.postmaster()?)?;
    assert_eq!(of_postgres.get("LC_ALL").map(String::as_str), Some("C"));
    assert_eq!(names.map(|name| of_postgres.get(name)), [None; 3]);
    assert!(process.sigterm(STOP).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_missing_postgresql_is_told_in_one_message() -> Result<()> {
    let dir = ScratchDir::new("dev-none")?;
    let output = Command::new(SHEAF)
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--postgres",
            "/nonexistent",
            "--data-dir",
        ])
        .arg(dir.path().join("data"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("no PostgreSQL server found") && said.contains("apt-get install"),
        "{said}"
    );
    Ok(())
}

/// Waits until a server that remembers keys for a while refuses this one.
async fn opens_nothing(client: &HttpClient, path: &str) {
    wait_until(
        "the revoked key opens nothing",
        Duration::from_secs(60),
        async || {
            let answer = client.get(path).await;
            answer.is_ok_and(|answer| answer.status == 401)
        },
    )
    .await;
}

#[tokio::test]
async fn tenants_and_keys_are_made_and_ended_from_the_command_line() -> Result<()> {
    let dev = Dev::new("dev-keys")?;
    let absent = sheaf(&["doctor"], &dev.data_dir())?;
    assert_eq!(absent.status.code(), Some(3), "no sheaf dev runs there");
    let mut process = dev.start().await?;
    let run = |arguments: &[&str]| sheaf(arguments, &dev.data_dir());
    let json = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout);

    let created = json(&run(&["tenant", "create", "acme"])?)?;
    let key = created["key"]["key"].as_str().context("a key")?.to_owned();
    let client = dev.client()?.with_key(&key);
    assert_eq!(client.get("/v1/attributes").await?.status, 200);
    assert_eq!(run(&["tenant", "create", "acme"])?.status.code(), Some(4));

    let read_only = json(&run(&[
        "key", "create", "--tenant", "acme", "--scope", "read",
    ])?)?;
    assert_eq!(read_only["scopes"], serde_json::json!(["read"]));
    let id = read_only["id"].as_str().context("an id")?.to_owned();
    let reader = dev
        .client()?
        .with_key(read_only["key"].as_str().context("a key")?);
    assert_eq!(reader.get("/v1/attributes").await?.status, 200);
    assert!(run(&["key", "revoke", &id])?.status.success());
    opens_nothing(&reader, "/v1/attributes").await;

    let created = json(&run(&["key", "create", "--admin"])?)?;
    let id = created["id"].as_str().context("an id")?.to_owned();
    let admin = dev
        .client()?
        .with_key(created["key"].as_str().context("a key")?);
    assert_eq!(admin.get("/v1/tenants").await?.status, 200);
    assert!(run(&["key", "revoke", &id])?.status.success());
    opens_nothing(&admin, "/v1/tenants").await;

    for (arguments, code) in [
        (&["key", "create", "--tenant", "nobody"][..], 3),
        (&["key", "create", "--tenant", "acme", "--scope", "all"], 2),
        (&["key", "create"], 2),
        (&["key", "revoke", "k_0000000000000000"], 3),
        (&["key", "revoke", "nonsense"], 2),
        (&["tenant", "create", ""], 2),
    ] {
        let output = run(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
    let doctor = run(&["doctor", "--full"])?;
    assert!(
        doctor.status.success(),
        "{}",
        String::from_utf8_lossy(&doctor.stdout)
    );
    assert!(process.sigterm(STOP).await?.success());
    Ok(())
}
