//! Claims a standby pod at a wake: the calls of the API server, in the order that the controller's module `standby` gives the
//! reasons for: lock the Deployment, relabel the pod, raise.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use pilotlight_manifests::kubernetes::{ANNOTATION_CLAIMED_AT, ANNOTATION_CLAIMING, AUTOSCALER_MANAGER, LABEL_BACKEND};
use prometheus::{IntCounterVec, Opts};
use serde_json::{Value, json};

use super::{
    assign::{Assigner, Assignment},
    scale::Known,
    standby::{self, Parking, Plan, StandbyPod, StandbyPods},
    target::Target,
    waker::{Refusal, call},
};
use crate::BackendId;

/// A Deployment as it was read.
pub(crate) type Seen = (Known, Option<Parking>);

/// The seam to the API server.
pub(crate) trait Claims: Send + Sync + 'static {
    /// The Deployment as it is.
    fn read(&self, target: &Target) -> BoxFuture<'static, Result<Seen, Refusal>>;
    /// Writes the Deployment.
    fn patch(&self, target: &Target, patch: Value) -> BoxFuture<'static, Result<Known, Refusal>>;
    /// Writes a pod.
    fn patch_pod(&self, pod: &StandbyPod, patch: Value) -> BoxFuture<'static, Result<(), Refusal>>;
    /// A pod as it is.
    fn read_pod(&self, pod: &StandbyPod) -> BoxFuture<'static, Result<Pod, Refusal>>;
}

/// The API server.
pub(crate) struct KubeClaims {
    pub(crate) client: Client,
    pub(crate) timeout: Duration,
}

impl KubeClaims {
    fn pods(&self, pod: &StandbyPod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    fn deployments(&self, target: &Target) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &target.namespace)
    }
}

/// What a wake writes is the autoscaler's, like every other write of replicas.
fn manager() -> PatchParams {
    PatchParams {
        field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn known(deployment: &Deployment) -> Known {
    Known {
        version: deployment.metadata.resource_version.clone().unwrap_or_default(),
        replicas: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
    }
}

impl Claims for KubeClaims {
    fn read(&self, target: &Target) -> BoxFuture<'static, Result<Seen, Refusal>> {
        let (api, name) = (self.deployments(target), target.name.clone());
        call(self.timeout, async move {
            let deployment = api.get(&name).await?;
            Ok((known(&deployment), Parking::of(&deployment)))
        })
    }

    fn patch(&self, target: &Target, patch: Value) -> BoxFuture<'static, Result<Known, Refusal>> {
        let (api, name) = (self.deployments(target), target.name.clone());
        call(self.timeout, async move {
            let deployment = api.patch(&name, &manager(), &Patch::Merge(patch)).await?;
            Ok(known(&deployment))
        })
    }

    fn patch_pod(&self, pod: &StandbyPod, patch: Value) -> BoxFuture<'static, Result<(), Refusal>> {
        let (api, name) = (self.pods(pod), pod.name.clone());
        call(self.timeout, async move {
            api.patch(&name, &manager(), &Patch::Merge(patch)).await.map(drop)
        })
    }

    fn read_pod(&self, pod: &StandbyPod) -> BoxFuture<'static, Result<Pod, Refusal>> {
        let (api, name) = (self.pods(pod), pod.name.clone());
        call(self.timeout, async move { api.get(&name).await })
    }
}

/// What one wake has done so far, over all its tries.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// A pod was claimed: another is not.
    claimed: bool,
    /// A pod whose relabelling may have worked: the answer did not come.
    unsure: Option<StandbyPod>,
    /// Our mark on the Deployment.
    mark: Option<String>,
}

/// How a raise went.
pub(crate) enum Raised {
    /// It did.
    Done(Known),
    /// Somebody else is about to.
    ByAnother,
}

/// Claims pods.
pub(crate) struct Claimer {
    pub(crate) claims: Box<dyn Claims>,
    pub(crate) pods: Arc<StandbyPods>,
    pub(crate) assigner: Arc<Assigner>,
    /// Wakes of services with a standby group, by what came of it.
    pub(crate) counter: IntCounterVec,
}

/// The counter of claims.
pub(crate) fn counter() -> IntCounterVec {
    let opts = Opts::new(
        "activator_standby_claims_total",
        "Wakes of services with a standby tier: claimed, or why not (none-ready, not-armed, held).",
    );
    IntCounterVec::new(opts, &["result"]).expect("the name is constant and valid")
}

