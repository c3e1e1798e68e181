use std::sync::atomic::{AtomicU64, Ordering};

use axum::{Router, extract::RawQuery, http::StatusCode, routing::get};
use prometheus::Registry;

use super::*;
use crate::keda::{
    scaler::{Directory, Reference},
    state::Config,
};

const BODY: &str = r#"{"shop/app":{"Concurrency":3,"RequestCount":42}}"#;

async fn server(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A refused port: a listener that is gone.
async fn nobody() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn client() -> reqwest::Client {
    // Done once a process; another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Add-on: the status of a look is not checked, only its JSON; a pod that hangs is bounded by the tick.
#[tokio::test]
async fn add_on_a_look_takes_what_is_json_within_its_limit() {
    let good = server(Router::new().route("/queue", get(|| async { (StatusCode::ACCEPTED, BODY) }))).await;
    let text = server(Router::new().route("/queue", get(|| async { "busy" }))).await;
    let hangs = server(Router::new().route("/queue", get(std::future::pending::<&'static str>))).await;
    let listed: Activators = [
        ("good", good),
        ("text", text),
        ("hangs", hangs),
        ("gone", nobody().await),
    ]
    .map(|(pod, address)| (pod.to_owned(), address))
    .into();
    let looks = look(&client(), &listed, Duration::from_millis(250)).await;
    let answered: Vec<&str> = looks
        .iter()
        .filter(|(_, look)| look.is_some())
        .map(|(pod, _)| pod.as_str())
        .collect();
    assert_eq!((answered, looks.len()), (vec!["good"], 4));
}

#[tokio::test]
async fn an_arrival_reaches_the_streams_before_the_next_tick() {
    let asked = Arc::new(AtomicU64::new(0));
    let answered = Arc::clone(&asked);
    let active = move |RawQuery(query): RawQuery| {
        let asked = Arc::clone(&answered);
        async move {
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 => r#"{"sequence":7,"routes":["shop/old"]}"#,
                1 => {
                    assert_eq!(query.as_deref(), Some("since=7&waitSeconds=20"));
                    r#"{"sequence":8,"routes":["shop/app"]}"#
                }
                _ => std::future::pending().await,
            }
        }
    };
    let idle = r#"{"shop/app":{"Concurrency":0,"RequestCount":0}}"#;
    let app = Router::new()
        .route("/queue", get(move || async move { idle }))
        .route("/api/v1/active", get(active));
    let config = Config {
        tick: Duration::from_mins(10),
        hold: Duration::from_mins(1),
        ..Config::default()
    };
    let scaler = Arc::new(Scaler::new(config, &Registry::new()).unwrap());
    scaler.set_directory(Directory {
        inference_services: [("shop/app", 1.0), ("shop/old", 1.0)]
            .map(|(key, target)| (key.to_owned(), target))
            .into(),
        ..Directory::default()
    });
    let listed: Activators = BTreeMap::from([("a".to_owned(), server(app).await)]);
    let (_keep, activators) = watch::channel(Arc::new(listed));
    let end = CancellationToken::new();
    let mut changes = scaler.changes();
    let running = tokio::spawn(run(Arc::clone(&scaler), client(), activators, end.clone()));
    let is_active = |name: &str| {
        let reference = Reference {
            name: String::new(),
            namespace: "shop".to_owned(),
            metadata: [("inferenceService".to_owned(), name.to_owned())].into(),
        };
        scaler.is_active(&reference).is_ok_and(|answer| answer.value)
    };
    while !is_active("app") {
        changes.changed().await.unwrap();
    }
    assert!(!is_active("old"), "what came before the first question is no news");
    end.cancel();
    running.await.unwrap();
}
