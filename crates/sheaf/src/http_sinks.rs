//! From settings to the sinks that are a URL.

use std::sync::Arc;

use anyhow::{Context, Result};
use sheaf_cdc::http::{Headers, HttpOptions, HttpSink, SystemResolver, Target, Trust};
use sheaf_cdc::sink::Sink;
use sheaf_config::ChangesHttp;

use crate::private_file;

/// The name of such a sink: apart from those that are something else.
pub(crate) fn name(of_settings: &str) -> String {
    format!("http.{of_settings}")
}

/// The sink of these settings. Reads the files that they name.
pub(crate) fn sink(of_settings: &str, settings: &ChangesHttp) -> Result<Box<dyn Sink>> {
    let options =
        options(settings).with_context(|| format!("reading changes.http.{of_settings}"))?;
    Ok(Box::new(HttpSink::new(name(of_settings), options)))
}

fn options(settings: &ChangesHttp) -> Result<HttpOptions> {
    let headers = match &settings.headers {
        Some(secret) => Headers::parse(&private_file::reveal(secret)?),
        None => Ok(Headers::default()),
    };
    let trust = match &settings.ca_file {
        Some(path) => {
            let read = std::fs::read(path);
            let read = read.with_context(|| format!("reading {}", path.display()))?;
            Trust::only(&read).with_context(|| path.display().to_string())?
        }
        None => Trust::public(),
    };
    Ok(HttpOptions {
        target: Target::parse(&settings.url).context("url")?,
        headers: headers.context("headers")?,
        allowed: settings.allow.clone(),
        trust,
        deadline: settings.deadline,
        resolver: Arc::new(SystemResolver),
    })
}
