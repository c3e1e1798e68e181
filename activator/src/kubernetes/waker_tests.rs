//! The races of a wake, with an API server that keeps versions as the real one does and can be told to fail.

use std::collections::VecDeque;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ApiResource;

use super::*;
use crate::{Activator, Config, Endpoint, EndpointId, EndpointState, Probe, Protocol};

/// What happens at the API server before it answers a call.
type Before = Box<dyn FnOnce(&mut Object) + Send>;

#[derive(Default)]
struct Object {
    version: u64,
    replicas: i32,
    touched: u32,
    exists: bool,
}

#[derive(Default)]
struct Server {
    object: Object,
    /// Answers to come before it works.
    refusals: VecDeque<Option<u16>>,
    before_write: VecDeque<Before>,
    reads: u32,
    writes: u32,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Server>>);

impl Fake {
    fn new(replicas: i32) -> Self {
        let fake = Self::default();
        fake.0.lock().object = Object {
            version: 1,
            replicas,
            touched: 0,
            exists: true,
        };
        fake
    }

    fn refused(server: &mut Server) -> Result<(), Refusal> {
        let status = match server.refusals.pop_front() {
            Some(status) => status,
            None if server.object.exists => return Ok(()),
            None => Some(404),
        };
        Err(Refusal {
            status,
            message: "no".to_owned(),
        })
    }

    fn known(object: &Object) -> Known {
        Known {
            version: object.version.to_string(),
            replicas: object.replicas,
        }
    }

    fn write(&self, call: impl FnOnce(&mut Object) -> Result<(), Refusal>) -> Result<Known, Refusal> {
        let server = &mut *self.0.lock();
        server.writes += 1;
        if let Some(before) = server.before_write.pop_front() {
            before(&mut server.object);
        }
        Self::refused(server)?;
        call(&mut server.object)?;
        server.object.version += 1;
        Ok(Self::known(&server.object))
    }
}

impl Scales for Fake {
    fn read(&self, _: &Target) -> BoxFuture<'static, Result<Known, Refusal>> {
        let server = &mut *self.0.lock();
        server.reads += 1;
        let answer = Self::refused(server).map(|()| Self::known(&server.object));
        async { answer }.boxed()
    }

    fn raise(&self, _: &Target, known: &Known, replicas: i32) -> BoxFuture<'static, Result<Known, Refusal>> {
        let answer = self.write(|object| {
            if known.version != object.version.to_string() {
                return Err(Refusal {
                    status: Some(409),
                    message: "changed".to_owned(),
                });
            }
            object.replicas = replicas;
            Ok(())
        });
        async { answer }.boxed()
    }

    fn touch(&self, _: &Target) -> BoxFuture<'static, Result<(), Refusal>> {
        let answer = self.write(|object| {
            object.touched += 1;
            Ok(())
        });
        async { answer.map(drop) }.boxed()
    }
}

struct Stage {
    server: Fake,
    waker: ScaleWaker,
    targets: Arc<Targets>,
    seals: Arc<Seals>,
    backend: BackendId,
}

fn target() -> Target {
    Target::new(ApiResource::erase::<Deployment>(&()), "ns", "a-predictor")
}

fn stage(replicas: i32) -> Stage {
    let server = Fake::new(replicas);
    let (targets, seals) = (Arc::new(Targets::default()), Arc::new(Seals::default()));
    let config = ClusterConfig::default();
    let waker = ScaleWaker::new(&config, server.clone(), None, Arc::clone(&targets), Arc::clone(&seals));
    let backend = BackendId::new("ns/a");
    targets.set(&backend, Some(target()));
    Stage {
        server,
        waker,
        targets,
        seals,
        backend,
    }
}

impl Stage {
    async fn wake(&self) -> Result<(), WakeError> {
        self.waker.wake(&self.backend).await
    }

    fn replicas(&self) -> i32 {
        self.server.0.lock().object.replicas
    }

