//! A backend without sockets, on a paused clock: what waits, for how long, and where places go.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::*;
use crate::{EndpointState, RoutePolicy, error::Code};

/// Answers each wake with the next of these, then with yes.
#[derive(Default)]
struct MockWaker {
    calls: AtomicUsize,
    answers: Mutex<Vec<Result<(), WakeError>>>,
}

impl Waker for MockWaker {
    fn wake(&self, _: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().pop().unwrap_or(Ok(()));
        Box::pin(async move { answer })
    }
}

struct Fixture {
    backend: Arc<Backend>,
    waker: Arc<MockWaker>,
    policy: RoutePolicy,
    route: RouteId,
}

fn load_failed() -> WakeError {
    WakeError {
        reason: WakeReason::LoadFailed,
        message: "no such operator".into(),
    }
}

fn endpoint(id: &str, capacity: u32) -> Endpoint {
    Endpoint {
        id: EndpointId::new(id),
        // Never connected to: these tests end before forwarding.
        address: ([127, 0, 0, 1], 9).into(),
        protocol: Protocol::H1,
        server_name: None,
        capacity: Some(capacity),
        initial_capacity: capacity,
        probe: http::uri::PathAndQuery::from_static("/").into(),
        state: EndpointState::Ready,
        started: Instant::now(),
    }
}

impl Fixture {
    fn new() -> Self {
        let waker = Arc::new(MockWaker::default());
        let shared = Shared {
            config: Config::default(),
            waker: Arc::clone(&waker) as Arc<dyn Waker>,
            metrics: Metrics::new(),
            events: broadcast::channel(16).0,
            runtime: tokio::runtime::Handle::current(),
            epoch: Instant::now(),
        };
        Self {
            backend: Backend::new(BackendId::new("ns/a"), Arc::new(shared), 1),
            waker,
            policy: RoutePolicy::default(),
            route: RouteId::new("ns/a"),
        }
    }

    fn with_endpoint(capacity: u32) -> Self {
        let fixture = Self::new();
        fixture.backend.set_endpoints(vec![endpoint("1", capacity)]);
        fixture
    }

    fn arrive(&self) -> Arrival {
        self.backend.arrive(Instant::now())
    }

    /// A request that arrives and waits for a place in a task of its own.
    fn request(&self) -> JoinHandle<Result<(Permit, Arrival), Failure>> {
        let mut arrival = self.arrive();
        let (route, policy) = (self.route.clone(), self.policy.clone());
        tokio::spawn(async move { arrival.acquire(&route, &policy).await.map(|permit| (permit, arrival)) })
    }

    async fn forwarded(&self) -> (Permit, Arrival) {
        self.request().await.unwrap().unwrap()
    }

    fn counts(&self) -> (u64, u64) {
        let counts = self.backend.counts();
        (counts.in_flight, counts.waiting)
    }

    fn wakes(&self) -> usize {
        self.waker.calls.load(Ordering::SeqCst)
    }
}

