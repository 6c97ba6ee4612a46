//! What a question names: which views are made for it, and with which columns. Pure.
//!
//! A tenant has thousands of attributes, and which of them a type of entities has, only its facts say. So a view has the columns
//! that stand in the question. Only where the question means all of them, it takes finding out which these are.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, Query, SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor,
};

use super::super::statement::Word;
use super::{CURRENT, HOURLY};

/// What a question names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions {
    /// Types of entities whose current values it reads.
    pub(crate) types: BTreeSet<String>,
    /// Whether it means all columns of a table.
    pub(crate) is_whole: bool,
    /// Whether it reads numbers by the hour.
    pub(crate) is_hourly: bool,
    /// Its words, each as a name would be understood.
    pub(crate) words: BTreeSet<String>,
}

impl Mentions {
    /// All columns.
    pub(crate) fn whole() -> Mentions {
        Mentions {
            is_whole: true,
            ..Mentions::default()
        }
    }

    /// What stands in a question.
    pub(crate) fn of(statement: &Statement, words: Vec<Word>) -> Mentions {
        let mut mentions = Mentions::default();
        for word in words {
            // It means the columns that two tables have in common.
            mentions.is_whole |= !word.is_quoted && word.text == "natural";
            mentions.words.insert(word.text);
        }
        let _: ControlFlow<()> = statement.visit(&mut mentions);
        mentions
    }
}

/// A name as the engine understands it.
pub(crate) fn understood(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

/// The type of entities whose current values a table is, if it is one.
pub(crate) fn type_of(relation: &ObjectName) -> Option<String> {
    let [schema, table] = relation.0.as_slice() else {
        return None;
    };
    let (schema, table) = (schema.as_ident()?, table.as_ident()?);
    (understood(schema) == CURRENT).then(|| understood(table))
}

impl Visitor for Mentions {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let mut bodies = vec![&*query.body];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(select) => {
                    self.is_whole |= select.projection.iter().any(|item| {
                        matches!(
                            item,
                            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
                        )
                    });
                }
                SetExpr::SetOperation { left, right, .. } => bodies.extend([&**left, &**right]),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if let Some(name) = type_of(relation) {
            self.types.insert(name);
        }
        if let [name] = relation.0.as_slice()
            && let Some(name) = name.as_ident()
        {
            self.is_hourly |= understood(name) == HOURLY;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table {
            alias: Some(alias), ..
        } = factor
        {
            // They name the columns by their places.
            self.is_whole |= !alias.columns.is_empty();
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::statement::{parse, words};
    use super::*;

    #[test]
    fn a_view_has_the_columns_that_are_named_and_all_where_all_are_meant() {
        for (query, types, is_whole, is_hourly) in [
            (
                "SELECT seats FROM current.plane",
                &["plane"][..],
                false,
                false,
            ),
            (
                "SELECT count(*) FROM Current.Plane p",
                &["plane"],
                false,
                false,
            ),
            (
                r#"SELECT "Seats" FROM current."Plane""#,
                &["Plane"],
                false,
                false,
            ),
            (r#"SELECT 1 FROM "current"."a.b""#, &["a.b"], false, false),
            (r#"SELECT 1 FROM "Current".plane"#, &[], false, false),
            ("SELECT * FROM current.plane", &["plane"], true, false),
            ("SELECT p.* FROM current.plane p", &["plane"], true, false),
            (
                "SELECT 1 FROM (SELECT * FROM current.plane UNION SELECT 1 FROM current.engine) x",
                &["engine", "plane"],
                true,
                false,
            ),
            (
                "SELECT seats FROM current.plane NATURAL JOIN entities",
                &["plane"],
                true,
                false,
            ),
            (
                "SELECT a FROM current.plane AS p (a, b)",
                &["plane"],
                true,
                false,
            ),
            (
                "SELECT seats FROM current.plane WHERE entity_id IN (SELECT entity_id FROM current.engine)",
                &["engine", "plane"],
                false,
                false,
            ),
            ("SELECT hour FROM facts_hourly", &[], false, true),
            ("SELECT * FROM Facts_Hourly h", &[], true, true),
            ("SELECT * FROM facts", &[], true, false),
        ] {
            let statement = parse(query).map_err(|error| error.to_string());
            let Ok(statement) = statement else {
                // A schema of another name is refused as any other.
                assert!(query.contains(r#""Current""#), "{query}");
                continue;
            };
            let mentions = Mentions::of(&statement, words(query).expect(query));
            let found: Vec<&str> = mentions.types.iter().map(String::as_str).collect();
            assert_eq!(found, types, "{query}");
            assert_eq!(mentions.is_whole, is_whole, "{query}");
            assert_eq!(mentions.is_hourly, is_hourly, "{query}");
        }
        let query = r#"SELECT "Seats", SPEED FROM current.plane JOIN entities USING (tail)"#;
        let mentions = Mentions::of(&parse(query).expect(query), words(query).expect(query));
        for word in ["Seats", "speed", "tail"] {
            assert!(mentions.words.contains(word), "{word}");
        }
        assert!(!mentions.words.contains("seats"));
    }
}
