//! `sheaf serve`: a server on an existing PostgreSQL.

use anyhow::{Context, Result};
use sheaf_config::Shown;

use crate::changes::Following;
use crate::cli::ServeArgs;
use crate::commands::settings;
use crate::connect::Access;
use crate::exit::say;
use crate::replicas::SettingsFile;
use crate::serving::Listeners;
use crate::waiting::{self, Waited};
use crate::{allocator, logging, serving};

pub(super) async fn run(args: ServeArgs) -> Result<()> {
    let (settings, shown) = settings::load(&args.config)?;
    if args.print_config {
        return print(&shown);
    }
    logging::begin(settings.log)?;
    allocator::settle();
    let access = Access::from_settings(&settings)?;
    let stop = serving::stop_signal()?;
    let listeners = Listeners {
        http: serving::listen(settings.server.listen).await?,
        pgwire: match settings.pgwire.listen {
            Some(address) => Some(serving::listen(address).await?),
            None => None,
        },
    };
    let waited = waiting::require_sound(&access, &listeners.http, stop.clone())
        .await
        .with_context(|| format!("checking the database {}", settings.database.url))?;
    if waited == Waited::Stopped {
        return Ok(());
    }
    tracing::info!(listen = %settings.server.listen, database = %settings.database.url, "serving");
    let config = args.config;
    let file = config.config.clone().map(|path| SettingsFile {
        path,
        reread: Box::new(move || Ok(settings::load(&config)?.0)),
    });
    let following = Following::of(&access, &settings);
    let pools = access.pools();
    serving::serve(listeners, &settings, pools, following, file, stop).await
}

fn print(shown: &[Shown]) -> Result<()> {
    for Shown {
        key,
        value,
        provenance,
    } in shown
    {
        let value = value.as_deref().unwrap_or("(none)");
        say(&format!("{key} = {value}    # {provenance}"))?;
    }
    Ok(())
}
