//! What a measured piece of work cost: log, heap and index bytes of PostgreSQL, CPU of each side, the server's own steps.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::world::World;

/// Linux counts CPU in hundredths of a second for every program, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters at one moment, or between two.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    pub(super) wal_bytes: f64,
    pub(super) heap_bytes: f64,
    pub(super) index_bytes: f64,
    pub(super) server_cpu_seconds: f64,
    pub(super) postgres_cpu_seconds: f64,
    pub(super) client_cpu_seconds: f64,
    /// The servers' `sheaf_ingest_step_seconds`, by step.
    pub(super) steps: BTreeMap<String, Step>,
}

/// What was measured of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Step {
    pub(super) seconds: f64,
    pub(super) times: f64,
}

impl Step {
    /// Microseconds of the step each time; unknown where it did not happen.
    pub(super) fn mean_us(self) -> f64 {
        self.seconds * 1e6 / self.times
    }
}

impl Cost {
    /// The counters as they are now.
    pub(super) async fn now(world: &World) -> Result<Cost> {
        let row = world
            .client
            .query_one(
                "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, \
                    coalesce(sum(pg_table_size(c.oid)) FILTER (WHERE c.relkind = 'r'), 0)::float8, \
                    coalesce(sum(pg_relation_size(c.oid)) FILTER (WHERE c.relkind = 'i'), 0)::float8 \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('sheaf', 'bench')",
                &[],
            )
            .await
            .context("reading what postgresql has written")?;
        Ok(Cost {
            wal_bytes: row.get(0),
            heap_bytes: row.get(1),
            index_bytes: row.get(2),
            server_cpu_seconds: world.servers_cpu_seconds()?,
            postgres_cpu_seconds: family_cpu_seconds(world.postmaster()?)?,
            client_cpu_seconds: cpu_of(std::process::id())?.own,
            steps: steps(&world.metrics().await?),
        })
    }

    /// What has been added since.
    pub(super) fn since(&self, before: &Cost) -> Cost {
        let step = |(name, now): (&String, &Step)| {
            let earlier = before.steps.get(name).copied().unwrap_or_default();
            let added = Step {
                seconds: now.seconds - earlier.seconds,
                times: now.times - earlier.times,
            };
            (name.clone(), added)
        };
        Cost {
            wal_bytes: self.wal_bytes - before.wal_bytes,
            heap_bytes: self.heap_bytes - before.heap_bytes,
            index_bytes: self.index_bytes - before.index_bytes,
            server_cpu_seconds: self.server_cpu_seconds - before.server_cpu_seconds,
            postgres_cpu_seconds: self.postgres_cpu_seconds - before.postgres_cpu_seconds,
            client_cpu_seconds: self.client_cpu_seconds - before.client_cpu_seconds,
            steps: self.steps.iter().map(step).collect(),
        }
    }
}

/// The sums and counts of the step histogram in the texts of `/metrics`, over all servers.
fn steps(metrics: &[String]) -> BTreeMap<String, Step> {
    let mut steps: BTreeMap<String, Step> = BTreeMap::new();
    for line in metrics.iter().flat_map(|text| text.lines()) {
        let Some(rest) = line.strip_prefix("sheaf_ingest_step_seconds_") else {
            continue;
        };
        let step = rest
            .split_once("step=\"")
            .and_then(|(_, rest)| rest.split_once('"'));
        let number = rest
            .rsplit_once(' ')
            .and_then(|(_, number)| number.parse::<f64>().ok());
        let (Some((step, _)), Some(number)) = (step, number) else {
            continue;
        };
        if rest.starts_with("sum{") {
            steps.entry(step.to_owned()).or_default().seconds += number;
        } else if rest.starts_with("count{") {
            steps.entry(step.to_owned()).or_default().times += number;
        }
    }
    steps
}

/// CPU seconds of a process, and of those of its children that have ended.
struct Cpu {
    parent: u32,
    own: f64,
    ended_children: f64,
}

/// CPU seconds of one process.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(cpu_of(pid)?.own)
}