/// Lets every task run as far as it can without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn failure_of(request: JoinHandle<Result<(Permit, Arrival), Failure>>) -> Code {
    request.await.unwrap().err().unwrap().code
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_sleeping_backend_wakes_it_and_is_held_until_an_endpoint_is_ready() {
    let fixture = Fixture::new();
    let request = fixture.request();
    settle().await;
    assert_eq!((fixture.wakes(), fixture.counts()), (1, (0, 1)));
    assert!(!request.is_finished());
    fixture.backend.set_endpoints(vec![endpoint("1", 1)]);
    let (_permit, arrival) = request.await.unwrap().unwrap();
    assert!(arrival.cold);
    assert_eq!(fixture.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_wakes_once() {
    let fixture = Fixture::new();
    let _requests: Vec<_> = (0..100).map(|_| fixture.request()).collect();
    settle().await;
    assert_eq!(fixture.wakes(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_waker_is_asked_again_when_nothing_came_of_its_yes() {
    let fixture = Fixture::new();
    let _request = fixture.request();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(fixture.wakes(), 3);
    fixture.backend.set_endpoints(vec![endpoint("1", 1)]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.wakes(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_busy_backend_is_not_woken_and_its_waiting_requests_are_not_cold() {
    let fixture = Fixture::with_endpoint(1);
    let held = fixture.forwarded().await;
    let request = fixture.request();
    settle().await;
    assert_eq!((fixture.wakes(), fixture.counts()), (0, (1, 1)));
    drop(held);
    assert!(!request.await.unwrap().unwrap().1.cold);
}

#[tokio::test(start_paused = true)]
async fn the_waiting_room_is_bounded_in_number() {
    let mut fixture = Fixture::new();
    fixture.policy.max_waiting = 2;
    let _waiting = [fixture.request(), fixture.request()];
    settle().await;
    assert!(fixture.arrive().check_place(&fixture.policy).is_err());
    assert_eq!(failure_of(fixture.request()).await, Code::WaitingRoomFull);
}

#[tokio::test(start_paused = true)]
async fn the_waiting_room_is_bounded_in_bytes_and_gives_them_back() {
    let mut fixture = Fixture::new();
    fixture.policy.max_waiting_bytes = 100;
    let mut first = fixture.arrive();
    assert_eq!(first.reserve(80, &fixture.policy), Ok(true));
    let mut second = fixture.arrive();
    assert_eq!(
        second.reserve(21, &fixture.policy).unwrap_err().code,
        Code::WaitingRoomFull
    );
    drop(first);
    assert_eq!(second.reserve(21, &fixture.policy), Ok(true));
}

#[tokio::test(start_paused = true)]
async fn past_the_bytes_a_request_that_can_go_on_at_once_is_streamed_instead() {
    let mut fixture = Fixture::with_endpoint(1);
    fixture.policy.max_waiting_bytes = 100;
    assert_eq!(fixture.arrive().reserve(101, &fixture.policy), Ok(false));
}

#[tokio::test(start_paused = true)]
async fn the_waiting_limit_is_over_all_waits_of_a_request() {
    let mut fixture = Fixture::new();
    fixture.policy.wait_timeout = Duration::from_secs(10);
    let began = Instant::now();
    let mut arrival = fixture.arrive();
    arrival.waited = Duration::from_secs(4);
    let failure = arrival.acquire(&fixture.route, &fixture.policy).await.err().unwrap();
    assert_eq!(failure.code, Code::WaitTimeout);
    assert_eq!(began.elapsed().as_secs(), 6);
    drop(arrival);
    assert_eq!(fixture.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place_at_once() {
    let mut fixture = Fixture::new();
    fixture.policy.max_waiting = 1;
    let request = fixture.request();
    settle().await;
    request.abort();
    settle().await;
    assert_eq!(fixture.counts(), (0, 0));
    let _next = fixture.request();
    settle().await;
    assert_eq!(fixture.counts(), (0, 1));
}

/// The place is sent to a request that leaves before it takes it: the next one gets it.
#[tokio::test(start_paused = true)]
async fn a_place_handed_to_a_request_that_just_left_goes_to_the_next() {
    let fixture = Fixture::with_endpoint(1);
    let held = fixture.forwarded().await;
    let mut first = fixture.arrive();
    let mut second = fixture.arrive();
    let mut first_waits = Box::pin(first.acquire(&fixture.route, &fixture.policy));
    let mut second_waits = Box::pin(second.acquire(&fixture.route, &fixture.policy));
    assert!(poll_once(&mut first_waits).is_none());
    assert!(poll_once(&mut second_waits).is_none());
    // The place travels to the first, which never looks at it again.
    drop(held);
    assert!(poll_once(&mut second_waits).is_none());
    drop(first_waits);
    assert!(poll_once(&mut second_waits).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_leaves_with_places_on_the_way_loses_none() {
    let fixture = Fixture::with_endpoint(1);
    let held = fixture.forwarded().await;
    let crowd: Vec<_> = (0..1000).map(|_| fixture.request()).collect();
    let last = fixture.request();
    settle().await;
    drop(held);
    for request in crowd {
        request.abort();
    }
    last.await.unwrap().unwrap();
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    future.now_or_never_by_ref()
}

trait NowOrNever: Future + Unpin {
    fn now_or_never_by_ref(&mut self) -> Option<Self::Output>;
}

impl<F: Future + Unpin> NowOrNever for F {
    fn now_or_never_by_ref(&mut self) -> Option<Self::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(self).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_wake_answers_who_waits_and_health_until_one_succeeds() {
    let fixture = Fixture::new();
    fixture.waker.answers.lock().push(Err(load_failed()));
    assert_eq!(failure_of(fixture.request()).await, Code::Wake(WakeReason::LoadFailed));
    assert_eq!(fixture.backend.readiness(), Readiness::Failed(load_failed()));
    // Each later request asks again: the platform decides how long its reason holds.
    let request = fixture.request();
    settle().await;
    assert_eq!((fixture.wakes(), request.is_finished()), (2, false));
    assert_eq!(fixture.backend.readiness(), Readiness::Asleep);
}

#[tokio::test(start_paused = true)]
async fn a_failure_reported_by_the_platform_answers_who_waits_at_once() {
    let fixture = Fixture::new();
    let request = fixture.request();
    settle().await;
    fixture.backend.wake_failed(&load_failed());
    assert_eq!(failure_of(request).await, Code::Wake(WakeReason::LoadFailed));
    fixture.backend.wake_recovered();
    assert_eq!(fixture.backend.readiness(), Readiness::Asleep);
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_is_a_platform_error() {
    struct Panics;
    impl Waker for Panics {
        fn wake(&self, _: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
            panic!("on purpose")
        }
    }
    let mut fixture = Fixture::new();
    let shared = Shared {
        config: Config::default(),
        waker: Arc::new(Panics),
        metrics: Metrics::new(),
        events: broadcast::channel(16).0,
        runtime: tokio::runtime::Handle::current(),
        epoch: Instant::now(),
    };
    fixture.backend = Backend::new(BackendId::new("ns/a"), Arc::new(shared), 1);
    assert_eq!(
        failure_of(fixture.request()).await,
        Code::Wake(WakeReason::PlatformError)
    );
}

#[tokio::test(start_paused = true)]
async fn a_sealed_endpoint_gets_nothing_new_and_a_request_after_it_wakes() {
    let fixture = Fixture::with_endpoint(4);
    let held = fixture.forwarded().await;
    let pick = fixture.backend.seal(&EndpointId::new("1")).unwrap();
    assert_eq!(fixture.backend.in_flight(pick.key), 1);
    let request = fixture.request();
    settle().await;
    assert_eq!((fixture.wakes(), request.is_finished()), (1, false));
    drop(held);
    settle().await;
    assert!(!request.is_finished(), "a place on a sealed endpoint is nobody's");
    assert!(fixture.backend.unseal(&EndpointId::new("1")));
    request.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_failed_is_not_picked_and_the_backend_is_woken() {
    let fixture = Fixture::with_endpoint(4);
    let mut events = fixture.backend.shared.events.subscribe();
    let (permit, mut arrival) = fixture.forwarded().await;
    arrival.hold_again(0, &fixture.policy).unwrap();
    permit.fail("reset");
    let mut again = Box::pin(arrival.acquire(&fixture.route, &fixture.policy));
    assert!(poll_once(&mut again).is_none());
    settle().await;
    assert_eq!(fixture.wakes(), 1);
    assert!(matches!(events.try_recv(), Ok(Event::EndpointFailed { .. })));
    fixture.backend.set_endpoints(vec![endpoint("2", 1)]);
    let permit = again.await.unwrap();
    assert_eq!(permit.replica().unwrap().id, EndpointId::new("2"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_repeated_before_a_pause_that_grows() {
    let fixture = Fixture::with_endpoint(4);
    let (mut permit, mut arrival) = fixture.forwarded().await;
    for expected in [10, 20, 40] {
        arrival.hold_again(0, &fixture.policy).unwrap();
        permit.release(Outcome::Refused);
        let began = Instant::now();
        permit = arrival.acquire(&fixture.route, &fixture.policy).await.unwrap();
        assert_eq!(began.elapsed().as_millis(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_removed_route_are_told() {
    let fixture = Fixture::new();
    let request = fixture.request();
    settle().await;
    let failure = Failure::new(Code::RouteRemoved, "removed");
    fixture.backend.dismiss(|route| route.as_str() == "ns/other", &failure);
    settle().await;
    assert!(!request.is_finished());
    fixture.backend.dismiss(|route| route.as_str() == "ns/a", &failure);
    assert_eq!(failure_of(request).await, Code::RouteRemoved);
}
