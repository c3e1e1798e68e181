//! What replicas do and what it means: ready, slow, silent, dead, drained.

use std::time::Duration;

use futures_util::future::AbortHandle;
use pilotlight_activator::{EndpointId, EndpointState, WakeError, WakeReason};

use super::{Context, ReplicaState, ServiceState};
use crate::{
    backoff::Weight,
    change::{What, Why},
    platform::{Exit, ExitCause, PlatformEvent, Replica},
    replicas::Phase,
};

impl ServiceState {
    /// Ends replicas that had their time to become ready, or to answer again.
    pub(super) fn end_overdue(&mut self, ctx: &mut Context<'_>) {
        self.end_slow_starts(ctx);
        let limit = ctx.config.silence_limit;
        for state in self.replicas.values_mut() {
            let silent = state.silent.is_some_and(|since| ctx.now >= since + limit);
            if silent && state.phase == Phase::Ready {
                state.phase = Phase::Ending;
                let id = &state.replica.endpoint.id;
                ctx.platform.end(&self.backend, id);
                let message = format!("it did not answer for {} s", limit.as_secs());
                ctx.tell(&self.key, What::Died(id.clone(), message));
            }
        }
    }

    fn end_slow_starts(&mut self, ctx: &mut Context<'_>) {
        let limit = ctx.config.start_timeout;
        let slow = |state: &&mut ReplicaState| {
            state.phase == Phase::Starting && ctx.now >= state.replica.endpoint.started + limit
        };
        let slow: Vec<_> = self
            .replicas
            .values_mut()
            .filter(slow)
            .map(|state| {
                state.phase = Phase::Ending;
                state.replica.endpoint.id.clone()
            })
            .collect();
        for id in slow {
            ctx.platform.end(&self.backend, &id);
            let (name, seconds) = (&self.service.name, limit.as_secs());
            let message = format!("{name}: the model was not ready within {seconds} s").into();
            let reason = WakeReason::LoadFailed;
            self.start_failed(ctx, WakeError { reason, message }, Weight::Certain);
        }
    }

    /// The proxy saw a replica ready.
    pub(crate) fn became_ready(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        state.silent = None;
        if std::mem::replace(&mut state.ready, true) {
            return;
        }
        match state.phase {
            Phase::Starting => state.phase = Phase::Ready,
            Phase::Sealed { drained, .. } => state.phase = Phase::Sealed { ready: true, drained },
            Phase::Ready | Phase::Ending => {}
        }
        let took = ctx.now.saturating_duration_since(state.replica.endpoint.started);
        let revision = state.replica.revision.clone();
        ctx.tell(&self.key, What::Ready(id.clone(), took));
        self.proven(ctx, &revision);
        self.reconcile(ctx);
    }

    /// A replica that was ready failed under a request; the proxy asks it whether it is ready again.
    pub(crate) fn became_silent(&mut self, ctx: &Context<'_>, id: &EndpointId) {
        if let Some(state) = self.replicas.get_mut(id) {
            state.silent.get_or_insert(ctx.now);
        }
    }

    /// The platform shows its replicas and tells of those that ended.
    pub(crate) fn platform_event(&mut self, ctx: &mut Context<'_>, event: PlatformEvent) {
        for exit in event.exits {
            self.exited(ctx, exit);
        }
        let had = !self.replicas.is_empty();
        self.take_in(ctx, event.replicas);
        self.declare_endpoints(ctx);
        self.reconcile(ctx);
        if had && self.replicas.is_empty() && self.autoscaler.desired() == 0 {
            ctx.tell(&self.key, What::Asleep);
        }
        self.tell_rolled_over(ctx);
    }

