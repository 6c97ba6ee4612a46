//! What is known of sources that say nothing, and how long whoever asks them waits.

use sheaf_model::Lsn;
use sheaf_pg::Tls;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::super::view::tests::{SYSTEM, beat, look};
use super::*;

/// Pools to a server that takes connections and says nothing.
async fn silent(connections_max: usize) -> (SourcePools, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("sheaf_app");
    let pool = Pool::new(&config, connections_max, &Tls::none());
    let pools = SourcePools {
        app: pool.clone(),
        search: pool,
    };
    (pools, listener)
}

fn written(timeline: u32) -> Look {
    let written = Lsn(100);
    look(Part::Primary { timeline, written }, Some(beat(0, timeline)))
}

#[tokio::test]
async fn a_primary_that_was_never_seen_or_was_left_behind_is_lost_however_often_it_is_looked_at() {
    let (pools, _listener) = silent(4).await;
    let settings = Settings {
        bucket_count: 1,
        signing_key: [0; 32],
        system_id: SYSTEM,
    };
    let catalogues = Arc::new(Catalogues::new(pools.app.clone()));
    let sources = Sources::new(pools.clone(), Arc::new(settings), catalogues);
    sources.add_replica("west", pools);
    let lost = async || {
        let answer = sources.unless_primary_lost(std::future::pending::<()>());
        let waited = timeout(Duration::from_secs(30), answer).await;
        assert_eq!(waited.expect("it is lost within seconds"), None);
    };
    lost().await;
    // One that answers is not.
    assert!(sources.saw_primary(written(1), Instant::now()));
    let answer = sources.unless_primary_lost(std::future::ready(1));
    assert_eq!(answer.await, Some(1));
    // One that a promotion has left behind answers every look, and counts for none.
    sources.newest().saw(2);
    let looks = async {
        loop {
            assert!(!sources.saw_primary(written(1), Instant::now()));
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = lost() => {}
        () = looks => unreachable!("looks go on"),
    }
}

#[tokio::test]
async fn a_replica_that_is_told_to_wait_is_waited_for_no_longer_and_by_half_of_its_connections() {
    let (pools, _listener) = silent(4).await;
    let replica = Replica::new("west", pools);
    let follows = Part::Standby {
        replayed: Some(Lsn(1)),
    };
    let until = Instant::now() + Duration::from_millis(200);
    // Seen all the time.
    replica.saw(look(follows, None), until + Duration::from_secs(60));
    let (one, two, three) = tokio::join!(
        replica.reaches(Lsn(9), until),
        replica.reaches(Lsn(9), until),
        replica.reaches(Lsn(9), until),
    );
    assert!(three.is_none(), "half of its connections wait already");
    for waited in [one, two] {
        assert!(matches!(waited, Some(Ok(false))), "{waited:?}");
    }
    // Once it is lost it is not waited for at all.
    replica.is_removed.store(true, Ordering::Relaxed);
    let far = Instant::now() + Duration::from_secs(600);
    let waited = timeout(Duration::from_secs(30), replica.reaches(Lsn(9), far)).await;
    assert!(matches!(waited, Ok(Some(Ok(false)))), "{waited:?}");
}
