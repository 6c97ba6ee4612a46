//! Lists that are read to their end: the same, page by page, as by somebody who turns pages.

use anyhow::Result;
use sheaf_query::filter::parse_text;
use sheaf_query::{EntityAnswer, ListQuery, SortKey};

use crate::list::{all_of, random_entities};
use crate::world::{Dice, World, options};

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_walked_on_has_the_entities_of_its_pages() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    random_entities(&mut tenant, 200, &mut Dice(12));
    world.save(&tenant).await?;
    let mut other = world.tenant("other").await?;
    random_entities(&mut other, 50, &mut Dice(13));
    world.save(&other).await?;
    let by_type = vec![SortKey {
        name: "entity_type".to_owned(),
        descending: false,
    }];
    let mut compared = 0;
    for filter in [
        None,
        Some("hot_int >= 0"),
        Some("cold_text IS NULL"),
        Some("hot_int = 3"),
    ] {
        for (entity_type, sort) in [
            (None, by_type.clone()),
            (Some("plane"), vec![]),
            (None, vec![]),
        ] {
            let mut query = ListQuery {
                filter: filter.map(parse_text).transpose()?,
                sort,
                ..all_of(entity_type)
            };
            let whole = world.reader.list(&tenant.scope, &query, &options()).await?;
            let whole = whole.value.page.items;
            query.limit = 7;
            // The first page as anybody's, the others by walking on from its cursor.
            let first = world.reader.list(&tenant.scope, &query, &options()).await?;
            let mut items: Vec<EntityAnswer> = first.value.page.items;
            query.cursor = first.value.page.next_cursor;
            while query.cursor.is_some() {
                let next = world
                    .reader
                    .list_on(&tenant.scope, &query, &options())
                    .await?;
                items.extend(next.value.page.items);
                query.cursor = next.value.page.next_cursor;
            }
            assert_eq!(items, whole, "{query:?}");
            compared += items.len();
        }
    }
    assert!(compared > 300, "{compared} entities were compared");
    Ok(())
}
