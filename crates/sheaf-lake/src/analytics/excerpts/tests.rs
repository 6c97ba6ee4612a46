use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("an instant")
}

fn span(from: i64, to: i64, newest_first: bool) -> Span {
    Span {
        from: at(from),
        to: at(to),
        newest_first,
    }
}

fn part(micros: i64) -> Part {
    let row = StoredRow {
        observed_at: at(micros),
        seq: 0,
        op: sheaf_model::Op::Patch,
        attrs: Attrs::default(),
    };
    let event = HistoryRow {
        row,
        batch: BatchId(Uuid::nil()),
        ingested_at: at(0),
    };
    (EntityId(1), event)
}

/// Takes so many parts of each of these instants, again and again, as attribute follows attribute in a file.
fn excerpt(span: Span, instants: &[i64], rounds: usize) -> (Excerpt, bool) {
    let subject = Subject {
        tenant: 1,
        entities: vec![1],
        attributes: None,
        with_requests: false,
    };
    let mut excerpting = Excerpting::new(&subject, span);
    for _ in 0..rounds {
        for micros in instants {
            if !excerpting.is_all && !excerpting.span.holds(at(*micros)) {
                continue;
            }
            excerpting.parts.push(part(*micros));
            if excerpting.is_long() {
                excerpting.shorten().expect("no more than it may");
            }
        }
    }
    excerpting.finish()
}

#[test]
fn a_long_excerpt_has_its_first_instants_whole_and_none_beyond_its_cut() {
    let instants: Vec<i64> = (0..1_000).collect();
    for newest_first in [false, true] {
        let asked = span(100, 900, newest_first);
        let (found, is_all) = excerpt(asked, &instants, 100);
        assert!(!is_all);
        assert!(found.parts.len() <= PARTS_MAX);
        let cut = found.cut.expect("it is too long");
        let left = asked.until(cut);
        for micros in instants.iter().map(|micros| at(*micros)) {
            let of_instant = found
                .parts
                .iter()
                .filter(|(_, event)| event.row.observed_at == micros);
            let wanted = if left.holds(micros) { 100 } else { 0 };
            assert_eq!(of_instant.count(), wanted, "{micros} before {cut}");
        }
        assert!(left.holds(at(if newest_first { 899 } else { 100 })));
    }
}

#[test]
fn what_is_not_asked_for_is_left_out_before_anything_is_cut() {
    let instants: Vec<i64> = (0..1_000).collect();
    let (found, is_all) = excerpt(span(0, 10, false), &instants, 100);
    assert!(!is_all);
    assert_eq!((found.parts.len(), found.cut), (1_000, None));
    let (found, is_all) = excerpt(span(0, 10, false), &instants, 2);
    assert!(is_all, "little is remembered whole");
    assert_eq!(found.parts.len(), 2_000);
    let (found, _) = excerpt(span(0, 1_000, true), &[7], PARTS_MAX * 2);
    assert_eq!((found.parts.len(), found.cut), (PARTS_MAX * 2, None));
}