fn cpu_of(pid: u32) -> Result<Cpu> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_stat(&text).with_context(|| format!("{path} is not as expected"))
}

fn parse_stat(text: &str) -> Option<Cpu> {
    // The name is in parentheses and may hold any of them.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Cpu {
        parent: fields.get(1)?.parse().ok()?,
        own: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
        ended_children: (ticks(13)? + ticks(14)?) / TICKS_PER_SECOND,
    })
}

/// CPU seconds of the postmaster and of all its children, also those that have ended.
fn family_cpu_seconds(postmaster: u32) -> Result<f64> {
    let head = cpu_of(postmaster)?;
    let mut seconds = head.own + head.ended_children;
    for entry in std::fs::read_dir("/proc").context("listing the processes")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that has just ended is in its parent's count, a moment later.
        if let Ok(cpu) = cpu_of(pid)
            && cpu.parent == postmaster
        {
            seconds += cpu.own;
        }
    }
    Ok(seconds)
}

/// Memory of a process that is in RAM.
pub(super) fn resident_bytes(pid: u32) -> Result<f64> {
    memory_bytes(pid, "VmRSS:")
}

/// The most memory of a process that was in RAM at any time.
pub(super) fn resident_bytes_max(pid: u32) -> Result<f64> {
    memory_bytes(pid, "VmHWM:")
}

fn memory_bytes(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text =
        std::fs::read_to_string(Path::new(&path)).with_context(|| format!("reading {path}"))?;
    parse_memory(&text, name).with_context(|| format!("{path} is not as expected"))
}

fn parse_memory(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let cpu = parse_stat(
            "71 (post) gres) S 7 71 71 0 -1 4194560 1 2 3 4 150 50 300 100 20 0 1 0 5 6 7",
        )
        .expect("must work");
        assert_eq!((cpu.parent, cpu.own, cpu.ended_children), (7, 2.0, 4.0));
        assert!(parse_stat("71 (a) S 7").is_none());
        assert!(cpu_of(std::process::id()).is_ok());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    3 kB\nVmRSS:\t    2 kB\nThreads: 3\n";
        assert_eq!(parse_memory(status, "VmRSS:"), Some(2048.0));
        assert_eq!(parse_memory(status, "VmHWM:"), Some(3072.0));
        assert_eq!(parse_memory("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn the_steps_are_the_sums_and_counts_of_their_histogram() {
        let text = "# TYPE sheaf_ingest_step_seconds histogram\n\
            sheaf_ingest_step_seconds_bucket{step=\"copy\",le=\"0.1\"} 3\n\
            sheaf_ingest_step_seconds_sum{step=\"copy\"} 0.5\n\
            sheaf_ingest_step_seconds_count{step=\"copy\"} 3\n\
            sheaf_ingest_step_seconds_sum{step=\"commit\"} 1.25\n\
            sheaf_ingest_step_seconds_count{step=\"commit\"} 5\n";
        let other = "sheaf_ingest_step_seconds_sum{step=\"copy\"} 0.25\n";
        let step = |seconds, times| Step { seconds, times };
        let steps = steps(&[text.to_owned(), other.to_owned()]);
        let wanted = [
            ("commit".to_owned(), step(1.25, 5.0)),
            ("copy".to_owned(), step(0.75, 3.0)),
        ];
        assert_eq!(steps, BTreeMap::from(wanted));
        assert_eq!(steps["copy"].mean_us(), 250_000.0);
    }

    #[test]
    fn a_cost_is_what_was_added() {
        let at = |wal_bytes: f64, seconds: f64, times: f64| Cost {
            wal_bytes,
            steps: BTreeMap::from([("copy".to_owned(), Step { seconds, times })]),
            ..Cost::default()
        };
        let cost = at(30.0, 3.0, 9.0).since(&at(10.0, 1.0, 4.0));
        let added = Step {
            seconds: 2.0,
            times: 5.0,
        };
        assert_eq!((cost.wal_bytes, cost.steps["copy"]), (20.0, added));
    }
}
