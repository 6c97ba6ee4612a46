use super::*;

pub(in crate::upkeep) const LIMITS: WorkLimits = WorkLimits {
    corrections_age_max: Duration::from_secs(60),
    corrections_max: 2000,
    repairs_every: Duration::from_secs(5),
    retain_every: Duration::from_secs(3600),
    join_commits: 8,
    sweep_every: Duration::from_secs(3600),
};

const NOTHING: Needs = Needs {
    is_following: true,
    waiting: 0,
    waited: Duration::ZERO,
    is_in_round: false,
    since_repairs: Duration::ZERO,
    since_retention: Some(Duration::ZERO),
    commits: 0,
    has_joined: false,
    since_sweep: Duration::ZERO,
    since_failure: None,
    last: None,
};

#[test]
fn what_waited_long_enough_is_due_and_one_thing_does_not_keep_another_from_its_turn() {
    let old = Duration::from_secs(60);
    let young = Duration::from_secs(59);
    let waits = Needs {
        waiting: 101,
        waited: old,
        ..NOTHING
    };
    let all = Needs {
        since_repairs: Duration::from_secs(5),
        since_retention: None,
        commits: 8,
        since_sweep: Duration::from_secs(3600),
        ..waits
    };
    for (claim, needs, wanted) in [
        ("nothing", NOTHING, None),
        ("waits long enough", waits, Some(Work::Correct)),
        (
            "not yet",
            Needs {
                waited: young,
                ..waits
            },
            None,
        ),
        (
            "few wait",
            Needs {
                waited: Duration::from_secs(5),
                waiting: 100,
                ..waits
            },
            Some(Work::Correct),
        ),
        (
            "few wait, and not yet",
            Needs {
                waited: Duration::from_secs(4),
                waiting: 100,
                ..waits
            },
            None,
        ),
        (
            "many wait",
            Needs {
                waited: young,
                waiting: 200,
                ..waits
            },
            Some(Work::Correct),
        ),
        (
            "the rest of a round",
            Needs {
                waited: young,
                is_in_round: true,
                ..waits
            },
            Some(Work::Correct),
        ),
        (
            "the round has ended",
            Needs {
                is_in_round: true,
                ..NOTHING
            },
            None,
        ),
        (
            "the snapshot goes on",
            Needs {
                is_following: false,
                ..waits
            },
            None,
        ),
        (
            "few commits",
            Needs {
                commits: 7,
                ..NOTHING
            },
            None,
        ),
        (
            "many commits",
            Needs {
                commits: 8,
                ..NOTHING
            },
            Some(Work::Join),
        ),
        (
            "there may be more",
            Needs {
                has_joined: true,
                ..NOTHING
            },
            Some(Work::Join),
        ),
        (
            "an hour",
            Needs {
                since_sweep: Duration::from_secs(3600),
                ..NOTHING
            },
            Some(Work::Sweep),
        ),
        ("everything", all, Some(Work::Correct)),
        (
            "everything, after one",
            Needs {
                last: Some(Work::Correct),
                ..all
            },
            Some(Work::Repair),
        ),
        (
            "everything, after that",
            Needs {
                last: Some(Work::Repair),
                ..all
            },
            Some(Work::Retain),
        ),
        (
            "everything, after that too",
            Needs {
                last: Some(Work::Retain),
                ..all
            },
            Some(Work::Join),
        ),
        (
            "an hour since facts were taken out",
            Needs {
                since_retention: Some(Duration::from_secs(3600)),
                ..NOTHING
            },
            Some(Work::Retain),
        ),
        (
            "the same while the snapshot goes on",
            Needs {
                is_following: false,
                since_retention: None,
                ..NOTHING
            },
            None,
        ),
        (
            "repairs while the snapshot goes on",
            Needs {
                is_following: false,
                since_repairs: Duration::from_secs(5),
                ..NOTHING
            },
            None,
        ),
        (
            "everything, after another",
            Needs {
                last: Some(Work::Join),
                ..all
            },
            Some(Work::Sweep),
        ),
        (
            "everything, after the third",
            Needs {
                last: Some(Work::Sweep),
                ..all
            },
            Some(Work::Correct),
        ),
        (
            "the same again",
            Needs {
                last: Some(Work::Correct),
                ..waits
            },
            Some(Work::Correct),
        ),
        (
            "just failed",
            Needs {
                since_failure: Some(Duration::from_secs(29)),
                ..all
            },
            None,
        ),
        (
            "failed a while ago",
            Needs {
                since_failure: Some(Duration::from_secs(30)),
                ..all
            },
            Some(Work::Correct),
        ),
    ] {
        assert_eq!(due(&needs, &LIMITS), wanted, "{claim}");
    }
}
