//! `sheaf import`: the arguments, and a progress bar where somebody looks.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::ImportArgs;
use crate::exit::{Stop, say};
use crate::import::{self, Format, ImportOptions, Roles, Totals, Watcher};
use crate::private_file;

pub(super) async fn run(args: ImportArgs) -> Result<()> {
    let options = options(args)?;
    let watcher = Terminal::new();
    let totals = import::run(options, &watcher).await?;
    watcher.bar.finish_and_clear();
    Ok(say(&serde_json::to_string(&totals)?)?)
}

fn options(args: ImportArgs) -> Result<ImportOptions> {
    let format = args.format.or_else(|| import::format_of(&args.file));
    let format = format.ok_or_else(|| {
        let text = "the file's name does not say how it is written; use --format";
        Stop::Usage(text.to_owned())
    })?;
    let roles = match (args.r#type, args.id) {
        (Some(kind), Some(id)) => Some(Roles {
            kind,
            id,
            time: args.time,
            observed_at: args.observed_at,
            null: args.null,
            skip: args.skip,
        }),
        (None, None) if format == Format::Ndjson => None,
        _ => return Err(Stop::Usage("this format needs --type and --id".to_owned()).into()),
    };
    let rejected = args.rejected.unwrap_or_else(|| {
        let mut path = args.file.clone().into_os_string();
        path.push(".rejected.ndjson");
        PathBuf::from(path)
    });
    Ok(ImportOptions {
        format,
        roles,
        url: args.url,
        key: private_file::read(&args.key_file).context("reading the key")?,
        batch_rows: usize::try_from(args.batch).context("too many rows in a batch")?,
        rejected,
        state_dir: args.state_dir,
        file: args.file,
    })
}

/// Shows a bar on a terminal, and nothing but the notes elsewhere.
struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    fn new() -> Terminal {
        let bar = ProgressBar::no_length();
        let form = "{bar:40} {percent:>3} %  {msg}  {elapsed} gone, {eta} to go";
        bar.set_style(ProgressStyle::with_template(form).expect("a template of ours"));
        Terminal { bar }
    }
}

impl Watcher for Terminal {
    fn advanced(&self, done: u64, whole: u64, totals: &Totals) {
        self.bar.set_length(whole);
        self.bar.set_position(done);
        self.bar.set_message(format!(
            "{} events, {} refused",
            totals.events, totals.refused
        ));
    }

    fn note(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.println(text);
        } else {
            use std::io::Write;
            // Nothing can be done about a closed terminal.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}
