//! What another tenant has makes no difference to any answer.

use anyhow::Result;
use sheaf_query::filter::parse_text;
use sheaf_query::{
    Aggregate, BucketQuery, CountMode, EntityQuery, FacetKind, FacetQuery, Fill, HistoryQuery,
    ListQuery, SortKey,
};

use crate::history::{everything, random_history};
use crate::list::{all_of, random_entities};
use crate::world::{Dice, Tenant, World, options, second};

/// Every kind of read with many parameters, as text. Freshness is left out: it tells of the whole database.
async fn answers(world: &World, tenant: &Tenant) -> Result<Vec<String>> {
    let (reader, scope) = (&world.reader, &tenant.scope);
    let mut answers = Vec::new();
    let mut ids: Vec<(String, String)> = tenant.entities.keys().take(40).cloned().collect();
    ids.push(("plane".to_owned(), "theirs".to_owned()));
    ids.push(("thing".to_owned(), "two".to_owned()));
    for (entity_type, id) in &ids {
        let query = EntityQuery {
            select: None,
            times: true,
        };
        answers.push(format!(
            "{:?}",
            reader
                .entity(scope, entity_type, id, &query, &options())
                .await?
                .value
        ));
        answers.push(format!(
            "{:?}",
            reader
                .entity_as_of(scope, entity_type, id, second(2), &query, &options())
                .await?
                .value
        ));
        for (descending, corrections) in [(false, false), (true, true)] {
            let query = HistoryQuery {
                limit: 3,
                descending,
                corrections,
                ..everything()
            };
            answers.push(format!(
                "{:?}",
                reader
                    .history(scope, entity_type, id, &query, &options())
                    .await?
                    .value
            ));
        }
        for fill in [Fill::None, Fill::Null] {
            let query = BucketQuery {
                attributes: None,
                from: None,
                to: None,
                descending: false,
                limit: 10,
                cursor: None,
                bucket: "1h".parse()?,
                aggregates: Some(Aggregate::ALL.to_vec()),
                fill,
            };
            answers.push(format!(
                "{:?}",
                reader
                    .history_buckets(scope, entity_type, id, &query, &options())
                    .await?
                    .value
            ));
        }
    }
    let filters = [
        "hot_int = 7",
        "cold_int <> 7",
        "NOT (hot_text = 'a')",
        "hot_int >= 0",
        "hot_decimal < 12.6 AND hot_text LIKE 'b%'",
        "cold_float > 0",
        "hot_bool IS NULL",
        "external_id LIKE 'N%'",
        "entity_type = 'plane' OR cold_json IS NOT NULL",
        "A_CONTAINS(hot_json, ('a'))",
        "CASEI(cold_text) = CASEI('B')",
        "observed_at >= TIMESTAMP('2013-01-01T00:00:03Z')",
        "hot_time IN (TIMESTAMP('2012-12-31T23:59:57Z'))",
    ];
    for filter in filters.map(Some).into_iter().chain([None]) {
        for (entity_type, name) in [
            (None, "hot_text"),
            (Some("plane"), "cold_decimal"),
            (Some("theirs"), "observed_at"),
        ] {
            for descending in [false, true] {
                let mut query = ListQuery {
                    filter: filter.map(parse_text).transpose()?,
                    sort: vec![SortKey {
                        name: name.to_owned(),
                        descending,
                    }],
                    limit: 5,
                    count: if descending {
                        CountMode::Exact
                    } else {
                        CountMode::Estimate
                    },
                    facets: vec![
                        FacetQuery {
                            name: "cold_text".to_owned(),
                            kind: FacetKind::Top(Some(2)),
                        },
                        FacetQuery {
                            name: "hot_float".to_owned(),
                            kind: FacetKind::Histogram("0.5".to_owned()),
                        },
                    ],
                    ..all_of(entity_type)
                };
                for _ in 0..3 {
                    let answer = reader.list(scope, &query, &options()).await?.value;
                    answers.push(format!("{filter:?} {answer:?}"));
                    query.cursor = answer.page.next_cursor;
                    if query.cursor.is_none() {
                        break;
                    }
                }
            }
        }
    }
    Ok(answers)
}

/// An answer without the text of its cursors, which say how far the database had come.
fn without_cursors(answer: &str) -> String {
    let mut parts = answer.split("c1.");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept += "c1.";
        kept += part.trim_start_matches(|letter: char| {
            letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_')
        });
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_changes_when_another_tenant_fills_the_tables() -> Result<()> {
    let world = World::new().await?;
    let mut ours = world.tenant("ours").await?;
    let mut theirs = world.tenant("theirs").await?;
    random_entities(&mut ours, 60, &mut Dice(1));
    random_history(&mut ours, "one", 100, &mut Dice(2));
    world.save(&ours).await?;
    world.index(&ours).await?;
    let before = answers(&world, &ours).await?;
    // The same names, the same values, and more of them.
    random_entities(&mut theirs, 300, &mut Dice(1));
    random_history(&mut theirs, "one", 300, &mut Dice(2));
    random_history(&mut theirs, "two", 50, &mut Dice(2));
    theirs.write(("plane", "theirs"), second(1), sheaf_model::Op::Patch, &[]);
    theirs.write(("theirs", "theirs"), second(1), sheaf_model::Op::Patch, &[]);
    world.save(&theirs).await?;
    world.index(&theirs).await?;
    world.superuser.batch_execute("ANALYZE").await?;
    let after = answers(&world, &ours).await?;
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(without_cursors(before), without_cursors(after));
    }
    let of_theirs = answers(&world, &theirs).await?;
    assert!(
        of_theirs.len() > before.len(),
        "the other tenant sees its own"
    );
    Ok(())
}
