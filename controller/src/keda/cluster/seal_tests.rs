use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// Seals or unseals, and of what.
type Asked = Vec<(&'static str, Vec<String>)>;

/// An activator that knows some pods, and what it was asked.
#[derive(Clone)]
struct Fake {
    known: &'static [(&'static str, u64)],
    asked: Arc<Mutex<Asked>>,
}

impl Fake {
    fn note(&self, what: &'static str, body: &Value) -> Vec<String> {
        let uids: Vec<String> = serde_json::from_value(body["endpoints"].clone()).unwrap();
        self.asked.lock().push((what, uids.clone()));
        uids
    }

    async fn start(known: &'static [(&'static str, u64)]) -> (Self, SocketAddr) {
        let fake = Self {
            known,
            asked: Arc::default(),
        };
        let seal = async |State(fake): State<Fake>, Json(body): Json<Value>| {
            let mut uids = fake.note("seal", &body);
            uids.retain(|uid| uid != ALL);
            uids.extend(fake.known.iter().map(|(uid, _)| (*uid).to_owned()));
            let in_flight = |uid: &String| {
                fake.known
                    .iter()
                    .find(|(known, _)| known == uid)
                    .map_or(0, |(_, many)| *many)
            };
            let endpoints = uids
                .iter()
                .map(|uid| (uid.clone(), json!({ "known": true, "inFlight": in_flight(uid) })));
            Json(json!({ "endpoints": endpoints.collect::<serde_json::Map<_, _>>() }))
        };
        let unseal = async |State(fake): State<Fake>, Json(body): Json<Value>| {
            fake.note("unseal", &body);
            Json(json!({ "endpoints": {} }))
        };
        let app = Router::new()
            .route("/", get(async || ""))
            .route("/api/v1/seal", post(seal))
            .route("/api/v1/unseal", post(unseal))
            .with_state(fake.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        (fake, address)
    }

    fn asked(&self) -> Asked {
        self.asked.lock().clone()
    }
}

fn sealer(addresses: impl IntoIterator<Item = SocketAddr>) -> (Sealer, watch::Sender<Arc<BTreeSet<SocketAddr>>>) {
    let (sender, holding) = watch::channel(Arc::new(addresses.into_iter().collect()));
    (Sealer::new(Activators::new(Duration::from_secs(5)), holding), sender)
}

fn uids(uids: &[&str]) -> Vec<String> {
    uids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_pod_that_one_activator_knows_is_sealed_at_all() {
    let (one, at_one) = Fake::start(&[("p", 0)]).await;
    let (other, at_other) = Fake::start(&[("q", 0)]).await;
    let (sealer, _holding) = sealer([at_one, at_other]);
    let sealed = sealer.seal(&["shop/app@http".to_owned()]).await.unwrap();
    let last = ("seal", uids(&["p", "q", "*"]));
    assert_eq!(one.asked(), [("seal", uids(&["*"])), last.clone()]);
    assert_eq!(other.asked().last(), Some(&last));
    sealer.take_back(&sealed).await;
    assert_eq!(one.asked().last(), Some(&("unseal", uids(&["p", "q"]))));
}

#[tokio::test]
async fn a_request_on_a_pod_takes_every_seal_back() {
    let (idle, at_idle) = Fake::start(&[("p", 0)]).await;
    let (_busy, at_busy) = Fake::start(&[("p", 1)]).await;
    let (sealer, _holding) = sealer([at_idle, at_busy]);
    assert_eq!(sealer.seal(&["shop/app@http".to_owned()]).await, Err("a request came"));
    assert_eq!(idle.asked().last(), Some(&("unseal", uids(&["p"]))));
}

#[tokio::test]
async fn a_silent_activator_takes_every_seal_back() {
    let (fake, address) = Fake::start(&[("p", 0)]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (sealer, _holding) = sealer([address, silent]);
    assert_eq!(
        sealer.seal(&["shop/app@http".to_owned()]).await,
        Err("an activator is silent")
    );
    assert_eq!(fake.asked().last(), Some(&("unseal", uids(&["p"]))));
}

#[tokio::test]
async fn without_activators_nothing_stands_against_zero() {
    let (sealer, _holding) = sealer([]);
    assert!(sealer.seal(&["shop/app@http".to_owned()]).await.is_ok());
}
