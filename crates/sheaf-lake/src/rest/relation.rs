//! How what the database names of the tables stands to what the catalogue has. What that means is decided by the marks alone: pure.

use sheaf_store::lake::{LakeStanding, read_lake};

use super::intent::{Intent, Mark};
use crate::error::LakeError;
use crate::lake::Lake;
use crate::schema::LakeTable;
use crate::table::TableState;

/// How the lake stands.
pub(super) enum Judged {
    /// Both are of one commit.
    Same,
    /// The catalogue has the commit after the one that is named, or a part of it.
    Unfinished(Box<Intent>),
    /// Of these tables nothing can be gone on with.
    Lost(Vec<LakeTable>),
}

/// How a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// Of one commit.
    Same,
    /// The catalogue has a later one.
    Ahead,
    /// The catalogue has an earlier one, or another table.
    Lost,
}

fn relate(named: Option<Mark>, found: Option<Mark>) -> Relation {
    let number = |mark: Option<Mark>| mark.map_or(0, |mark| mark.number);
    if named == found {
        Relation::Same
    } else if number(found) > number(named) {
        Relation::Ahead
    } else {
        Relation::Lost
    }
}

/// Judges the lake by what the catalogue has. The facts say which commit it is of.
pub(super) async fn judge(
    lake: &Lake,
    standing: &LakeStanding,
    tables: &[TableState],
    timeline: u32,
) -> Result<Judged, LakeError> {
    let facts = tables.iter().find(|state| state.table == LakeTable::Facts);
    let facts = facts.ok_or(LakeError::NotAsked)?;
    let (relation, named) = look(lake, standing, facts).await?;
    let lost = match relation {
        Relation::Same => {
            let mut lost = Vec::new();
            for state in tables {
                if look(lake, standing, state).await?.0 != Relation::Same {
                    lost.push(state.table);
                }
            }
            lost
        }
        Relation::Ahead => {
            if let Some(intent) = read_intent(lake, facts).await?
                && intent.before == named
            {
                return Ok(Judged::Unfinished(Box::new(intent)));
            }
            let now = read_lake(&lake.cdc, &lake.name).await?;
            if now.is_none_or(|now| now.position.number != standing.position.number) {
                // Another writer commits just now.
                let table = facts.table.name();
                return Err(LakeError::Overtaken { table });
            }
            // After a promotion or from a backup it is so: the slot is made anew then, and the lake begins anew.
            if !lake.warehouse.is_before(timeline).await? {
                let text = |mark: Option<Mark>| mark.map_or("none".to_owned(), |m| m.to_string());
                return Err(LakeError::Ahead {
                    found: text(Mark::of(facts)?),
                    named: text(named),
                });
            }
            LakeTable::ALL.to_vec()
        }
        Relation::Lost => LakeTable::ALL.to_vec(),
    };
    if lost.is_empty() {
        return Ok(Judged::Same);
    }
    for table in lost.iter().map(|table| table.name()) {
        tracing::warn!(table, "a table of the lake is not the one that is named");
    }
    Ok(Judged::Lost(lost))
}

/// Whether every table that the catalogue has is of the commit that the database names.
pub(super) async fn is_whole(
    lake: &Lake,
    standing: &LakeStanding,
    tables: &[TableState],
) -> Result<bool, LakeError> {
    for state in tables {
        if look(lake, standing, state).await?.0 != Relation::Same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The commit that the database names, whatever the catalogue has.
pub(super) async fn named_mark(lake: &Lake, facts: &TableState) -> Result<Option<Mark>, LakeError> {
    match read_lake(&lake.cdc, &lake.name).await? {
        Some(standing) => Ok(look(lake, &standing, facts).await?.1),
        None => Ok(None),
    }
}

/// How a table stands, and the mark of the one that is named.
async fn look(
    lake: &Lake,
    standing: &LakeStanding,
    found: &TableState,
) -> Result<(Relation, Option<Mark>), LakeError> {
    let mark = Mark::of(found)?;
    let Some(location) = standing.location(found.table.name()) else {
        return Ok((relate(None, mark), None));
    };
    if found.location.as_deref() == Some(location) {
        return Ok((Relation::Same, mark));
    }
    let named = match TableState::load_own(found.table, &lake.warehouse, location).await {
        Err(LakeError::Missing { .. }) => return Ok((Relation::Lost, None)),
        named => named?,
    };
    let named_mark = Mark::of(&named)?;
    if named.metadata.uuid() == found.metadata.uuid() {
        return Ok((relate(named_mark, mark), named_mark));
    }
    if named_mark.is_none() && named.metadata.current_snapshot().is_some() {
        return Err(LakeError::OtherCatalog);
    }
    Ok((Relation::Lost, named_mark))
}

/// The commit that the facts are of; absent where its file is not there any more.
async fn read_intent(lake: &Lake, facts: &TableState) -> Result<Option<Intent>, LakeError> {
    let Some(mark) = Mark::of(facts)? else {
        return Ok(None);
    };
    let file = mark.file(facts);
    match lake.warehouse.read(&file).await {
        Ok(bytes) => {
            let intent = Intent::read(&bytes);
            intent
                .map(Some)
                .map_err(LakeError::file("reading the commit", &file))
        }
        Err(LakeError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_of_the_commit_that_is_named_or_ahead_of_it_or_lost() {
        let first = Mark::after(None);
        let second = Mark::after(Some(first));
        let other = Mark::after(Some(first));
        for (named, found, wanted) in [
            (None, None, Relation::Same),
            (Some(first), Some(first), Relation::Same),
            (None, Some(first), Relation::Ahead),
            (Some(first), Some(second), Relation::Ahead),
            (Some(second), Some(first), Relation::Lost),
            (Some(second), Some(other), Relation::Lost),
            (Some(first), None, Relation::Lost),
        ] {
            assert_eq!(relate(named, found), wanted, "{named:?} {found:?}");
        }
    }
}
