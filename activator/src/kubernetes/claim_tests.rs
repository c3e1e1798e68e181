//! The races of a claim, with an API server that keeps versions as the real one does and can be told to fail.

use std::collections::{BTreeMap, VecDeque};

use futures_util::FutureExt;
use kube::api::ApiResource;
use parking_lot::Mutex;

use super::*;
use crate::kubernetes::{
    index::Key,
    standby::tests::{parked, pod},
};

/// What the server does with a write before it answers.
enum Fault {
    /// It was done, and the answer is lost.
    Lost,
    /// It was not done.
    Refused(u16),
    /// Somebody else was quicker: the pod got these labels.
    Taken(Value),
}

#[derive(Default)]
struct Server {
    deployment: Value,
    pods: BTreeMap<String, Value>,
    /// For the next writes of pods.
    pod_faults: VecDeque<Fault>,
    /// Who wrote what, in order.
    log: Vec<String>,
    version: u64,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Server>>);

fn merge(into: &mut Value, from: &Value) {
    let (Some(map), Some(more)) = (into.as_object_mut(), from.as_object()) else {
        into.clone_from(from);
        return;
    };
    for (key, value) in more {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert_with(|| json!({})), value);
        }
    }
}

impl Server {
    fn write(version: &mut u64, object: &mut Value, patch: &Value) -> Result<(), Refusal> {
        if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Err(Refusal::new(Some(409), "changed"));
        }
        merge(object, patch);
        *version += 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        Ok(())
    }

    fn seen(&self) -> Seen {
        let deployment: Deployment = serde_json::from_value(self.deployment.clone()).unwrap();
        (known(&deployment), Parking::of(&deployment))
    }
}

impl Claims for Fake {
    fn read(&self, _: &Target) -> BoxFuture<'static, Result<Seen, Refusal>> {
        let seen = self.0.lock().seen();
        async { Ok(seen) }.boxed()
    }

    fn patch(&self, _: &Target, patch: Value) -> BoxFuture<'static, Result<Known, Refusal>> {
        let server = &mut *self.0.lock();
        let raise = patch["spec"]["replicas"].is_number();
        server.log.push(if raise { "raise" } else { "lock" }.to_owned());
        let result = Server::write(&mut server.version, &mut server.deployment, &patch).map(|()| server.seen().0);
        async { result }.boxed()
    }

    fn patch_pod(&self, pod: &StandbyPod, patch: Value) -> BoxFuture<'static, Result<(), Refusal>> {
        let server = &mut *self.0.lock();
        server.log.push(format!("relabel {}", pod.name));
        let object = server.pods.get_mut(&pod.name).unwrap();
        let result = match server.pod_faults.pop_front() {
            Some(Fault::Refused(status)) => Err(Refusal::new(Some(status), "no")),
            Some(Fault::Taken(labels)) => {
                merge(
                    object,
                    &json!({ "metadata": { "resourceVersion": "99", "labels": labels } }),
                );
                Server::write(&mut server.version, object, &patch)
            }
            Some(Fault::Lost) => {
                Server::write(&mut server.version, object, &patch).unwrap();
                Err(Refusal::new(None, "no answer"))
            }
            None => Server::write(&mut server.version, object, &patch),
        };
        async { result }.boxed()
    }

    fn read_pod(&self, pod: &StandbyPod) -> BoxFuture<'static, Result<Pod, Refusal>> {
        let pod = serde_json::from_value(self.0.lock().pods[&pod.name].clone()).unwrap();
        async { Ok(pod) }.boxed()
    }
}

struct Stage {
    server: Fake,
    claimer: Claimer,
}

fn stage(pods: &[&str]) -> Stage {
    let server = Fake::default();
    let standby = Arc::new(StandbyPods::default());
    {
        let mut server = server.0.lock();
        server.deployment = serde_json::to_value(parked(json!({}))).unwrap();
        for (at, name) in pods.iter().enumerate() {
            let key = Key {
                namespace: "shop".to_owned(),
                name: (*name).to_owned(),
            };
            standby.set(&key, Some(pod(name, at as u32)));
            let object = json!({
                "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "3",
                    "labels": { "pilotlight.dev/standby-group": "g" }, "ownerReferences": [] },
                "status": { "podIP": "127.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] },
            });
            server.pods.insert((*name).to_owned(), object);
        }
    }
    let claimer = Claimer {
        claims: Box::new(server.clone()),
        pods: standby,
        assigner: Arc::default(),
        counter: counter(),
    };
    Stage { server, claimer }
}

impl Stage {
    async fn raise(&self, seen: Seen, progress: &mut Progress) -> Result<bool, Refusal> {
        let target = Target::new(ApiResource::erase::<Deployment>(&()), "shop", "iris-predictor");
        let raised = self
            .claimer
            .raise(&BackendId::new("shop/iris"), &target, seen, 1, progress)
            .await?;
        Ok(matches!(raised, Raised::Done(_)))
    }

