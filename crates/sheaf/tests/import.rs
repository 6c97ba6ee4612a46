//! `sheaf import` against a real server: killed anywhere and started again, the totals equal an undisturbed run.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheaf_testkit::{
    HttpClient, Injected, ScratchDir, ServerCommand, ServerProcess, free_port, wait_until,
};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");
const WITHIN: Duration = Duration::from_secs(60);

struct Server {
    dir: ScratchDir,
    url: String,
    process: ServerProcess,
}

impl Server {
    async fn start(name: &str) -> Result<Server> {
        let dir = ScratchDir::new(name)?;
        let (data, listen) = (
            dir.path().join("data"),
            format!("127.0.0.1:{}", free_port()?),
        );
        let url = format!("http://{listen}");
        let mut process = ServerCommand::new(SHEAF, dir.path().join("log"))
            .args(["dev", "--listen", &listen, "--data-dir"])
            .args([&data])
            .data_dir(&data.join("postgres"))
            .spawn()?;
        process
            .wait_ready(&HttpClient::new(&url)?, "/readyz", WITHIN)
            .await?;
        Ok(Server { dir, url, process })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A tenant with its key in a file.
    fn tenant(&self, name: &str) -> Result<Tenant> {
        let output = Command::new(SHEAF)
            .args(["tenant", "create", name, "--data-dir"])
            .arg(self.path("data"))
            .output()?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("a tenant")?;
        let key = answer["key"]["key"].as_str().context("a key")?.to_owned();
        let key_file = self.path(&format!("{name}.key"));
        std::fs::write(&key_file, &key)?;
        Ok(Tenant {
            client: HttpClient::new(&self.url)?.with_key(&key),
            url: self.url.clone(),
            key_file,
            state_dir: self.path(&format!("{name}.state")),
            rejected: self.path(&format!("{name}.rejected")),
        })
    }
}

struct Tenant {
    client: HttpClient,
    url: String,
    key_file: PathBuf,
    state_dir: PathBuf,
    rejected: PathBuf,
}

impl Tenant {
    fn import(&self, file: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(SHEAF);
        command
            .arg("import")
            .arg(file)
            .args(more)
            .args(["--url", &self.url]);
        command.arg("--key-file").arg(&self.key_file);
        command.arg("--state-dir").arg(&self.state_dir);
        command.arg("--rejected").arg(&self.rejected);
        command.stdin(Stdio::null());
        command
    }

    fn totals(&self, file: &Path, more: &[&str]) -> Result<Value> {
        let output = self.import(file, more).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "the import failed: {said}");
        serde_json::from_slice(&output.stdout).context("the totals")
    }

    async fn attributes(&self, id: &str) -> Result<Value> {
        let answer = self.client.get(&format!("/v1/entities/thing/{id}")).await?;
        ensure!(answer.status == 200, "{id}: {}", answer.text());
        Ok(answer.json()?["attributes"].take())
    }

    async fn entity_count(&self) -> Result<Value> {
        let answer = self
            .client
            .get("/v1/entities?type=thing&count=exact&limit=1")
            .await?;
        Ok(answer.json()?["count"]["value"].take())
    }

    fn rejected_lines(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.rejected)?;
        Ok(text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    }
}

const COLUMNS: [&str; 8] = [
    "--type", "thing", "--id", "id", "--time", "at", "--null", "NA",
];

/// 3,000 rows of 100 things; some without an id, some too short, a hundred refused ones in one batch.
fn write_table(path: &Path) -> Result<()> {
    let mut text = "id,at,n,mixed,note\n".to_owned();
    for row in 0..3000 {
        if row % 301 == 300 {
            text.push_str("too,short\n");
            continue;
        }
        let id = if row % 37 == 36 || (1000..1150).contains(&row) {
            String::new()
        } else {
            format!("t{}", row % 100)
        };
        let mixed = if row == 17 {
            "x".to_owned()
        } else {
            row.to_string()
        };
        writeln!(
            text,
            "{id},2013-01-01T00:{:02}:{:02}Z,{row},{mixed},\"a \"\"b\"\",\n{row}\"",
            row / 60,
            row % 60
        )?;
    }
    Ok(std::fs::write(path, text)?)
}

#[tokio::test]
async fn an_import_that_is_killed_at_any_batch_equals_an_undisturbed_one() -> Result<()> {
    let mut server = Server::start("import-kill").await?;
    let table = server.path("table.csv");
    write_table(&table)?;
    let arguments = [&COLUMNS[..], &["--batch", "50"]].concat();
    let calm = server.tenant("calm")?;
    let expected = calm.totals(&table, &arguments)?;
    assert_eq!(expected["events"], 3000);
    assert_eq!(expected["duplicates"], 0);
    let refused = (0..3000)
        .filter(|row| row % 301 == 300 || row % 37 == 36 || (1000..1150).contains(row))
        .count();
    assert_eq!(expected["refused"], refused);
    assert_eq!(expected["accepted"], 3000 - refused);

    let killed = Injected::new("import killed");
    let disturbed = server.tenant("disturbed")?;
    // Each run is let go a random number of batches further and then killed.
    let mut seed = 0x5eed_u64;
    let totals = loop {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let batches = (seed >> 33) % 7;
        let before = batches_done(&disturbed.state_dir)?;
        let mut import = disturbed
            .import(&table, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        wait_until("the import ends or goes on", WITHIN, async || {
            let ended = import.try_wait().is_ok_and(|status| status.is_some());
            ended || batches_done(&disturbed.state_dir).is_ok_and(|now| now >= before + batches)
        })
        .await;
        import.kill()?;
        let output = import.wait_with_output()?;
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout)?;
        }
        killed.count();
    };
    killed.require();
    assert_eq!(totals, expected);
    assert_eq!(
        disturbed.rejected_lines()?,
        calm.rejected_lines()?,
        "each refusal is listed once"
    );
    assert_eq!(disturbed.entity_count().await?, calm.entity_count().await?);
    for thing in ["t0", "t17", "t99"] {
        assert_eq!(
            disturbed.attributes(thing).await?,
            calm.attributes(thing).await?,
            "{thing}"
        );
    }
    // Again from the beginning, with the same batches and with others: nothing is stored twice, and nothing is said to
    // be new.
    for rows in ["50", "70"] {
        let again = disturbed.totals(&table, &[&COLUMNS[..], &["--batch", rows]].concat())?;
        assert_eq!(
            (&again["accepted"], &again["duplicates"]),
            (&Value::from(0), &expected["accepted"]),
            "{rows} rows a batch"
        );
    }
    assert!(server.process.sigterm(WITHIN).await?.success());
    Ok(())
}

