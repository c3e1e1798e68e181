//! The loop against a platform and a proxy that do what they are told, on a paused clock.

mod models;
mod random;

use std::{fs, path::Path, path::PathBuf};

use futures_util::{FutureExt, future::BoxFuture};
use pilotlight_activator::{BackendId, EndpointId, WakeReason, Waker};
use pilotlight_manifests::{Service, Storage};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{run::Run, *};
use crate::{
    check::Verdict,
    metrics::Metrics,
    status::{ServiceStatus, reason},
    testing::{MockPlatform, MockTraffic, service},
    wake::{WakeHandle, channel},
};

/// Takes a file that begins with `broken` for a broken model.
struct ContentCheck;

impl Check for ContentCheck {
    fn check(&self, path: &Path, _: &str) -> BoxFuture<'static, Verdict> {
        let path = path.to_owned();
        async move {
            match fs::read_to_string(&path) {
                Ok(text) if text.starts_with("broken") => Err("operator Foo is not supported".to_owned()),
                _ => Ok(Duration::from_millis(5)),
            }
        }
        .boxed()
    }
}

struct World {
    platform: Arc<MockPlatform>,
    traffic: Arc<MockTraffic>,
    wakes: WakeHandle,
    shared: Shared,
    declared: watch::Sender<Arc<Declared>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    directory: TempDir,
    id: BackendId,
}

impl World {
    /// A running loop that serves one service, `default/iris`, with a model file.
    async fn with(change: impl FnOnce(&mut Service)) -> Self {
        Self::configured(Config::default(), change).await
    }

    async fn configured(config: Config, change: impl FnOnce(&mut Service)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (wakes, end) = channel();
        let (platform, traffic) = (Arc::new(MockPlatform::default()), Arc::new(MockTraffic::new()));
        let shared = Shared {
            config: Arc::new(config),
            traffic: traffic.clone(),
            platform: platform.clone(),
            source: SourceHandle::detached(),
            status: watch::Sender::new(Arc::default()),
            changes: broadcast::Sender::new(1000),
            metrics: Metrics::new(&Registry::new()).unwrap(),
            ending: CancellationToken::new(),
        };
        let declared = watch::Sender::new(Arc::<Declared>::default());
        let mut run = Run::new(shared.clone(), Some(Arc::new(ContentCheck)), declared.subscribe());
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move {
            run.until(token, end).await;
            run.stop().await;
        });
        let id = BackendId::new("default/iris");
        let world = Self {
            platform,
            traffic,
            wakes,
            shared,
            declared,
            shutdown,
            task,
            directory,
            id,
        };
        world.write_model("v1");
        world.declare(change);
        world.settle().await;
        world
    }

    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    fn model(&self) -> PathBuf {
        self.directory.path().join("iris.onnx")
    }

    fn write_model(&self, content: &str) {
        fs::write(self.model(), content).unwrap();
    }

    fn declare(&self, change: impl FnOnce(&mut Service)) {
        let mut service = service("iris");
        service.storage = Storage::Local(self.model());
        change(&mut service);
        self.publish(vec![service]);
    }

    fn publish(&self, services: Vec<Service>) {
        let services = services
            .into_iter()
            .map(|service| (service.key().into(), Arc::new(service)))
            .collect();
        let generation = self.declared.borrow().generation + 1;
        self.declared.send_replace(Arc::new(Declared {
            generation,
            services,
            ..Declared::default()
        }));
    }

    /// Lets everything happen that needs no time to speak of.
    async fn settle(&self) {
        sleep(Duration::from_millis(30)).await;
    }

    async fn seconds(&self, seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    async fn wake(&self) -> Result<(), pilotlight_activator::WakeError> {
        let result = self.wakes.wake(&self.id).await;
        self.settle().await;
        result
    }

    fn running(&self) -> Vec<EndpointId> {
        self.platform
            .running(&self.id)
            .into_iter()
            .map(|replica| replica.endpoint.id)
            .collect()
    }

    /// Every running replica answers its probe.
    async fn all_ready(&self) -> Vec<EndpointId> {
        let running = self.running();
        for endpoint in &running {
            self.traffic.tell_ready(&self.id, endpoint);
        }
        self.settle().await;
        running
    }

    /// Awake with one ready replica and no requests.
    async fn awake(&self) -> EndpointId {
        self.wake().await.unwrap();
        self.all_ready().await.remove(0)
    }

    fn status(&self) -> ServiceStatus {
        self.shared
            .status
            .borrow()
            .services
            .get("default/iris")
            .cloned()
            .expect("the service is declared")
    }
}