    fn seen(&self) -> Seen {
        self.server.0.lock().seen()
    }

    fn log(&self) -> Vec<String> {
        self.server.0.lock().log.clone()
    }

    fn counted(&self, result: &str) -> u64 {
        self.claimer.counter.with_label_values(&[result]).get()
    }

    fn backend_of(&self, pod: &str) -> Value {
        self.server.0.lock().pods[pod]["metadata"]["labels"]["pilotlight.dev/backend"].clone()
    }
}

#[tokio::test]
async fn a_claim_locks_relabels_and_raises_in_this_order() {
    let stage = stage(&["a", "b"]);
    assert_eq!(stage.raise(stage.seen(), &mut Progress::default()).await, Ok(true));
    assert_eq!(stage.log(), ["lock", "relabel a", "raise"]);
    let (known, parking) = stage.seen();
    assert_eq!(known.replicas, 1);
    let parking = parking.unwrap();
    assert!(!parking.parked && parking.claiming.is_none());
    assert_eq!(stage.server.0.lock().deployment["spec"]["paused"], false);
    assert_eq!(
        (stage.backend_of("a"), stage.backend_of("b")),
        (json!("iris"), Value::Null)
    );
    assert_eq!(stage.counted("claimed"), 1);
}

#[tokio::test]
async fn of_two_activators_one_claims_and_the_other_leaves_it_to_that() {
    let stage = stage(&["a", "b"]);
    let before = stage.seen();
    // The other one has locked it and goes no further for now.
    let mark = format!("uid-x {}", Timestamp::now());
    let lock = json!({ "metadata": { "resourceVersion": before.0.version,
        "annotations": { ANNOTATION_CLAIMING: mark } } });
    stage
        .server
        .patch(&Target::new(ApiResource::erase::<Deployment>(&()), "", ""), lock)
        .await
        .unwrap();

    let mut progress = Progress::default();
    assert_eq!(
        stage.raise(before, &mut progress).await.unwrap_err().status(),
        Some(409)
    );
    assert_eq!(stage.raise(stage.seen(), &mut progress).await, Ok(false));
    assert_eq!(
        (stage.backend_of("a"), stage.backend_of("b")),
        (Value::Null, Value::Null)
    );
    assert!(
        stage.claimer.pods.take("shop", "g").is_some(),
        "what was not touched is there for others"
    );
}

#[tokio::test]
async fn a_pod_that_another_model_got_is_passed_over_and_one_whose_status_changed_is_not() {
    let stage = stage(&["a", "b"]);
    let faults = [
        Fault::Taken(json!({ "pilotlight.dev/backend": "other" })),
        Fault::Taken(json!({})),
    ];
    stage.server.0.lock().pod_faults.extend(faults);
    assert_eq!(stage.raise(stage.seen(), &mut Progress::default()).await, Ok(true));
    assert_eq!(stage.log(), ["lock", "relabel a", "relabel b", "relabel b", "raise"]);
    assert_eq!(
        (stage.backend_of("a"), stage.backend_of("b")),
        (json!("other"), json!("iris"))
    );
}

#[tokio::test]
async fn without_a_ready_pod_it_is_raised_in_one_write() {
    let stage = stage(&[]);
    assert_eq!(stage.raise(stage.seen(), &mut Progress::default()).await, Ok(true));
    assert_eq!(stage.log(), ["raise"]);
    assert_eq!(stage.server.0.lock().deployment["spec"]["paused"], false);
    assert_eq!(stage.counted("none-ready"), 1);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_not_made_twice() {
    let stage = stage(&["a", "b"]);
    stage.server.0.lock().pod_faults.push_back(Fault::Lost);
    assert_eq!(stage.raise(stage.seen(), &mut Progress::default()).await, Ok(true));
    assert_eq!(
        (stage.backend_of("a"), stage.backend_of("b")),
        (json!("iris"), Value::Null)
    );
}

#[tokio::test]
async fn a_raise_that_failed_after_a_claim_is_repeated_without_another_claim() {
    let stage = stage(&["a", "b"]);
    let mut progress = Progress {
        claimed: true,
        mark: Some("uid-a then".to_owned()),
        unsure: None,
    };
    assert_eq!(stage.raise(stage.seen(), &mut progress).await, Ok(true));
    assert_eq!(stage.log(), ["raise"]);
    assert_eq!(stage.backend_of("b"), Value::Null);
}

#[tokio::test]
async fn pods_that_may_not_be_written_leave_an_ordinary_wake() {
    let stage = stage(&["a"]);
    stage.server.0.lock().pod_faults.push_back(Fault::Refused(403));
    assert_eq!(stage.raise(stage.seen(), &mut Progress::default()).await, Ok(true));
    assert_eq!(stage.log(), ["lock", "relabel a", "raise"]);
    assert_eq!((stage.counted("claimed"), stage.counted("none-ready")), (0, 1));
}
