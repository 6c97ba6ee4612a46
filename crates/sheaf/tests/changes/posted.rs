//! Changes are posted to the URLs of the settings.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use sheaf_testkit::{TestCluster, wait_until};

use crate::support::{Configured, WITHIN, database_in, write_one};

/// Takes every body, with the value of one of its headers.
async fn receiver() -> Result<(u16, Arc<Mutex<Vec<(String, String)>>>)> {
    let came = Arc::<Mutex<Vec<(String, String)>>>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let taken = Arc::clone(&came);
    let take = move |headers: axum::http::HeaderMap, body: String| {
        let from = headers.get("x-from").and_then(|value| value.to_str().ok());
        let from = from.unwrap_or_default().to_owned();
        taken.lock().expect("not poisoned").push((from, body));
        std::future::ready(axum::http::StatusCode::NO_CONTENT)
    };
    let router = axum::Router::new().route("/in", axum::routing::post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((port, came))
}

#[tokio::test]
async fn changes_are_posted_where_the_settings_say_and_nowhere_else() -> Result<()> {
    const SECRET: &str = "hunter2";
    let database = database_in(&TestCluster::private().await?).await?;
    let (port, came) = receiver().await?;
    let configured = Configured::new("posted", &database)?;
    let headers = configured.dir.path().join("headers");
    let sections = format!(
        "[changes.http.good]\nurl = \"http://127.0.0.1:{port}/in\"\nheaders_file = {headers:?}\nallow = [\"127.0.0.1\"]\n\
         [changes.http.inside]\nurl = \"https://localhost:{port}/in\"\nheaders_file = {headers:?}\n"
    );
    configured.write(&sections)?;
    std::fs::write(&headers, format!("{SECRET}\n"))?;
    let refused = configured.sheaf(&["serve"])?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && !told.contains(SECRET),
        "{told}"
    );
    let place = "reading changes.http.good: headers: line 1 is no header of the form Name: value";
    assert!(told.contains(place), "{told}");

    std::fs::write(&headers, format!("X-From: {SECRET}\n"))?;
    let (process, client) = configured.serve().await?;
    let client = configured.key(&client)?;
    write_one(&client).await?;
    wait_until("the event was posted", WITHIN, async || {
        let came = came.lock().expect("not poisoned");
        came.iter().any(|(_, body)| body.contains("one"))
    })
    .await;
    let refused = "is this machine, which is called only where the settings allow it";
    wait_until("the other one is refused", WITHIN, async || {
        process.output().contains(refused)
    })
    .await;
    let came = came.lock().expect("not poisoned").clone();
    assert!(came.iter().all(|(from, _)| from == SECRET), "{came:?}");
    assert!(came[0].1.contains(r#""op":"t""#), "{came:?}");
    assert!(!process.output().contains(SECRET), "{}", process.output());
    configured.require_doctor("change sink http.good", "ok", "holds")?;
    Ok(())
}
