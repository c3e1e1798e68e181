//! A stage for the activator: runtimes that do as told, a waker that starts them, and a client. All on loopback.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use pilotlight_activator::{
    Activator, BackendId, Config, Endpoint, EndpointId, EndpointState, Predicate, Probe, Protocol, Purity, Route,
    RouteId, RoutePolicy, WakeError, Waker, WeightedBackend,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub type Body = BoxBody<Bytes, Infallible>;
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// What a fake runtime does with a request.
pub enum Reply {
    Answer(Response<Body>),
    /// Close the connection without a word.
    Reset,
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

pub fn answer(text: impl Into<Bytes>) -> Reply {
    Reply::Answer(Response::new(full(text)))
}

pub fn refuse() -> Reply {
    let response = Response::builder()
        .status(503)
        .header("x-pilotlight-reason", "queue-full")
        .body(full("{\"error\":\"full\"}"));
    Reply::Answer(response.unwrap())
}

/// A handler from an async closure.
pub fn handler<F>(f: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Reply> + Send + 'static,
{
    Arc::new(move |request| Box::pin(f(request)))
}

/// Answers with the request's body.
pub fn echo() -> Handler {
    handler(|request| async move {
        let body = request.into_body().collect().await;
        body.map_or(Reply::Reset, |body| answer(body.to_bytes()))
    })
}

/// One process that serves: aborted when dropped, which resets its connections as a kill does.
pub struct Runtime {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    /// Connections that were ever opened, those of probes included.
    pub connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Runtime {
    pub async fn start(handler: Handler) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), handler)
    }

    /// Probes of `/ready` are answered here and not counted.
    pub fn on(listener: TcpListener, handler: Handler) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(
            listener,
            handler,
            Arc::clone(&requests),
            Arc::clone(&connections),
        ));
        Self {
            address,
            requests,
            connections,
            task,
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// As SIGKILL: all connections break, new ones are refused.
    pub async fn kill(self) {
        self.task.abort();
        self.task.await.unwrap_err();
    }
}

