//! How the entities of histories are met.

use super::super::members::{MembersFrom, MembersOf};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_many_entities_are_met_by_walking_the_names() -> Result<()> {
    let database = TestDatabase::create().await?;
    populate(&database.superuser().await?).await?;
    let search = database.client("sheaf_search").await?;
    let scope = TenantScope::authenticated(TenantId(2));
    let from = MembersFrom {
        external_id: "N30000".to_owned(),
        entity_type: "plane".to_owned(),
        is_inclusive: false,
    };
    for filter in ["a2 = 7", "i2 = 7", "i2 < 1000 AND external_id > 'N1'"] {
        for (entity_type, is_by_type) in [(Some("plane"), false), (None, true)] {
            let of = MembersOf {
                entity_type,
                filter: Some(TypedExpr::resolve(&parse_text(filter)?, &lookup)?),
                is_by_type,
            };
            let (matching, asked) = (of.matching(&scope), (Some(&from), Pace::AllPages));
            let walked = of.statement(&matching, asked, 1_000);
            let plan = explain(&search, &walked).await?;
            ensure!(
                plan.contains("entities_external_id_key")
                    && plan.contains("'N30000'::text")
                    && !plan.contains("Sort")
                    && !plan.contains("Bitmap Index Scan on entity_jsonb_hot_attrs"),
                "{filter} is not walked on from where the batch before ended:\n{plan}"
            );
            let rows = search
                .query_typed(&walked.sql, &walked.parameters())
                .await?;
            let found = of.statement(&matching, (Some(&from), Pace::OnePage), 1_000);
            let same = search.query_typed(&found.sql, &found.parameters()).await?;
            let ids = |rows: &[Row]| -> Vec<i64> { rows.iter().map(|row| row.get(0)).collect() };
            ensure!(
                ids(&rows) == ids(&same) && rows.len() == 1_000,
                "{filter}: {} rows walked, {} found",
                rows.len(),
                same.len()
            );
        }
    }
    Ok(())
}
