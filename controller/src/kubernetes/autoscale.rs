//! The loop of the autoscaler: counts of all activators in, scales out.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pilotlight_activator::BackendId;
use pilotlight_manifests::kubernetes::{AUTOSCALER_MANAGER, Workload};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    context::{Context, Managed, reference},
    drain::{Order, Outcome, carry_out},
    scaler::{Scaler, Step},
    status::Transition,
};

/// Conditioned writes that may fail.
const TRIES: u32 = 5;
/// After a scale-down that was taken back or failed, the same workload waits so long.
const DOWN_PAUSE: Duration = Duration::from_secs(5);
/// Scale-downs at once: each holds seals and polls the activators.
const MAX_DRAINS: usize = 64;

/// A scale-down that is being carried out, and what came of it.
type Drain = BoxFuture<'static, (Order, Outcome)>;

/// The state of the loop.
struct Autoscale {
    context: Arc<Context>,
    epoch: Instant,
    scalers: HashMap<Workload, Scaler>,
    /// Workloads that drain, or that may not be scaled down before then.
    held: HashMap<Workload, Option<Instant>>,
    drains: FuturesUnordered<Drain>,
    ups: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// Scales until it is dropped.
pub(crate) async fn run(context: Arc<Context>) {
    let mut state = Autoscale {
        epoch: Instant::now(),
        scalers: HashMap::new(),
        held: HashMap::new(),
        drains: FuturesUnordered::new(),
        ups: FuturesUnordered::new(),
        context,
    };
    let ticks = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    };
    let mut snapshots = ticks(state.context.config.snapshot_interval);
    let mut decisions = ticks(state.context.config.decision_interval);
    loop {
        tokio::select! {
            _ = snapshots.tick() => state.snapshot().await,
            _ = decisions.tick() => state.decide(),
            Some((order, outcome)) = state.drains.next() => state.drained(&order, &outcome).await,
            Some(()) = state.ups.next() => {}
        }
    }
}

impl Autoscale {
    fn time(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Asks every activator for its counts and gives each workload its own.
    async fn snapshot(&mut self) {
        let context = &self.context;
        let (holding, all) = context.activator_addresses();
        context
            .counts
            .expect(&context.counts.with_known(holding, &all), Instant::now());
        let ask = |at: SocketAddr| async move { (at, context.activators.snapshot(at).await) };
        let mut asked: FuturesUnordered<_> = all.iter().copied().map(ask).collect();
        let (mut answering, mut silent) = (0, 0);
        while let Some((at, answer)) = asked.next().await {
            match answer {
                Ok(snapshot) => {
                    answering += 1;
                    context.counts.accept(at, snapshot, Instant::now());
                }
                Err(error) => {
                    silent += 1;
                    tracing::debug!(%error, %at, "an activator gave no counts");
                }
            }
        }
        context
            .metrics
            .activators
            .with_label_values(&["answering"])
            .set(answering);
        context.metrics.activators.with_label_values(&["silent"]).set(silent);
        context.counts.finish_round(Instant::now());
        let now = self.time();
        for (workload, scaler) in &mut self.scalers {
            scaler.record(now, self.context.counts.read(&BackendId::new(workload.backend())));
        }
    }

    /// Decides for every workload and begins what follows.
    fn decide(&mut self) {
        let managed = self.context.managed.lock().clone();
        self.scalers.retain(|workload, _| managed.contains_key(workload));
        let now = Instant::now();
        self.held.retain(|_, until| until.is_none_or(|until| until > now));
        for (workload, one) in managed {
            self.decide_one(&workload, &one);
        }
    }

    fn decide_one(&mut self, workload: &Workload, one: &Managed) {
        let Some(reach) = one.reach else {
            self.scalers.remove(workload);
            return;
        };
        let (facts, ready) = {
            let world = self.context.world.lock();
            let Some(facts) = world.deployment(workload).filter(|facts| !facts.deleting).cloned() else {
                return;
            };
            (facts, world.ready(workload))
        };
        let now = self.time();
        let policy = &*one.scaling;
        let scaler = self
            .scalers
            .entry(workload.clone())
            .or_insert_with(|| Scaler::new(policy.clone(), now, facts.replicas));
        scaler.set_policy(policy);
        let reading = self.context.counts.read(&BackendId::new(workload.backend()));
        let (step, _) = scaler.step(now, facts.replicas, ready, reading, reach);
        let result = match step {
            _ if reading.is_none() => "unknown",
            Step::Keep => "keep",
            Step::Up(_) => "up",
            Step::Down(_) => "down",
        };
        self.context.metrics.decisions.with_label_values(&[result]).inc();
        match step {
            Step::Up(to) => self.up(workload, facts.replicas, to),
            Step::Down(to) if !self.held.contains_key(workload) && self.drains.len() < MAX_DRAINS => {
                let pods = self.context.world.lock().pods(workload).cloned().collect();
                self.held.insert(workload.clone(), None);
                let (context, order) = (
                    self.context.clone(),
                    Order {
                        workload: workload.clone(),
                        to,
                        from: facts,
                        pods,
                    },
                );
                self.drains.push(
                    async move {
                        let outcome = carry_out(&context, &order).await;
                        (order, outcome)
                    }
                    .boxed(),
                );
            }
            Step::Down(_) | Step::Keep => {}
        }
    }

    /// More replicas at once, never fewer than somebody else asked for meanwhile.
    fn up(&self, workload: &Workload, from: u32, to: u32) {
        let (context, workload) = (self.context.clone(), workload.clone());
        self.ups.push(
            async move {
                let result = match raise(&context, &workload, to).await {
                    Ok(true) => {
                        tell(&context, &workload, "ScaledUp", format!("from {from} to {to} replicas")).await;
                        "done"
                    }
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(%error, backend = workload.backend(), "not scaled up");
                        "error"
                    }
                };
                context.metrics.scalings.with_label_values(&["up", result]).inc();
            }
            .boxed(),
        );
    }

