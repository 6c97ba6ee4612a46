//! Series of line protocol whose ids are made of some of their tags: the other tags tell them apart.

mod world;

use anyhow::Result;
use sheaf_ingest::{BodyFormat, decode::Precision};
use sheaf_store::ledger::Outcome;

use world::World;

fn by_host() -> BodyFormat {
    BodyFormat::LineProtocol {
        precision: Precision::Seconds,
        id_tags: Some(vec!["host".to_owned()]),
    }
}

const MARKED: &str = "SELECT concat_ws(' ', (SELECT string_agg(name, ',' ORDER BY name) FROM sheaf.attributes WHERE series_tag),
    (SELECT catalogue_version FROM sheaf.tenants))";

#[tokio::test]
async fn tags_beside_an_id_are_marked_once_and_other_attributes_are_not() -> Result<()> {
    let world = World::create(true).await?;
    let line = "cpu,host=a,region=eu,rack=r1 n=1i 1357020000";
    let answer = world.ingest(by_host(), &[line]).await?;
    assert_eq!((answer.counts.accepted, answer.counts.values), (1, 4));
    let marked = world.text(MARKED).await?;
    assert!(marked.starts_with("rack,region "), "{marked}");
    let again = world.ingest(by_host(), &[line]).await?;
    assert_eq!(again.counts.duplicates, 1);
    assert_eq!(
        world.text(MARKED).await?,
        marked,
        "the catalogue is not touched again"
    );
    Ok(())
}

#[tokio::test]
async fn a_later_line_that_lacks_a_tag_is_another_series() -> Result<()> {
    let world = World::create(true).await?;
    world
        .ingest(by_host(), &["cpu,host=a,region=eu n=1i 1357020000"])
        .await?;
    let other = world
        .ingest(by_host(), &["cpu,host=a m=2i 1357020000"])
        .await?;
    let claim = "a request of which the stored rows refuse everything has stored nothing";
    assert_eq!(other.outcome, Outcome::AllRefused, "{claim}");
    assert_eq!(
        (
            other.rejected[0].code.as_str(),
            other.rejected[0].field.as_deref()
        ),
        ("series_conflict", Some("region"))
    );
    let same = world
        .ingest(by_host(), &["cpu,host=a,region=eu m=2i 1357020000"])
        .await?;
    assert_eq!(same.counts.merged, 1);
    Ok(())
}