impl Claimer {
    /// Raises a Deployment from zero, with a standby pod where one can be had.
    pub(crate) async fn raise(
        &self,
        backend: &BackendId,
        target: &Target,
        (mut known, parking): Seen,
        replicas: i32,
        progress: &mut Progress,
    ) -> Result<Raised, Refusal> {
        if let (Some(parking), 0) = (&parking, known.replicas) {
            let held = target.held || progress.claimed;
            match standby::plan(parking, held, progress.mark.as_deref(), Timestamp::now()) {
                Plan::Leave => return Ok(Raised::ByAnother),
                Plan::Raise(why) if !progress.claimed => self.count(why),
                Plan::Raise(_) => {}
                Plan::Claim { group, hash } => {
                    known = self
                        .claim(backend, target, known, parking, &group, &hash, progress)
                        .await?;
                }
            }
        }
        let after = self
            .claims
            .patch(target, standby::raising(&known.version, replicas))
            .await?;
        Ok(Raised::Done(after))
    }

    fn count(&self, result: &str) {
        self.counter.with_label_values(&[result]).inc();
    }

    /// Locks the Deployment and relabels a pod; the Deployment as the lock left it. Without a pod nothing is locked.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing, and there is one caller"
    )]
    async fn claim(
        &self,
        backend: &BackendId,
        target: &Target,
        mut known: Known,
        parking: &Parking,
        group: &str,
        hash: &str,
        progress: &mut Progress,
    ) -> Result<Known, Refusal> {
        let mut locked = false;
        loop {
            let next = progress
                .unsure
                .take()
                .or_else(|| self.pods.take(&target.namespace, group));
            let Some(mut pod) = next else {
                self.count("none-ready");
                return Ok(known);
            };
            if !locked {
                let mark = standby::mark(&pod, Timestamp::now());
                let lock = json!({ "metadata": {
                    "resourceVersion": known.version, "annotations": { ANNOTATION_CLAIMING: mark },
                } });
                known = match self.claims.patch(target, lock).await {
                    Ok(known) => known,
                    Err(refusal) => {
                        // Not touched: the next wake may have it.
                        self.pods.give_back(pod);
                        return Err(refusal);
                    }
                };
                progress.mark = Some(mark);
                locked = true;
            }
            if self.relabel(backend, &mut pod, parking, hash, progress).await? {
                progress.claimed = true;
                self.count("claimed");
                tracing::info!(%backend, pod = pod.name, "a standby pod was claimed");
                if let Some(assignment) = Assignment::of(&pod.uid, 0, pod.address, parking.model()) {
                    self.assigner.ensure(backend, assignment);
                }
                return Ok(known);
            }
        }
    }

    /// Makes the pod one of the model's; `false` where it is somebody else's or gone.
    async fn relabel(
        &self,
        backend: &BackendId,
        pod: &mut StandbyPod,
        parking: &Parking,
        hash: &str,
        progress: &mut Progress,
    ) -> Result<bool, Refusal> {
        let own = parking.labels.get(LABEL_BACKEND);
        for _ in 0..3 {
            let patch = standby::relabelling(pod, parking, hash, Timestamp::now());
            let refusal = match self.claims.patch_pod(pod, patch).await {
                Ok(()) => return Ok(true),
                Err(refusal) => refusal,
            };
            match refusal.status() {
                Some(404) => return Ok(false),
                // Its status changed, somebody was quicker, or an earlier try of ours had worked.
                Some(409 | 422) | None => {}
                Some(_) => {
                    tracing::warn!(%backend, pod = pod.name, error = refusal.message(), "a standby pod can't be claimed");
                    return Ok(false);
                }
            }
            let now = match self.claims.read_pod(pod).await {
                Ok(now) => now,
                Err(refusal) if refusal.status() == Some(404) => return Ok(false),
                Err(refusal) => {
                    progress.unsure = Some(pod.clone());
                    return Err(refusal);
                }
            };
            if now.metadata.uid.as_deref() != Some(&pod.uid) {
                return Ok(false);
            }
            let label = now
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(LABEL_BACKEND));
            let annotations = now.metadata.annotations.as_ref();
            let was_claimed = annotations.is_some_and(|all| all.contains_key(ANNOTATION_CLAIMED_AT));
            if was_claimed && label.is_some() && label == own {
                return Ok(true);
            }
            match StandbyPod::of(&now) {
                Some(fresh) => *pod = fresh,
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