#[tokio::test(start_paused = true)]
async fn a_declared_service_is_routed_and_asleep() {
    let world = World::new().await;
    assert_eq!(world.traffic.routes()[0].id.as_str(), "default/iris");
    assert!(world.running().is_empty());
    let status = world.status();
    assert!(status.ready, "{status:?}");
    assert_eq!(status.url, "http://127.0.0.1:8080/serving/default/iris");
}

#[tokio::test(start_paused = true)]
async fn a_wake_starts_a_replica_without_waiting_for_a_tick() {
    let world = World::new().await;
    let before = Instant::now();
    world.wakes.wake(&world.id).await.unwrap();
    assert_eq!(world.platform.starts(&world.id), [before]);
    world.settle().await;
    assert_eq!(world.traffic.endpoints(&world.id).len(), 1);
    assert_eq!(world.status().replicas.starting, 1);
}

#[tokio::test(start_paused = true)]
async fn wakes_are_idempotent_and_mean_the_activation_scale() {
    let world = World::with(|service| service.scaling.activation_scale = 3).await;
    for _ in 0..5 {
        world.wake().await.unwrap();
    }
    assert_eq!(world.platform.starts(&world.id).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_service_goes_to_zero_after_its_window_and_wakes_again() {
    let world = World::new().await;
    world.awake().await;
    world.traffic.load(&world.id, 1, 0);
    world.seconds(10).await;
    world.traffic.load(&world.id, 0, 0);
    world.seconds(59).await;
    assert_eq!(world.running().len(), 1);
    world.seconds(5).await;
    assert!(world.running().is_empty());
    assert!(world.status().ready, "asleep is ready");
    world.wake().await.unwrap();
    assert_eq!(world.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_a_request_in_flight_is_never_ended() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    world.seconds(100).await;
    assert_eq!(world.traffic.sealed(), std::slice::from_ref(&replica));
    assert_eq!(world.running(), std::slice::from_ref(&replica));
    world.traffic.busy(&replica, false);
    world.settle().await;
    assert!(world.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wake_while_the_last_replica_drains_takes_it_back() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    world.seconds(100).await;
    world.wake().await.unwrap();
    assert_eq!(world.traffic.unsealed(), std::slice::from_ref(&replica));
    world.traffic.busy(&replica, false);
    world.settle().await;
    assert_eq!(world.running(), [replica]);
    assert_eq!(world.platform.starts(&world.id).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_when_the_last_replica_is_drained_takes_it_back() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    world.seconds(100).await;
    world.traffic.load(&world.id, 0, 1);
    world.traffic.busy(&replica, false);
    world.settle().await;
    assert_eq!(world.traffic.unsealed(), std::slice::from_ref(&replica));
    assert_eq!(world.running(), [replica]);
}

#[tokio::test(start_paused = true)]
async fn unknown_counts_block_scale_to_zero() {
    let world = World::new().await;
    world.awake().await;
    world.traffic.silence(true);
    world.seconds(1000).await;
    assert_eq!(world.running().len(), 1);
    world.traffic.silence(false);
    world.seconds(65).await;
    assert!(world.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn load_scales_up_and_its_end_scales_down_again() {
    let world = World::with(|service| {
        service.scaling.target = 10.0;
        service.scaling.max_replicas = Some(4);
    })
    .await;
    world.awake().await;
    world.traffic.load(&world.id, 100, 0);
    world.seconds(10).await;
    assert_eq!(world.running().len(), 4);
    world.all_ready().await;
    world.traffic.load(&world.id, 1, 0);
    world.seconds(200).await;
    assert_eq!(world.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_ready_and_died_is_restarted_at_once() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.load(&world.id, 1, 0);
    for round in 2..5 {
        let running = world.all_ready().await;
        let now = Instant::now();
        world.platform.kill(&world.id, &running[0]);
        world.settle().await;
        assert_ne!(world.running(), std::slice::from_ref(&replica));
        let starts = world.platform.starts(&world.id);
        assert_eq!((starts.len(), starts.last()), (round, Some(&now)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_never_becomes_ready_backs_off_and_clients_are_told_why() {
    let world = World::new().await;
    world
        .platform
        .break_starts(&world.id, Some("no such file: weights.bin"));
    let begin = Instant::now();
    world.wake().await.unwrap();
    assert_eq!(world.traffic.failed(), []);
    sleep(Duration::from_millis(100)).await;
    let (backend, error) = world.traffic.failed().remove(0);
    assert_eq!((backend, error.reason), (world.id.clone(), WakeReason::LoadFailed));
    assert_eq!(
        &*error.message,
        "iris: the model can't be loaded: no such file: weights.bin"
    );
    assert_eq!(world.wake().await.unwrap_err(), error);
    assert_eq!(world.status().reason, Some(reason::LOAD_FAILED));
    world.seconds(10).await;
    let starts: Vec<_> = world
        .platform
        .starts(&world.id)
        .iter()
        .map(|at| (*at - begin).as_millis())
        .collect();
    assert_eq!(starts, [0, 100, 300, 700, 1500, 3100, 6300]);
    world.platform.break_starts(&world.id, None);
    world.seconds(3).await;
    world.all_ready().await;
    assert_eq!(world.wake().await, Ok(()));
    assert!(world.status().ready);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_at_its_start_is_ended_and_reported() {
    let world = World::new().await;
    world.wake().await.unwrap();
    world.traffic.load(&world.id, 0, 1);
    let replica = world.running().remove(0);
    world.seconds(303).await;
    assert!(!world.running().contains(&replica));
    let (_, error) = world.traffic.failed().remove(0);
    assert_eq!(&*error.message, "iris: the model was not ready within 300 s");
}

#[tokio::test(start_paused = true)]
async fn changed_scaling_takes_effect_without_a_new_revision() {
    let world = World::new().await;
    let replica = world.awake().await;
    let revision = world.status().revision;
    world.declare(|service| service.scaling.min_replicas = 2);
    world.settle().await;
    let running = world.all_ready().await;
    assert_eq!(running.len(), 2);
    assert!(running.contains(&replica));
    assert_eq!(world.status().revision, revision);
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_minimum_is_started_at_once() {
    let world = World::with(|service| {
        service.scaling.min_replicas = 2;
        service.scaling.initial_scale = 2;
    })
    .await;
    assert_eq!(world.running().len(), 2);
    assert_eq!(world.status().reason, Some(reason::STARTING));
    world.all_ready().await;
    assert!(world.status().ready);
    world.seconds(500).await;
    assert_eq!(world.running().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_removed_service_drains_and_is_forgotten() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    world.publish(Vec::new());
    world.settle().await;
    assert!(world.traffic.routes().is_empty());
    assert_eq!(world.running(), std::slice::from_ref(&replica), "its request goes on");
    assert_eq!(world.wake().await.unwrap_err().reason, WakeReason::UnknownBackend);
    world.traffic.busy(&replica, false);
    world.settle().await;
    assert!(world.running().is_empty());
    assert!(world.shared.status.borrow().services.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_declared_again_while_it_drains_keeps_its_replica() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    world.publish(Vec::new());
    world.settle().await;
    world.declare(|_| {});
    world.settle().await;
    assert_eq!(world.traffic.unsealed(), std::slice::from_ref(&replica));
    assert_eq!(world.running(), [replica]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_service_refuses_to_wake() {
    let world = World::with(|service| service.scaling.max_replicas = Some(0)).await;
    assert_eq!(world.wake().await.unwrap_err().reason, WakeReason::Disabled);
    assert_eq!(world.status().reason, Some(reason::STOPPED));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_backend_is_a_typed_error() {
    let world = World::new().await;
    let error = world.wakes.wake(&BackendId::new("default/nobody")).await.unwrap_err();
    assert_eq!(error.reason, WakeReason::UnknownBackend);
}

#[tokio::test(start_paused = true)]
async fn a_wake_before_the_model_was_read_is_carried_out_when_it_is() {
    let world = World::new().await;
    let (other, mut all) = (BackendId::new("default/late"), service("late"));
    all.storage = Storage::Local(world.model());
    world.publish(vec![all]);
    tokio::task::yield_now().await;
    let wake = world.wakes.wake(&other);
    world.settle().await;
    assert_eq!(wake.await, Ok(()));
    assert_eq!(world.platform.running(&other).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_requests_in_flight_but_not_for_ever() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.busy(&replica, true);
    let begin = Instant::now();
    world.shutdown.cancel();
    world.task.await.unwrap();
    assert_eq!((Instant::now() - begin).as_secs(), 10);
    assert!(world.platform.running(&world.id).is_empty());
    let error = world.wakes.wake(&world.id).await.unwrap_err();
    assert_eq!(error.reason, WakeReason::PlatformError);
}

#[tokio::test(start_paused = true)]
async fn a_ready_replica_that_stays_silent_is_replaced() {
    let world = World::new().await;
    let replica = world.awake().await;
    world.traffic.load(&world.id, 0, 1);
    world.traffic.tell_failed(&world.id, &replica);
    world.seconds(20).await;
    world.traffic.tell_ready(&world.id, &replica);
    world.seconds(20).await;
    assert_eq!(
        world.running(),
        std::slice::from_ref(&replica),
        "it answered again in time"
    );
    world.traffic.tell_failed(&world.id, &replica);
    world.seconds(33).await;
    assert_ne!(world.running(), std::slice::from_ref(&replica));
    assert_eq!(world.running().len(), 1);
}