    /// An activator with one sealed pod.
    fn sealed(&self) -> Activator {
        let activator = Activator::new(Config::default(), Arc::new(self.waker.clone()));
        self.seals.bind(&activator);
        let endpoint = Endpoint {
            id: EndpointId::new("p"),
            address: ([127, 0, 0, 1], 1).into(),
            protocol: Protocol::H1,
            server_name: None,
            capacity: None,
            initial_capacity: 1,
            probe: Probe::Declared,
            state: EndpointState::Ready,
            started: Instant::now(),
        };
        let uids = vec![("p".to_owned(), EndpointId::new("p"))];
        self.seals.publish(&self.backend, uids, vec![endpoint]);
        let until = Instant::now() + Duration::from_secs(30);
        self.seals.seal(&self.backend, &["p".to_owned()], until);
        assert!(activator.ready(&self.backend).is_empty());
        activator
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_raises_the_scale_to_the_activation_scale() {
    let stage = stage(0);
    let three = Target {
        activation_scale: 3,
        ..target()
    };
    stage.targets.set(&stage.backend, Some(three));
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_watching_told_saves_a_call_and_does_no_harm_where_it_is_old() {
    let stage = stage(0);
    let known = |version: &str| {
        Some(Known {
            version: version.to_owned(),
            replicas: 0,
        })
    };
    stage.targets.learn(&stage.backend, known("1"));
    stage.wake().await.unwrap();
    assert_eq!((stage.replicas(), stage.server.0.lock().reads), (1, 0));
    stage.server.0.lock().object.replicas = 5;
    stage.targets.learn(&stage.backend, known("1"));
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 5, "an autoscaler raised it meanwhile, and it stays");
}

#[tokio::test(start_paused = true)]
async fn wakes_of_one_backend_at_once_are_one_write() {
    let stage = stage(0);
    let wakes = futures_util::future::join_all((0..100).map(|_| stage.waker.wake(&stage.backend)));
    assert!(wakes.await.into_iter().all(|woken| woken.is_ok()));
    assert_eq!((stage.replicas(), stage.server.0.lock().writes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_does_not_take_the_wake_back() {
    let stage = stage(0);
    drop(stage.waker.wake(&stage.backend));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.replicas(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_in_between_is_read_again() {
    let stage = stage(0);
    for _ in 0..20 {
        let other: Before = Box::new(|object| object.version += 1);
        stage.server.0.lock().before_write.push_back(other);
    }
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 1);
}

/// The controller sealed the last pod, found it drained and is about to scale to zero on the version it decided on.
#[tokio::test(start_paused = true)]
async fn a_wake_between_seal_and_scale_down_makes_the_scale_down_fail_and_takes_the_seal_back() {
    let stage = stage(1);
    let activator = stage.sealed();
    let decided_on = stage.server.0.lock().object.version;
    stage.wake().await.unwrap();
    assert_ne!(
        stage.server.0.lock().object.version,
        decided_on,
        "a patch on the old version is a conflict"
    );
    assert_eq!((stage.replicas(), stage.server.0.lock().object.touched), (1, 1));
    assert_eq!(activator.ready(&stage.backend), [EndpointId::new("p")]);
}

#[tokio::test(start_paused = true)]
async fn a_scale_down_that_comes_first_is_followed_by_a_raise_and_its_pods_stay_sealed() {
    let stage = stage(1);
    let activator = stage.sealed();
    let down: Before = Box::new(|object| {
        object.version += 1;
        object.replicas = 0;
    });
    stage.server.0.lock().before_write.push_back(down);
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 1);
    assert!(activator.ready(&stage.backend).is_empty(), "it is being ended");
}

#[tokio::test(start_paused = true)]
async fn a_wake_with_replicas_enough_writes_nothing() {
    let stage = stage(2);
    stage.wake().await.unwrap();
    assert_eq!((stage.replicas(), stage.server.0.lock().writes), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let stage = stage(0);
    stage.server.0.lock().refusals = VecDeque::from([None, Some(500), Some(429), None]);
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 1);
    stage.server.0.lock().refusals = VecDeque::from(vec![None; 10_000]);
    let began = Instant::now();
    let error = stage.wake().await.unwrap_err();
    assert_eq!(error.reason, WakeReason::PlatformError);
    let patience = ClusterConfig::default().wake_patience;
    assert!(
        (patience..patience + PAUSE_MAX).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_comes_late_is_woken_and_one_that_never_comes_is_told() {
    let stage = stage(0);
    stage.server.0.lock().object.exists = false;
    let wake = stage.waker.wake(&stage.backend);
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.server.0.lock().object.exists = true;
    wake.await.unwrap();
    stage.server.0.lock().object.exists = false;
    stage.targets.learn(&stage.backend, None);
    let error = stage.wake().await.unwrap_err();
    assert_eq!(error.reason, WakeReason::UnknownBackend);
    assert!(
        error.message.contains("Deployment ns/a-predictor does not exist"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_stands_against_a_wake_is_told_without_a_call() {
    let stage = stage(1);
    let failure = error(WakeReason::LoadFailed, "pod p: no");
    let failing = Target {
        failure: Some(failure.clone()),
        ..target()
    };
    stage.targets.set(&stage.backend, Some(failing));
    assert_eq!(stage.wake().await, Err(failure));
    let stopped = Target {
        stopped: Some("the service is stopped".to_owned()),
        ..target()
    };
    stage.targets.set(&stage.backend, Some(stopped));
    assert_eq!(stage.wake().await.unwrap_err().reason, WakeReason::Disabled);
    stage.targets.set(&stage.backend, None);
    assert_eq!(stage.wake().await.unwrap_err().reason, WakeReason::UnknownBackend);
    assert_eq!(stage.server.0.lock().reads, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_replicas_does_not_keep_more_from_being_asked_for() {
    let stage = stage(0);
    let failing = Target {
        failure: Some(error(WakeReason::LoadFailed, "pod p: no")),
        known: Some(Known {
            version: "1".to_owned(),
            replicas: 0,
        }),
        ..target()
    };
    stage.targets.set(&stage.backend, Some(failing));
    stage.wake().await.unwrap();
    assert_eq!(stage.replicas(), 1);
}
