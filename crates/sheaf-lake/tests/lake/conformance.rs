//! What every sink has to do.

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;
use sheaf_cdc::conformance::{Place, check};
use sheaf_cdc::sink::Sink;
use sheaf_model::{ChangePosition, Lsn};

use crate::world::World;

struct Lake(World);

impl Place for Lake {
    fn open(&self) -> Box<dyn Sink> {
        Box::new(self.0.sink("sheaf").expect("a folder"))
    }

    fn found(&self) -> Pin<Box<dyn Future<Output = Vec<ChangePosition>> + '_>> {
        Box::pin(async {
            let rows = self.0.rows("sheaf", "facts").await.expect("a lake");
            let entity = |row: &crate::world::Row| row["entity_id"].parse().expect("a number");
            let numbers = rows.iter().map(|row| -> u64 {
                assert_eq!(row.get("value_int"), row.get("entity_id"));
                entity(row)
            });
            let position = |number| ChangePosition {
                timeline: 1,
                commit_lsn: Lsn(number / 1000),
                ordinal: number % 1000,
            };
            numbers.map(position).collect()
        })
    }

    fn keeps_order(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_does_what_every_sink_has_to_do() -> Result<()> {
    let place = Lake(World::create().await?);
    check(&place).await?;
    Ok(())
}