    /// Replaces the list and keeps what is known of each.
    fn take_in(&mut self, ctx: &Context<'_>, replicas: Vec<Replica>) {
        let mut before = std::mem::take(&mut self.replicas);
        for replica in replicas {
            let id = replica.endpoint.id.clone();
            let ending = replica.endpoint.state == EndpointState::Draining;
            let declared_ready = replica.endpoint.state == EndpointState::Ready;
            let mut state = before.remove(&id).unwrap_or_else(|| {
                ctx.metrics.starts.with_label_values(&[&*self.key]).inc();
                let phase = if declared_ready { Phase::Ready } else { Phase::Starting };
                ReplicaState {
                    replica: replica.clone(),
                    phase,
                    ready: declared_ready,
                    silent: None,
                    drain: None,
                }
            });
            state.replica = replica;
            if ending {
                state.phase = Phase::Ending;
            }
            self.replicas.insert(id, state);
        }
        for gone in before.into_values() {
            gone.drain.inspect(AbortHandle::abort);
        }
    }

    fn declare_endpoints(&self, ctx: &Context<'_>) {
        let endpoints = self
            .replicas
            .values()
            .map(|state| state.replica.endpoint.clone())
            .collect();
        ctx.traffic.set_endpoints(&self.backend, endpoints);
    }

    fn exited(&mut self, ctx: &mut Context<'_>, exit: Exit) {
        let state = self.replicas.get(&exit.endpoint);
        let was_ready = state.is_some_and(|state| state.ready);
        let ours = state.is_some_and(|state| state.phase == Phase::Ending);
        let took = state.map_or(Duration::ZERO, |state| ctx.now - state.replica.endpoint.started);
        let wanted = self
            .applied
            .as_ref()
            .is_some_and(|applied| applied.revision == exit.revision);
        let reason = match &exit.cause {
            ExitCause::Ended => "ended",
            ExitCause::Died { .. } if was_ready => "died",
            ExitCause::Died { .. } => "never-ready",
            ExitCause::Refused { .. } => "refused",
        };
        ctx.metrics.exits.with_label_values(&[&*self.key, reason]).inc();
        match exit.cause {
            ExitCause::Ended => {}
            ExitCause::Died { message, by_signal } => {
                ctx.tell(&self.key, What::Died(exit.endpoint, message.clone()));
                // One that had been ready is restarted at once by the next plan; one of a former revision isn't wanted.
                if !was_ready && !ours && wanted {
                    let weight = match by_signal {
                        _ if took > ctx.config.slow_start => Weight::Certain,
                        true => Weight::Signal,
                        false => Weight::Exit,
                    };
                    let message = format!("{}: the model can't be loaded: {message}", self.service.name).into();
                    let reason = WakeReason::LoadFailed;
                    self.start_failed(ctx, WakeError { reason, message }, weight);
                }
            }
            ExitCause::Refused { reason, message } => {
                let message = message.into();
                self.start_failed(ctx, WakeError { reason, message }, Weight::Certain);
            }
        }
    }

    /// A replica never became ready. Past the first failures, requests that wait are told why.
    fn start_failed(&mut self, ctx: &Context<'_>, error: WakeError, weight: Weight) {
        let told = self.backoff.error().cloned();
        self.backoff.failed(&ctx.config.backoff, ctx.now, error, weight);
        let Some(error) = self.backoff.error() else { return };
        if told.as_ref() != Some(error) {
            ctx.tell(&self.key, What::Failing(error.message.to_string()));
        }
        if self.ready_replicas() == 0 {
            ctx.traffic.wake_failed(&self.backend, error.clone());
        }
    }

    /// A sealed replica has nothing in flight. Before the last one goes, the proxy is asked once more whether a request
    /// came meanwhile.
    pub(crate) fn drained(&mut self, ctx: &mut Context<'_>, id: &EndpointId) {
        let Some(state) = self.replicas.get_mut(id) else { return };
        let Phase::Sealed { ready, .. } = state.phase else {
            return;
        };
        state.phase = Phase::Sealed { ready, drained: true };
        if !self.removed && self.autoscaler.desired() == 0 {
            let counts = ctx.traffic.snapshot().backends.get(&self.backend).copied();
            if counts.is_some_and(|counts| counts.in_flight + counts.waiting > 0) {
                self.autoscaler.wake(ctx.time());
                self.tell_scaled(ctx, 0, Why::Wake);
            }
        }
        self.reconcile(ctx);
    }
}
