//! `sheaf partition` and what `sheaf doctor` says of partitions, from outside.

use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;
use sheaf_testkit::{ScratchDir, TestDatabase};

const SHEAF: &str = env!("CARGO_BIN_EXE_sheaf");

struct Configured {
    dir: ScratchDir,
    database: TestDatabase,
}

impl Configured {
    async fn new(name: &str) -> Result<Configured> {
        let (dir, database) = (ScratchDir::new(name)?, TestDatabase::create().await?);
        let cluster = database.cluster().cluster();
        let socket = cluster.socket_dir().display().to_string();
        let text = format!(
            "[database]\nurl = \"postgresql://{}:{}/{}\"\n",
            socket.replace('/', "%2F"),
            cluster.port(),
            database.name(),
        );
        std::fs::write(dir.path().join("sheaf.toml"), text)?;
        Ok(Configured { dir, database })
    }

    fn sheaf(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(SHEAF)
            .args(arguments)
            .arg("--config")
            .arg(self.dir.path().join("sheaf.toml"))
            .output()?)
    }

    /// The result of a command that succeeds.
    fn done(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.sheaf(arguments)?;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).context("it prints JSON")
    }

    /// What `sheaf doctor` says of one thing.
    fn doctor(&self, name: &str) -> Result<(String, String)> {
        let output = self.sheaf(&["doctor", "--json"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let checks = answer["checks"].as_array().context("checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.with_context(|| format!("a check of {name}"))?;
        let said = |member: &str| check[member].as_str().unwrap_or_default().to_owned();
        Ok((said("status"), said("detail")))
    }
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn one_partition_is_listed_kept_in_order_taken_out_and_put_back() -> Result<()> {
    let configured = Configured::new("partition").await?;
    let admin = configured.database.superuser().await?;
    admin
        .batch_execute(
            "SELECT sheaf.ensure_event_partition('2020-05-05Z'), sheaf.ensure_event_partition(now());
             INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
             SELECT 1, n, '2020-05-05Z', 0, 'p', gen_random_uuid(), now(), '{}' FROM generate_series(1, 1000) n",
        )
        .await?;
    let old = "entity_events_20200101_20210101";
    for command in ["vacuum", "reindex"] {
        configured.done(&["partition", command, old])?;
    }
    let listed = configured.done(&["partition", "list", "--json"])?;
    assert_eq!(listed["interval"], "month");
    let partitions = listed["partitions"].as_array().context("partitions")?;
    assert_eq!(partitions.len(), 2);
    let first = &partitions[0];
    assert_eq!(
        (&first["name"], &first["from"], &first["rows"]),
        (&old.into(), &"2020-01-01T00:00:00Z".into(), &1000.into())
    );
    assert!(first["index_bytes"].as_i64() > Some(0) && first["vacuumed_at"].is_string());
    let now = partitions[1]["name"].as_str().context("a name")?;

    for (name, flags, code, said) in [
        (now, &["--forget"][..], 2, "takes writes until"),
        (old, &[], 2, "about 1000 events"),
        ("entities", &["--forget"], 3, "no partition"),
    ] {
        let arguments = [&["partition", "detach", name], flags].concat();
        let output = configured.sheaf(&arguments)?;
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
    configured.done(&["partition", "detach", old, "--forget"])?;
    let listed = configured.done(&["partition", "list", "--json"])?;
    assert_eq!(listed["partitions"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["detached"][0]["name"], old);
    let (status, detail) = configured.doctor("documents_are_the_fold")?;
    assert_eq!(status, "ok");
    assert!(detail.contains("not compared"), "{detail}");
    let human = configured.sheaf(&["partition", "list"])?;
    assert!(text(&human).contains("detached"), "{}", text(&human));

    configured.done(&["partition", "attach", old])?;
    let listed = configured.done(&["partition", "list", "--json"])?;
    assert_eq!(listed["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["detached"], Value::Array(Vec::new()));
    let missing = configured.sheaf(&["partition", "attach", "entity_events_1"])?;
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing));
    Ok(())
}

#[tokio::test]
async fn doctor_tells_of_a_partition_that_is_needed_soon_and_of_a_broken_index() -> Result<()> {
    let configured = Configured::new("partition-doctor").await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "ok", "{detail}");
    let admin = configured.database.superuser().await?;
    admin
        .batch_execute("SELECT sheaf.ensure_event_partition('2020-05-05Z')")
        .await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "fail", "{detail}");
    assert!(detail.contains("there is none for"), "{detail}");
    admin
        .batch_execute(
            "SELECT sheaf.ensure_event_partition(now()), sheaf.ensure_event_partition(now() + interval '1 month')",
        )
        .await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "ok", "{detail}");
    assert!(detail.starts_with("3 attached"), "{detail}");
    admin
        .batch_execute(
            "UPDATE pg_index SET indisvalid = false
             WHERE indexrelid = (SELECT min(indexrelid) FROM pg_index
                 WHERE indrelid = 'sheaf.entity_events_20200101_20210101'::regclass AND NOT indisprimary)",
        )
        .await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "fail", "{detail}");
    assert!(detail.contains("sheaf partition reindex"), "{detail}");
    Ok(())
}

#[tokio::test]
async fn doctor_and_the_list_tell_when_the_number_of_partitions_decides_and_not_the_rate()
-> Result<()> {
    let configured = Configured::new("partition-bound").await?;
    let admin = configured.database.superuser().await?;
    admin
        .batch_execute(
            "INSERT INTO sheaf.partition_intervals (decision, interval_name, reason) VALUES (2, 'hour', 'the test says so');
             SELECT sheaf.ensure_event_partition(now() + n * interval '1 hour') FROM generate_series(0, 24) n",
        )
        .await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "ok", "{detail}");
    admin
        .batch_execute(
            "DO $$ BEGIN
                 FOR year IN 1000..1000 + (SELECT attached_max * 64 / 100 FROM sheaf.new_partition_interval()) LOOP
                     EXECUTE format('CREATE TABLE sheaf.year_%s PARTITION OF sheaf.entity_events
                         FOR VALUES FROM (%L) TO (%L)', year, year || '-01-01Z', year + 1 || '-01-01Z');
                     EXECUTE format('GRANT INSERT ON sheaf.year_%s TO sheaf_writer', year);
                 END LOOP;
             END $$",
        )
        .await?;
    let (status, detail) = configured.doctor("partitions")?;
    assert_eq!(status, "fail", "{detail}");
    assert!(
        detail.contains("hold a six_hours each where the rate asks for a hour"),
        "{detail}"
    );
    let listed = configured.done(&["partition", "list", "--json"])?;
    assert_eq!(
        (&listed["interval"], &listed["asked_by_rate"]),
        (&"six_hours".into(), &"hour".into())
    );
    Ok(())
}
