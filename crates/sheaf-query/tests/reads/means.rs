//! Sums and means that are made here, against PostgreSQL's.

use anyhow::Result;
use sheaf_model::{ExactSum, Value};
use sheaf_testkit::TestDatabase;
use tokio_postgres::types::Type;

const SQL: &str = "SELECT sum(n.number::numeric)::text AS sum,
        trim_scale((sum(n.number::numeric) + 0.000000000000000000000000000000) / count(*))::text AS mean
    FROM unnest($1::text[]) AS n (number)";

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn digits(&mut self, count: u64) -> String {
        (0..count)
            .map(|_| char::from(b'0' + u8::try_from(self.below(10)).unwrap_or(0)))
            .collect()
    }

    fn decimal(&mut self) -> String {
        let sign = if self.below(2) == 0 { "-" } else { "" };
        let whole_digits = match self.below(6) {
            0 => 0,
            1 => 60,
            _ => self.below(9),
        };
        let whole = self.digits(whole_digits);
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let zeros = [0, 0, 0, 3, 17, 40][usize::try_from(self.below(6)).unwrap_or(0)];
        let fraction = format!("{}{}", "0".repeat(zeros), {
            let count = self.below(8);
            self.digits(count)
        });
        match fraction.as_str() {
            "" => format!("{sign}{whole}"),
            fraction => format!("{sign}{whole}.{fraction}"),
        }
    }
}

#[tokio::test]
async fn sums_and_means_are_those_of_numeric_to_the_digit() -> Result<()> {
    let database = TestDatabase::create().await?;
    let client = database.superuser().await?;
    let mut numbers = Numbers(0x5eed_0010);
    for _ in 0..600 {
        let count = numbers.below(12) + 1;
        let texts: Vec<String> = (0..count).map(|_| numbers.decimal()).collect();
        let row = client
            .query_typed(SQL, &[(&texts, Type::TEXT_ARRAY)])
            .await?;
        let mut sum = ExactSum::default();
        for text in &texts {
            sum.add(&Value::Decimal(text.parse()?));
        }
        let wanted: (String, String) = (row[0].get("sum"), row[0].get("mean"));
        let found = (sum.to_string(), sum.mean(i64::try_from(count)?));
        assert_eq!(found, wanted, "{texts:?}");
    }
    Ok(())
}
