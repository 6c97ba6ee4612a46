use super::*;

const LAST: u64 = 100;
const DATA: u64 = 2 * BLOCK + LAST;

fn data() -> Bytes {
    let numbers = (0..DATA).map(|at| u8::try_from(at % 251).unwrap_or_default());
    numbers.collect()
}

fn blocks() -> Blocks {
    let text = key_of(&data()).value.unwrap_or_default();
    let crcs = text.as_bytes().chunks(DIGITS).map(read_crc);
    Blocks {
        crcs: crcs.collect::<Option<_>>().expect("digits"),
        end: DATA,
    }
}

#[test]
fn a_name_says_what_it_was_given_and_no_other_name_says_anything() {
    let end = End::of(b"end");
    let location = format!("s3://lake/facts/data/2024-02-29-b03-0b7c.{end}.parquet");
    assert_eq!(End::named(&location), Some(end));
    for other in [
        "file:///lake/data/2024-02-29-b03-6b1f6ad4-8c2f-4ad2-9a53-0a9f8d1e2b3c.parquet",
        "00000-3-6b1f6ad4-8c2f-4ad2-9a53-0a9f8d1e2b3c-0-00001.parquet",
        "part-00000.c000.snappy.parquet",
        "data.12-0123456.parquet",
        "data.12-012345678.parquet",
        "data.12-0123456g.parquet",
        "data.-01234567.parquet",
        "data.+12-01234567.parquet",
        "data.12-+1234567.parquet",
        "data.12-0123456A.parquet",
        "data.12-01234567.avro",
    ] {
        assert_eq!(End::named(other), None, "{other}");
    }
}

#[test]
fn an_end_is_where_and_what_it_was() {
    let end = End::of(b"end");
    assert_eq!(end.data_of(b"data and end"), Ok(&b"data and "[..]));
    assert_eq!(end.data_of(b"data and enD"), Err(Damage(9..12)));
    assert_eq!(end.data_of(b"data and end "), Err(Damage(10..13)));
    assert_eq!(end.data_of(b"d"), Err(Damage(0..1)));
}

#[test]
fn of_blocks_what_was_asked_for_is_taken() {
    let (blocks, data) = (blocks(), data());
    for (from, to, around) in [
        (0, 1, 0..BLOCK),
        (0, BLOCK, 0..BLOCK),
        (BLOCK - 1, BLOCK + 1, 0..2 * BLOCK),
        (BLOCK, BLOCK + 7, BLOCK..2 * BLOCK),
        (2 * BLOCK, DATA, 2 * BLOCK..DATA),
        (DATA - 1, DATA, 2 * BLOCK..DATA),
        (0, DATA, 0..DATA),
    ] {
        let wanted = from..to;
        assert_eq!(blocks.around(&wanted), Ok(around.clone()), "{wanted:?}");
        let wanted = [wanted];
        let slice = |range: &Range<u64>| {
            let place = |at| usize::try_from(at).expect("a place");
            data.slice(place(range.start)..place(range.end))
        };
        let taken = blocks.take(&around, &slice(&around), &wanted);
        assert_eq!(taken, Ok(vec![slice(&wanted[0])]));
        // One that is too short, and one that was read from elsewhere.
        let short = slice(&(around.start..around.end - 1));
        assert!(blocks.take(&around, &short, &wanted).is_err());
        let elsewhere = slice(&(0..around.end - around.start));
        let is_there = around.start == 0;
        let taken = blocks.take(&around, &elsewhere, &wanted);
        assert_eq!(taken.is_ok(), is_there);
    }
    for beyond in [DATA..DATA + 1, 0..DATA + 1, 9 * BLOCK..9 * BLOCK + 1] {
        assert_eq!(
            blocks.runs(std::slice::from_ref(&beyond)),
            Err(Damage(beyond))
        );
    }
}

#[test]
fn what_shares_a_block_or_follows_is_read_once() {
    let run = |blocks, wanted| BlocksRun { blocks, wanted };
    for (wanted, runs) in [
        (vec![], vec![]),
        (vec![0..9, 9..20, 30..40], vec![run(0..BLOCK, 0..3)]),
        (vec![0..9, BLOCK..BLOCK + 9], vec![run(0..2 * BLOCK, 0..2)]),
        (
            vec![0..9, DATA - 9..DATA],
            vec![run(0..BLOCK, 0..1), run(2 * BLOCK..DATA, 1..2)],
        ),
        // In another order than in the file.
        (
            vec![2 * BLOCK..DATA, 0..9],
            vec![run(2 * BLOCK..DATA, 0..1), run(0..BLOCK, 1..2)],
        ),
        // One within the one before.
        (vec![0..DATA, BLOCK..BLOCK + 1], vec![run(0..DATA, 0..2)]),
    ] {
        assert_eq!(blocks().runs(&wanted), Ok(runs), "{wanted:?}");
    }
}

#[test]
fn every_bit_counts() {
    let blocks = blocks();
    for (at, bit) in [(0, 0), (BLOCK - 1, 7), (BLOCK, 3), (DATA - 1, 5)] {
        let mut flipped = data().to_vec();
        flipped[usize::try_from(at).expect("a place")] ^= 1 << bit;
        let found = blocks.check(&(0..DATA), &flipped);
        let block = at / BLOCK * BLOCK;
        let damage = Damage(block..(block + BLOCK).min(DATA));
        assert_eq!(found, Err(damage), "bit {bit} of byte {at}");
    }
    assert_eq!(blocks.check(&(0..DATA), &data()), Ok(()));
}