/// What the progress file says; none before the first and after the last run.
fn batches_done(state_dir: &Path) -> Result<u64> {
    let Ok(entries) = std::fs::read_dir(state_dir) else {
        return Ok(0);
    };
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let progress: Value = serde_json::from_slice(&std::fs::read(path)?)?;
            return progress["batches"].as_u64().context("a number of batches");
        }
    }
    Ok(0)
}

#[tokio::test]
async fn an_import_outlives_postgresql_and_loses_and_doubles_nothing() -> Result<()> {
    let mut server = Server::start("import-crash").await?;
    let table = server.path("table.csv");
    write_table(&table)?;
    let arguments = [&COLUMNS[..], &["--batch", "50"]].concat();
    let expected = server.tenant("calm")?.totals(&table, &arguments)?;
    let crashed = Injected::new("postgresql killed under an import");
    let disturbed = server.tenant("disturbed")?;
    let mut import = disturbed
        .import(&table, &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    for batches in [5, 25] {
        wait_until("the import goes on", WITHIN, async || {
            batches_done(&disturbed.state_dir).is_ok_and(|done| done >= batches)
        })
        .await;
        let pid_file = std::fs::read_to_string(server.path("data/postgres/pgdata/postmaster.pid"))?;
        let pid = pid_file.lines().next().context("a pid")?;
        ensure!(
            Command::new("/bin/sh")
                .args(["-c", &format!("kill -s KILL {pid}")])
                .status()?
                .success()
        );
        crashed.count();
    }
    wait_until("the import ends", Duration::from_secs(120), async || {
        import.try_wait().is_ok_and(|status| status.is_some())
    })
    .await;
    let output = import.wait_with_output()?;
    assert!(output.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?, expected);
    crashed.require();
    assert!(server.process.sigterm(WITHIN).await?.success());
    Ok(())
}

#[tokio::test]
async fn cells_come_back_as_they_were_written() -> Result<()> {
    let mut server = Server::start("import-types").await?;
    let tenant = server.tenant("typed")?;
    for (name, kind) in [
        ("i", "int"),
        ("d", "decimal"),
        ("at2", "time"),
        ("j", "json"),
        ("b", "bool"),
        ("t", "text"),
    ] {
        let body = format!("{{\"name\":\"{name}\",\"type\":\"{kind}\"}}");
        let answer = tenant
            .client
            .post("/v1/attributes", "application/json", body.as_bytes())
            .await?;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let table = server.path("typed.csv");
    std::fs::write(
        &table,
        "id,i,d,at2,j,b,t,number,mixed,truth\n\
         a,9007199254740993,12.50,2013-01-01T00:00:00.123456Z,\"{\"\"k\"\":[1]}\",TRUE,007,1.5,1,true\n\
         b,NA,,NA,NA,False,\"\",-2,x,false\n\
         c,1.5,x,yesterday,{,maybe,ok,3,,\n",
    )?;
    let arguments = [
        "--type",
        "thing",
        "--id",
        "id",
        "--observed-at",
        "2013-01-01T00:00:00Z",
        "--null",
        "NA",
    ];
    let totals = tenant.totals(&table, &arguments)?;
    assert_eq!(
        (&totals["accepted"], &totals["refused"]),
        (&3.into(), &0.into())
    );
    assert_eq!(
        tenant.attributes("a").await?.to_string(),
        serde_json::json!({"i": 9007199254740993_i64, "d": "12.50", "at2": "2013-01-01T00:00:00.123456Z",
            "j": {"k": [1]}, "b": true, "t": "007", "number": 1.5, "mixed": "1", "truth": true})
        .to_string()
    );
    let b = tenant.attributes("b").await?;
    assert_eq!(
        b,
        serde_json::json!({"b": false, "number": -2.0, "mixed": "x", "truth": false})
    );
    let refused: Vec<(u64, String)> = tenant
        .rejected_lines()?
        .iter()
        .map(|line| {
            (
                line["line"].as_u64().unwrap_or(0),
                line["field"].as_str().unwrap_or("").to_owned(),
            )
        })
        .collect();
    let fields: Vec<(u64, String)> = ["j", "i", "d", "at2", "b"]
        .iter()
        .map(|field| (4, (*field).to_owned()))
        .collect();
    let sorted = |mut list: Vec<(u64, String)>| {
        list.sort();
        list
    };
    assert_eq!(sorted(refused), sorted(fields));
    assert_eq!(
        tenant.attributes("c").await?,
        serde_json::json!({"t": "ok", "number": 3.0})
    );
    assert!(server.process.sigterm(WITHIN).await?.success());
    Ok(())
}
