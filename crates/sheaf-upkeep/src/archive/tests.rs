use sheaf_model::Lsn;

use super::*;

fn at(hour: i64) -> Timestamp {
    Timestamp::from_micros(hour * 3_600_000_000).expect("an instant")
}

fn partition(from: i64, to: i64) -> Partition {
    Partition {
        name: format!("p{from}"),
        lower: at(from),
        upper: at(to),
    }
}

fn position(timeline: u32, lsn: u64) -> ChangePosition {
    ChangePosition::before(timeline, Lsn(lsn))
}

fn archive(from: i64, state: ArchiveState, awaited: Option<ChangePosition>) -> Archive {
    Archive {
        partition: partition(from, from + 1),
        state,
        keyframes: 0,
        digest: None,
        awaited,
        closed_at: at(0),
        verified_at: None,
        dropped_at: None,
        failure: None,
    }
}

fn lake(covered: Option<ChangePosition>) -> LakeView {
    LakeView {
        catalog: "sheaf".to_owned(),
        base: Some(position(1, 1)),
        covered,
    }
}

#[test]
fn each_step_waits_for_what_it_needs_of_the_lake_and_for_nothing_else() {
    use ArchiveState::*;
    let (before, there) = (Some(position(1, 9)), Some(position(1, 10)));
    let (after_failover, behind_it) = (Some(position(2, 12)), Some(position(2, 3)));
    for (state, awaited, covered, expected) in [
        (Closed, None, there, Step::Await),
        (Closed, there, before, Step::Wait),
        (Closed, there, None, Step::Wait),
        (Closed, there, there, Step::WriteKeyframes),
        (Closed, there, after_failover, Step::WriteKeyframes),
        // The slot came along from before.
        (Closed, there, behind_it, Step::Wait),
        (Keyframed, None, there, Step::Await),
        (Keyframed, there, before, Step::Wait),
        (Keyframed, there, there, Step::PassBoundary),
        (Keyframed, after_failover, there, Step::Wait),
        (BehindBoundary, None, None, Step::Detach),
        (Detached, None, there, Step::Await),
        (Detached, there, before, Step::Wait),
        (Detached, there, there, Step::Verify),
        (Restored, None, there, Step::Nothing),
    ] {
        let archives = [archive(1, Dropped, None), archive(2, state, awaited)];
        let decided = decide(
            &archives,
            &[partition(5, 6)],
            &lake(covered),
            |_| true,
            at(9),
        );
        assert_eq!(decided, expected, "{state:?} {awaited:?} {covered:?}");
    }
}

#[test]
fn the_oldest_partition_is_closed_once_it_is_due_and_there_is_a_lake_that_follows() {
    let attached = [partition(7, 8), partition(5, 6), partition(6, 7)];
    let dropped = [archive(1, ArchiveState::Dropped, None)];
    let follows = lake(Some(position(1, 10)));
    let is_old = |partition: &Partition| partition.upper <= at(6);
    let closed = decide(&dropped, &attached, &follows, is_old, at(9));
    assert_eq!(closed, Step::Close(partition(5, 6)));
    assert_eq!(
        decide(&dropped, &attached, &lake(None), is_old, at(9)),
        Step::Nothing
    );
    // A younger one that is due waits for the older ones.
    let is_young = |partition: &Partition| partition.upper > at(6);
    assert_eq!(
        decide(&dropped, &attached, &follows, is_young, at(9)),
        Step::Nothing
    );
    assert_eq!(decide(&[], &[], &follows, |_| true, at(9)), Step::Nothing);
}

#[test]
fn what_is_dropped_was_compared_a_moment_ago() {
    for (verified_at, expected) in [
        (Some(at(9)), Step::Drop),
        (Some(at(9).saturating_add_micros(-600_000_000)), Step::Drop),
        (
            Some(at(9).saturating_add_micros(-600_000_001)),
            Step::Verify,
        ),
        (Some(at(2)), Step::Verify),
        (None, Step::Verify),
    ] {
        let verified = Archive {
            verified_at,
            ..archive(2, ArchiveState::Verified, None)
        };
        let decided = decide(&[verified], &[], &lake(None), |_| true, at(9));
        assert_eq!(decided, expected, "{verified_at:?}");
    }
}