async fn serve(listener: TcpListener, handler: Handler, requests: Arc<AtomicUsize>, accepted: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        accepted.fetch_add(1, Ordering::SeqCst);
        // Closing with unread data or lingering 0 makes a reset, as the kernel does for a killed process.
        stream.set_zero_linger().unwrap();
        stream.set_nodelay(true).unwrap();
        let (handler, requests) = (Arc::clone(&handler), Arc::clone(&requests));
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (handler, requests) = (Arc::clone(&handler), Arc::clone(&requests));
                async move {
                    if request.uri().path() == "/ready" {
                        let ready = Response::builder().header("x-pilotlight-startup", "load=1000000, ready-age=1000");
                        return Ok(ready.body(full("")).unwrap());
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    match handler(request).await {
                        Reply::Answer(response) => Ok(response),
                        Reply::Reset => Err(std::io::Error::other("reset")),
                    }
                }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            server
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

/// Calls a function for each wake.
pub struct FnWaker<F>(pub F, pub AtomicUsize);

impl<F> Waker for FnWaker<F>
where
    F: Fn(BackendId) -> BoxFuture<'static, Result<(), WakeError>> + Send + Sync + 'static,
{
    fn wake(&self, backend: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        (self.0)(backend.clone())
    }
}

type WakeFn = Box<dyn Fn(BackendId) -> BoxFuture<'static, Result<(), WakeError>> + Send + Sync>;

/// An activator that serves, with a client.
pub struct Stage {
    pub activator: Activator,
    pub address: SocketAddr,
    pub waker: Arc<FnWaker<WakeFn>>,
    pub client: Client<HttpConnector, Body>,
    pub shutdown: CancellationToken,
    pub served: Option<JoinHandle<std::io::Result<()>>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

pub fn endpoint(runtime: SocketAddr) -> Endpoint {
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    Endpoint {
        id: EndpointId::new(format!("e{number}")),
        address: runtime,
        protocol: Protocol::H1,
        server_name: None,
        capacity: None,
        initial_capacity: 64,
        probe: Probe::Http("/ready".parse().unwrap()),
        state: EndpointState::Starting,
        started: Instant::now(),
    }
}

pub fn backend() -> BackendId {
    BackendId::new("ns/iris")
}

pub fn route(name: &str, policy: RoutePolicy) -> Route {
    let predicate = Predicate {
        hosts: vec![format!("{name}.ns.example.com")],
        path_prefixes: vec![format!("/serving/ns/{name}")],
        headers: vec![],
        model_name: (policy.purity == Purity::Inference).then(|| name.to_owned()),
        rules: None,
    };
    Route {
        id: RouteId::new(format!("ns/{name}")),
        predicate,
        backends: vec![WeightedBackend {
            backend: BackendId::new(format!("ns/{name}")),
            weight: 100,
        }],
        policy,
    }
}

impl Stage {
    /// One route, `ns/iris`, asleep; waking does nothing but count.
    pub async fn new(policy: RoutePolicy) -> Self {
        Self::with_waker(policy, Config::default(), Box::new(|_| Box::pin(async { Ok(()) }))).await
    }

    pub async fn with_waker(policy: RoutePolicy, config: Config, wake: WakeFn) -> Self {
        let waker = Arc::new(FnWaker(wake, AtomicUsize::new(0)));
        let activator = Activator::new(config, Arc::clone(&waker) as Arc<dyn Waker>);
        activator.set_routes(vec![route("iris", policy.clone())]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = {
            let (activator, shutdown) = (activator.clone(), shutdown.clone());
            tokio::spawn(async move { activator.serve(listener, shutdown).await })
        };
        Self {
            activator,
            address,
            waker,
            client: Client::builder(TokioExecutor::new()).build_http(),
            shutdown,
            served: Some(served),
        }
    }

    /// With one ready runtime.
    pub async fn awake(policy: RoutePolicy, handler: Handler) -> (Self, Runtime) {
        let stage = Self::new(policy).await;
        let runtime = Runtime::start(handler).await;
        stage.set(&[&runtime]);
        stage
            .until("an endpoint is ready", |stage| {
                stage.metric("activator_endpoints", "ready") >= 1.0
            })
            .await;
        (stage, runtime)
    }

    pub fn set(&self, runtimes: &[&Runtime]) {
        let list = runtimes.iter().map(|runtime| endpoint(runtime.address)).collect();
        self.activator.set_endpoints(&backend(), list);
    }

    pub fn wakes(&self) -> usize {
        self.waker.1.load(Ordering::SeqCst)
    }

    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Body> {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri).body(full(body)).unwrap()
    }

    /// Sends in a task of its own, as a client does.
    pub fn send(&self, request: Request<Body>) -> JoinHandle<Result<Answer, String>> {
        let client = self.client.clone();
        tokio::spawn(async move {
            let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        })
    }

    pub fn infer(&self, body: impl Into<Bytes>) -> JoinHandle<Result<Answer, String>> {
        self.send(self.request(Method::POST, "/v1/models/iris:predict", body))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, "")).await.unwrap().unwrap()
    }

    /// In flight and waiting.
    pub fn counts(&self) -> (u64, u64) {
        let counts = self.activator.snapshot().backends[&backend()];
        (counts.in_flight, counts.waiting)
    }

    /// The sum of a metric's series that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = futures_util::FutureExt::now_or_never(self.admin("/metrics")).unwrap().1;
        let series = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label));
        series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// An answer of the admin router.
    pub async fn admin(&self, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(self.activator.admin_router(), request)
            .await
            .unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Waits for something to become true; panics after 10 s.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let poll = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), poll)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn reason(&self) -> &str {
        self.headers
            .get("x-pilotlight-reason")
            .map_or("", |reason| reason.to_str().unwrap())
    }

    pub fn cold(&self) -> &str {
        self.headers
            .get("x-keda-http-cold-start")
            .map_or("", |cold| cold.to_str().unwrap())
    }
}
