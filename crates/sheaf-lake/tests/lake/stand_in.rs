//! A program in Python that stands in for a service, with its port on the first line that it prints.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheaf_testkit::HttpClient;

use crate::readers::PYTHON;

/// Ends with its input, which ends with us.
pub(crate) struct Program {
    script: &'static str,
    process: Child,
    pub(crate) endpoint: String,
}

impl Program {
    /// Asks it to serve, with what it keeps in a directory where it needs one.
    pub(crate) fn serve(script: &'static str, dir: Option<&Path>) -> Result<Program> {
        let mut process = Command::new(PYTHON)
            .args([script, "serve"])
            .args(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{PYTHON}: scripts/bootstrap.sh --test installs it"))?;
        let output = process.stdout.take().context("its output")?;
        let mut port = String::new();
        BufReader::new(output).read_line(&mut port)?;
        let endpoint = format!("http://127.0.0.1:{}", port.trim());
        Ok(Program {
            script,
            process,
            endpoint,
        })
    }

    /// Orders what is done with the next requests; what was ordered before is forgotten.
    pub(crate) async fn order(&self, faults: &Value) -> Result<()> {
        let client = HttpClient::new(&self.endpoint)?;
        let body = faults.to_string();
        let taken = client.post("/-/faults", "application/json", body.as_bytes());
        ensure!(taken.await?.status == 200, "{faults}");
        Ok(())
    }

    /// How often each fault was done.
    pub(crate) async fn injected(&self) -> Result<BTreeMap<String, u64>> {
        let answer = HttpClient::new(&self.endpoint)?.get("/-/faults").await?;
        Ok(serde_json::from_value(answer.json()?)?)
    }

    /// What another reader finds in it.
    pub(crate) fn read(&self, what: &str) -> Result<Value> {
        let output = Command::new(PYTHON)
            .args([self.script, "read", &self.endpoint, what])
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{errors}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
