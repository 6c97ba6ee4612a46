use sheaf_store::retention::RetentionBoundary;

use super::due::tests::LIMITS;
use super::*;

#[test]
fn what_is_older_is_looked_for_until_there_is_no_more_and_again_when_more_comes() {
    let boundaries = |before| {
        Boundaries::new(&[RetentionBoundary {
            tenant: 1,
            attribute: None,
            before,
        }])
    };
    let mut upkeep = Upkeep::new(LIMITS);
    assert_eq!(upkeep.begin_retaining(&Boundaries::default()), None);
    assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(0));
    upkeep.retain_from = 7;
    assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(7));
    upkeep.end_retaining();
    assert_eq!(upkeep.begin_retaining(&boundaries(10)), None);
    upkeep.came(10);
    assert_eq!(upkeep.begin_retaining(&boundaries(10)), None);
    upkeep.came(9);
    assert_eq!(upkeep.begin_retaining(&boundaries(10)), Some(0));
    upkeep.end_retaining();
    assert_eq!(upkeep.begin_retaining(&boundaries(11)), Some(0));
    upkeep.end_retaining();
    upkeep.abandon();
    assert_eq!(upkeep.begin_retaining(&boundaries(11)), Some(0));
}

#[tokio::test]
async fn after_a_failure_it_goes_on_after_what_failed() {
    let mut upkeep = Upkeep::new(LIMITS);
    let until = CorrectionKey {
        seq: 3,
        ..CorrectionKey::FIRST
    };
    let failing = tokio::spawn(async { Err(LakeError::NotAsked) });
    upkeep.begin(Work::Correct, until, Stop::default(), failing);
    upkeep.wait().await;
    assert!(upkeep.take().await.is_none());
    assert_eq!(upkeep.corrected_until(), until);
    assert_eq!(upkeep.due(true, None), None, "not at once");
    upkeep.end_round();
    assert_eq!(upkeep.corrected_until(), CorrectionKey::FIRST);
}
