//! The files of the lake that were counted.

use sheaf_model::Timestamp;
use sheaf_pg::{PgError, PgTime, Pool, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{FactSum, HourColumns, HourSums, read, write};

/// What is in a file of the lake's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedFile {
    /// The file.
    pub location: String,
    /// Whether its facts are hidden ones.
    pub is_corrected: bool,
    /// What it has of each hour of a tenant.
    pub hours: Vec<(i64, i64, FactSum)>,
}

/// The columns of one file.
struct FileColumns {
    tenants: Vec<i64>,
    hours: Vec<i64>,
    facts: Vec<i64>,
    sums: Vec<String>,
}

/// The locations of the files that were counted.
pub async fn list_files(cdc: &Pool) -> Result<Vec<String>, PgError> {
    let sql = include_str!("../../sql/reconcile/list_files.sql");
    let rows = read(
        cdc,
        &Statement::new("listing the files that were counted", sql, vec![]),
    )
    .await?;
    Ok(rows.iter().map(|row| row.get("location")).collect())
}

/// The files that were read the longest ago, before an instant: so many at most.
pub async fn list_oldest_files(
    cdc: &Pool,
    before: Timestamp,
    files_max: i64,
) -> Result<Vec<CountedFile>, PgError> {
    const STEP: &str = "listing the files that were read the longest ago";
    let before = PgTime(before);
    let sql = include_str!("../../sql/reconcile/list_oldest_files.sql");
    let params: Vec<(&(dyn ToSql + Sync), Type)> =
        vec![(&before, Type::TIMESTAMPTZ), (&files_max, Type::INT8)];
    let rows = read(cdc, &Statement::new(STEP, sql, params)).await?;
    let file = |row: &Row| {
        let (tenants, hours): (Vec<i64>, Vec<i64>) = (row.get("tenants"), row.get("hours"));
        let (facts, sums): (Vec<i64>, Vec<String>) = (row.get("facts"), row.get("sums"));
        let places = tenants
            .into_iter()
            .zip(hours)
            .zip(facts.into_iter().zip(sums));
        let place = |((tenant, hour), (facts, sum)): ((i64, i64), (i64, String))| {
            let sum = sum
                .parse()
                .map_err(|_| PgError::unreadable(STEP, "a sum"))?;
            Ok((tenant, hour, FactSum { facts, sum }))
        };
        Ok(CountedFile {
            location: row.get("location"),
            is_corrected: row.get("is_corrected"),
            hours: places.map(place).collect::<Result<_, PgError>>()?,
        })
    };
    rows.iter().map(file).collect()
}

/// Remembers what is in files, and adds it to what was counted of their hours, each hour of a tenant once, in one transaction.
pub async fn add_files(
    cdc: &Pool,
    files: &[CountedFile],
    hours: &[HourSums],
    now: Timestamp,
) -> Result<(), PgError> {
    let now = PgTime(now);
    let columns: Vec<FileColumns> = files.iter().map(FileColumns::new).collect();
    let mut statements: Vec<Statement<'_>> = Vec::with_capacity(files.len() + 1);
    for (file, columns) in files.iter().zip(&columns) {
        statements.push(Statement::new(
            "storing what is in a file of the lake",
            include_str!("../../sql/reconcile/add_file.sql"),
            vec![
                (&file.location, Type::TEXT),
                (&file.is_corrected, Type::BOOL),
                (&columns.tenants, Type::INT8_ARRAY),
                (&columns.hours, Type::INT8_ARRAY),
                (&columns.facts, Type::INT8_ARRAY),
                (&columns.sums, Type::TEXT_ARRAY),
                (&now, Type::TIMESTAMPTZ),
            ],
        ));
    }
    let hours = (!hours.is_empty()).then(|| HourColumns::new(hours));
    statements.extend(hours.iter().map(HourColumns::statement));
    write(cdc, &statements).await
}

/// Forgets files, and what was counted of them.
pub async fn remove_files(cdc: &Pool, locations: &[&str]) -> Result<(), PgError> {
    let sql = include_str!("../../sql/reconcile/remove_files.sql");
    let statement = Statement::new(
        "forgetting files that are gone",
        sql,
        vec![(&locations, Type::TEXT_ARRAY)],
    );
    write(cdc, &[statement]).await
}

/// Remembers that files were read again and are what they were.
pub async fn touch_files(cdc: &Pool, locations: &[&str], now: Timestamp) -> Result<(), PgError> {
    let now = PgTime(now);
    let sql = include_str!("../../sql/reconcile/touch_files.sql");
    let statement = Statement::new(
        "storing that files are what they were",
        sql,
        vec![(&locations, Type::TEXT_ARRAY), (&now, Type::TIMESTAMPTZ)],
    );
    write(cdc, &[statement]).await
}

impl FileColumns {
    fn new(file: &CountedFile) -> FileColumns {
        let hours = || file.hours.iter();
        FileColumns {
            tenants: hours().map(|(tenant, ..)| *tenant).collect(),
            hours: hours().map(|(_, hour, _)| *hour).collect(),
            facts: hours().map(|(.., sum)| sum.facts).collect(),
            sums: hours().map(|(.., sum)| sum.sum.to_string()).collect(),
        }
    }
}
