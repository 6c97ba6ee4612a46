//! A read is one round trip, whoever answers it.

use std::sync::Arc;

use anyhow::Result;
use sheaf_pg::{Pool, Tls};
use sheaf_query::{ConsistencyLevel, DataSource, Reader, SourcePools};
use sheaf_store::catalogue::Catalogues;
use sheaf_testkit::RoundTrips;

use crate::replicated::{Replicated, read_with, source};

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_is_read_in_one_round_trip_from_the_primary_and_from_a_replica() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let name = all.world.database.name();
    let to_primary = RoundTrips::to(all.primary.cluster()).await?;
    let to_west = RoundTrips::to(west.cluster()).await?;
    let through = |proxy: &RoundTrips| Pool::new(&proxy.config(name, "sheaf_app"), 1, &Tls::none());
    // Catalogues are read past the proxy.
    let direct = all.pools(all.primary.cluster());
    let catalogues = Arc::new(Catalogues::new(direct.app));
    let settings = Arc::clone(&all.world.settings);
    let reader = Reader::new(through(&to_primary), direct.search, settings, catalogues);
    let read = async || read_with(&reader, &all.scope, ConsistencyLevel::Strong, None).await;
    read().await?;
    to_primary.take();
    for _ in 0..3 {
        assert_eq!(read().await?.freshness.source, DataSource::Primary);
        assert_eq!(to_primary.take(), [1]);
    }

    let pools = SourcePools {
        app: through(&to_west),
        search: all.pools(west.cluster()).search,
    };
    all.reader.sources().remove_replica("west");
    all.reader.sources().add_replica("counted", pools);
    all.wait_used("counted").await;
    // The first connection is that of the watch, which looks all the time.
    to_west.take();
    for _ in 0..3 {
        let read = all.read(ConsistencyLevel::Eventual, None).await?;
        assert_eq!(read.freshness.source, source("counted"));
        assert_eq!(to_west.take()[1..], [1]);
    }
    Ok(())
}
