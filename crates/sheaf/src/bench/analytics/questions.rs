//! The five questions, as each engine is asked them. Pure.
//!
//! DuckDB is asked as somebody would who knows it well: its view has the instants as times without a zone too, because it
//! truncates those without its calendar, and what it asks of the files are the instants as they are stored. PostgreSQL is asked of
//! the event table itself, without the view's look for corrections, of which there are none.

use sheaf_model::Timestamp;

use super::filled::Filled;

const DAY_MICROS: i64 = 86_400_000_000;

/// From an instant to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Span {
    /// So many days from an instant on.
    pub(super) fn days_from(from: i64, days: i64) -> Span {
        Span {
            from,
            until: from + days * DAY_MICROS,
        }
    }

    fn condition(self) -> String {
        let text = |micros| {
            let time = Timestamp::from_micros(micros);
            time.map_or_else(|_| micros.to_string(), |time| time.to_string())
        };
        format!(
            "observed_at >= '{}' AND observed_at < '{}'",
            text(self.from),
            text(self.until)
        )
    }
}

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) name: &'static str,
    /// For us. `{span}` is the condition on instants.
    ours: &'static str,
    duckdb: &'static str,
    /// `{tenant}` is the tenant, `{m3}` the number of the attribute of that name.
    postgres: &'static str,
}

impl Question {
    pub(super) fn text(&self, span: Span) -> String {
        self.ours.replace("{span}", &span.condition())
    }

    pub(super) fn duckdb(&self, span: Span) -> String {
        self.duckdb.replace("{span}", &span.condition())
    }

    pub(super) fn postgres(&self, span: Span, filled: &Filled) -> String {
        let mut text = self.postgres.replace("{span}", &span.condition());
        text = text.replace("{tenant}", &filled.tenant_number().to_string());
        for (name, number) in &filled.attributes {
            text = text.replace(&format!("{{{name}}}"), &number.to_string());
        }
        text
    }
}