    async fn drained(&mut self, order: &Order, outcome: &Outcome) {
        let direction = if order.to == 0 { "zero" } else { "down" };
        let (result, pause) = match outcome {
            Outcome::Done => ("done", Duration::from_secs(1)),
            Outcome::TakenBack(why) => {
                tracing::info!(why, backend = order.workload.backend(), "a scale-down was taken back");
                ("taken-back", DOWN_PAUSE)
            }
            Outcome::Failed(error) => {
                tracing::warn!(error, backend = order.workload.backend(), "not scaled down");
                ("error", DOWN_PAUSE)
            }
        };
        self.context
            .metrics
            .scalings
            .with_label_values(&[direction, result])
            .inc();
        // Until the watch shows it, the next decision would still see the former number.
        self.held.insert(order.workload.clone(), Some(Instant::now() + pause));
        if *outcome == Outcome::Done {
            let reason = if order.to == 0 { "ScaledToZero" } else { "ScaledDown" };
            let note = format!("from {} to {} replicas", order.from.replicas, order.to);
            tell(&self.context, &order.workload, reason, note).await;
        }
    }
}

/// Raises the scale; answers whether it was lower before.
async fn raise(context: &Context, workload: &Workload, to: u32) -> kube::Result<bool> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &workload.namespace);
    let name = workload.deployment();
    let mut tries = 0;
    loop {
        let scale = api.get_scale(&name).await?;
        let has = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0).max(0) as u32;
        if has >= to {
            return Ok(false);
        }
        let body = json!({
            "metadata": { "resourceVersion": scale.metadata.resource_version },
            "spec": { "replicas": to },
        });
        let parameters = PatchParams {
            field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let outcome = api.patch_scale(&name, &parameters, &Patch::Merge(body)).await;
        context.metrics.wrote("Scale", outcome.as_ref().map(|_| ()));
        tries += 1;
        match outcome {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

async fn tell(context: &Context, workload: &Workload, reason: &str, note: String) {
    let key = kube::runtime::reflector::ObjectRef::new_with(&workload.name, super::context::inference_services())
        .within(&workload.namespace);
    let Some(object) = context.services.get(&key) else {
        return;
    };
    let what = Transition {
        warning: false,
        reason: reason.to_owned(),
        note,
    };
    context.tell(&reference(&object), &what).await;
}
