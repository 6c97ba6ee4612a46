//! What stops a start, what it says, and what it exits with.

use std::process::{Command, Output};

use anyhow::Result;
use sheaf_testkit::ScratchDir;

const SECRET: &str = "hunter2-do-not-print";

fn sheaf(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sheaf"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHEAF_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied());
    Ok(command.output()?)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[test]
fn a_configuration_that_cannot_be_used_stops_the_start_and_names_the_place() -> Result<()> {
    let dir = ScratchDir::new("config")?;
    let path = dir.path().join("sheaf.toml");
    let path = path.display().to_string();
    for (file, variable, wanted) in [
        (
            "[server]\nlistn = 1\n",
            None,
            ":2:1: server.listn: there is no such setting",
        ),
        (
            "[server]\nlisten = \"x\"\n",
            None,
            ":2:10: server.listen cannot be used",
        ),
        (
            "[database]\napp_connections = 0\n",
            None,
            ":2:19: database.app_connections",
        ),
        (
            "[databse]\n",
            None,
            ":1:2: databse: there is no such setting",
        ),
        ("not toml", None, ":1:"),
        (
            "",
            Some(("SHEAF_SERVER_LISTN", SECRET)),
            "environment variable SHEAF_SERVER_LISTN: there is no such setting",
        ),
        (
            "",
            Some(("SHEAF_LOG_LEVEL", SECRET)),
            "environment variable SHEAF_LOG_LEVEL: log.level cannot be used",
        ),
        (
            "",
            Some((
                "SHEAF_DATABASE_URL",
                "postgresql://u:hunter2-do-not-print@h/d",
            )),
            "SHEAF_DATABASE_URL: database.url cannot be used",
        ),
    ] {
        std::fs::write(&path, file)?;
        let variables: Vec<_> = variable.into_iter().collect();
        for command in [
            &["serve"][..],
            &["migrate", "status"],
            &["doctor"],
            &["tenant", "create", "x"],
        ] {
            let arguments = [command, &["--config", &path]].concat();
            let output = sheaf(&arguments, &variables)?;
            let text = text(&output);
            assert_eq!(
                output.status.code(),
                Some(2),
                "{arguments:?} {file:?}: {text}"
            );
            assert!(text.contains(wanted), "{file:?}: {text}");
            assert!(
                text.starts_with("error: ") && text.trim_end().lines().count() == 1,
                "{text}"
            );
            assert!(!text.contains(SECRET), "{text}");
        }
    }
    let output = sheaf(&["serve", "--config", "/nonexistent/sheaf.toml"], &[])?;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    Ok(())
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() -> Result<()> {
    let password = format!("--app-password={SECRET}");
    let key = format!("--key={SECRET}");
    for arguments in [
        &["serve", &password][..],
        &["serve", "--app-password", SECRET],
        &["migrate", "up", &password],
        &["import", "x.csv", "--type", "t", "--id", "i", &key],
        &[
            "import", "x.csv", "--type", "t", "--id", "i", "--key", SECRET,
        ],
    ] {
        let output = sheaf(arguments, &[])?;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.contains("--app-password") || text.contains("--key"),
            "{text}"
        );
        assert!(!text.contains(SECRET), "{text}");
    }
    Ok(())
}

#[test]
fn the_configuration_in_effect_is_shown_with_its_origins_and_without_secrets() -> Result<()> {
    let dir = ScratchDir::new("print-config")?;
    let path = dir.path().join("sheaf.toml");
    std::fs::write(&path, format!("[database]\napp_password = \"{SECRET}\"\n"))?;
    let path = path.display().to_string();
    let output = sheaf(
        &["serve", "--print-config", "--config", &path],
        &[("SHEAF_SERVER_LISTEN", "127.0.0.1:1")],
    )?;
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for wanted in [
        "server.listen = 127.0.0.1:1    # environment variable SHEAF_SERVER_LISTEN\n".to_owned(),
        format!("database.app_password = (secret)    # {path}:2:16\n"),
        "log.level = info    # default\n".to_owned(),
        "database.ca_file = (none)    # default\n".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted}{text}");
    }
    assert!(!text.contains(SECRET), "{text}");
    Ok(())
}

#[test]
fn an_import_that_cannot_be_meant_is_refused_before_anything_is_sent() -> Result<()> {
    for arguments in [
        &["import", "x.csv"][..],
        &["import", "x.csv", "--type", "t"],
        &["import", "x.unknown", "--type", "t", "--id", "i"],
        &[
            "import",
            "x.csv",
            "--type",
            "t",
            "--id",
            "i",
            "--time",
            "a",
            "--observed-at",
            "b",
        ],
        &[
            "import", "x.csv", "--type", "t", "--id", "i", "--batch", "0",
        ],
    ] {
        let output = sheaf(arguments, &[])?;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&output)
        );
    }
    Ok(())
}