/// All of them.
pub(super) const QUESTIONS: [Question; 5] = [
    Question {
        name: "mean_per_hour_and_attribute",
        ours: "SELECT date_trunc('hour', observed_at) AS hour, attribute, avg(value_float) AS mean FROM facts
            WHERE value_float IS NOT NULL AND {span} GROUP BY 1, 2",
        duckdb: "SELECT date_trunc('hour', instant) AS hour, attribute, avg(value_float) AS mean FROM facts
            WHERE value_float IS NOT NULL AND {span} GROUP BY 1, 2",
        postgres: "SELECT to_char(date_trunc('hour', observed_at AT TIME ZONE 'UTC'), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), a.name, avg((f.value #>> '{}')::float8)
            FROM sheaf.entity_events e CROSS JOIN LATERAL jsonb_each(e.attrs) f
            JOIN sheaf.attributes a ON a.tenant_id = e.tenant_id AND a.attribute_id = f.key::bigint
            WHERE e.tenant_id = {tenant} AND a.type = 'float' AND {span}
            GROUP BY date_trunc('hour', observed_at AT TIME ZONE 'UTC'), a.name",
    },
    Question {
        name: "top_entities",
        ours: "SELECT external_id, count(*) AS n, sum(value_float) AS total FROM facts WHERE attribute = 'm3' AND {span}
            GROUP BY 1 ORDER BY 3 DESC LIMIT 10",
        duckdb: "SELECT external_id, count(*) AS n, sum(value_float) AS total FROM facts WHERE attribute = 'm3' AND {span}
            GROUP BY 1 ORDER BY 3 DESC LIMIT 10",
        postgres: "SELECT n.external_id, t.n, t.total FROM (
                SELECT e.entity_id, count(*) AS n, sum((e.attrs ->> '{m3}')::float8) AS total FROM sheaf.entity_events e
                WHERE e.tenant_id = {tenant} AND e.attrs ? '{m3}' AND {span} GROUP BY 1 ORDER BY 3 DESC LIMIT 10) t
            JOIN sheaf.entities n ON n.tenant_id = {tenant} AND n.entity_id = t.entity_id",
    },
    Question {
        name: "distribution",
        ours: "SELECT count(*) AS n, min(value_float) AS least, max(value_float) AS most, avg(value_float) AS mean,
                stddev(value_float) AS deviation, percentile_cont(0.5) WITHIN GROUP (ORDER BY value_float) AS p50,
                percentile_cont(0.9) WITHIN GROUP (ORDER BY value_float) AS p90,
                percentile_cont(0.99) WITHIN GROUP (ORDER BY value_float) AS p99
            FROM facts WHERE attribute = 'm5' AND {span}",
        duckdb: "SELECT count(*) AS n, min(value_float) AS least, max(value_float) AS most, avg(value_float) AS mean,
                stddev(value_float) AS deviation, quantile_cont(value_float, 0.5) AS p50,
                quantile_cont(value_float, 0.9) AS p90, quantile_cont(value_float, 0.99) AS p99
            FROM facts WHERE attribute = 'm5' AND {span}",
        postgres: "SELECT count(v), min(v), max(v), avg(v), stddev(v), percentile_cont(0.5) WITHIN GROUP (ORDER BY v),
                percentile_cont(0.9) WITHIN GROUP (ORDER BY v), percentile_cont(0.99) WITHIN GROUP (ORDER BY v)
            FROM (SELECT (e.attrs ->> '{m5}')::float8 AS v FROM sheaf.entity_events e WHERE e.tenant_id = {tenant} AND {span}) e",
    },
    Question {
        name: "join_with_current",
        ours: "SELECT c.value_text AS site, count(*) AS n, avg(f.value_float) AS mean FROM facts f JOIN (
                SELECT entity_id, value_text FROM (
                    SELECT entity_id, value_text, row_number() OVER (PARTITION BY entity_id ORDER BY observed_at DESC) AS place
                    FROM facts WHERE attribute = 'site') s WHERE place = 1) c ON c.entity_id = f.entity_id
            WHERE f.attribute IN ('m1', 'm2') AND {span} GROUP BY 1",
        duckdb: "SELECT c.site, count(*) AS n, avg(f.value_float) AS mean FROM facts f JOIN (
                SELECT entity_id, arg_max(value_text, observed_at) AS site FROM facts WHERE attribute = 'site' GROUP BY 1) c
                ON c.entity_id = f.entity_id
            WHERE f.attribute IN ('m1', 'm2') AND {span} GROUP BY 1",
        postgres: "SELECT d.site, count(*), avg((f.value #>> '{}')::float8) FROM sheaf.entity_events e
            CROSS JOIN LATERAL jsonb_each(e.attrs) f
            JOIN (SELECT entity_id, (hot_attrs || cold_attrs) ->> '{site}' AS site FROM sheaf.entity_jsonb WHERE tenant_id = {tenant}) d
                ON d.entity_id = e.entity_id
            WHERE e.tenant_id = {tenant} AND f.key IN ('{m1}', '{m2}') AND {span} GROUP BY 1",
    },
    Question {
        name: "distinct_counts",
        ours: "SELECT attribute, count(DISTINCT entity_id) AS entities FROM facts WHERE {span} GROUP BY 1",
        duckdb: "SELECT attribute, count(DISTINCT entity_id) AS entities FROM facts WHERE {span} GROUP BY 1",
        postgres: "SELECT a.name, t.entities FROM (
                SELECT f.key, count(DISTINCT e.entity_id) AS entities
                FROM sheaf.entity_events e CROSS JOIN LATERAL jsonb_object_keys(e.attrs) f (key)
                WHERE e.tenant_id = {tenant} AND {span} GROUP BY 1) t
            JOIN sheaf.attributes a ON a.tenant_id = {tenant} AND a.attribute_id = t.key::bigint",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_as_a_condition_on_instants() {
        let wanted =
            "observed_at >= '1970-01-01T00:00:00Z' AND observed_at < '1970-01-31T00:00:00Z'";
        assert_eq!(Span::days_from(0, 30).condition(), wanted);
    }
}
