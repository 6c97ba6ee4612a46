//! The settings of a command: the file that it names, under the environment.

use std::path::Path;

use anyhow::{Context, Result};
use sheaf_config::{Settings, Shown};

use crate::cli::{ConfigArgs, TargetArgs};
use crate::commands::private;
use crate::connect::Access;
use crate::exit::Stop;

/// Reads them.
pub(super) fn load(args: &ConfigArgs) -> Result<(Settings, Vec<Shown>)> {
    let text = args.config.as_deref().map(read).transpose()?;
    let name = args.config.as_ref().map(|path| path.display().to_string());
    let file = name.as_deref().zip(text.as_deref());
    Ok(Settings::load(file, variables()?)?)
}

/// The way to the database that a command is told of.
pub(super) fn access(target: &TargetArgs) -> Result<Access> {
    match &target.data_dir {
        Some(data_dir) => private::access(data_dir),
        None => Access::from_settings(&load(&target.config)?.0),
    }
}

/// The same with the settings of whoever serves there.
pub(super) fn target(target: &TargetArgs) -> Result<(Access, Settings)> {
    match &target.data_dir {
        Some(data_dir) => {
            let mut settings = private::settings();
            settings.lake = Some(private::lake(data_dir));
            Ok((private::access(data_dir)?, settings))
        }
        None => {
            let settings = load(&target.config)?.0;
            Ok((Access::from_settings(&settings)?, settings))
        }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| Stop::Usage(format!("reading the configuration {}", path.display())))
}

/// The environment's variables as text. One of ours that is no text is an error; others are not looked at.
fn variables() -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("SHEAF_")) else {
            continue;
        };
        match value.into_string() {
            Ok(value) => variables.push((name.to_owned(), value)),
            Err(_) => {
                let text = format!("environment variable {name}: not UTF-8");
                return Err(Stop::Usage(text).into());
            }
        }
    }
    Ok(variables)
}
