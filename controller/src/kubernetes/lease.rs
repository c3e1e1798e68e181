//! Which of several controllers acts: the holder of a Lease, as client-go's leader election has it.
//!
//! [`Candidate`] decides and reads no clock: expiry is judged by how long the record stood still before this process' eyes, so
//! that clocks of different machines need not agree. [`lead`] carries it out.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::config::LeaseConfig;

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Somebody else holds it.
    Wait,
    /// There is none: create it.
    Create,
    /// It is free or its holder is gone: take it.
    Take,
    /// It is ours: renew it.
    Renew,
}

/// One process that would lead.
#[derive(Debug)]
pub(crate) struct Candidate {
    identity: String,
    seen: Option<(String, Option<MicroTime>, Instant)>,
}

impl Candidate {
    pub(crate) fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            seen: None,
        }
    }

    /// What follows from the record as it is now.
    pub(crate) fn step(&mut self, record: Option<&LeaseSpec>, now: Instant) -> Step {
        let Some(record) = record else { return Step::Create };
        let holder = record.holder_identity.clone().unwrap_or_default();
        if holder == self.identity {
            return Step::Renew;
        }
        if holder.is_empty() {
            return Step::Take;
        }
        let moved = self
            .seen
            .as_ref()
            .is_none_or(|(seen, renewed, _)| *seen != holder || *renewed != record.renew_time);
        if moved {
            self.seen = Some((holder, record.renew_time.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(.., since)| *since);
        let duration = Duration::from_secs(u64::try_from(record.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
        if now >= since + duration {
            Step::Take
        } else {
            Step::Wait
        }
    }

    /// The record after a step that writes.
    fn record(&self, before: Option<&LeaseSpec>, config: &LeaseConfig) -> LeaseSpec {
        let time = MicroTime(Timestamp::now());
        let holder = before.and_then(|before| before.holder_identity.as_deref());
        let again = holder == Some(self.identity.as_str());
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(config.duration.as_secs() as i32),
            acquire_time: before
                .filter(|_| again)
                .map_or(Some(time.clone()), |before| before.acquire_time.clone()),
            renew_time: Some(time),
            lease_transitions: Some(transitions + i32::from(before.is_some() && !again)),
            ..LeaseSpec::default()
        }
    }
}

/// The Lease of one candidate.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    candidate: Candidate,
    config: LeaseConfig,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, identity: &str, config: LeaseConfig) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            candidate: Candidate::new(identity),
            config,
        }
    }

    /// Resolves when this process leads. Never fails: an API server that is away is asked again.
    pub(crate) async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease can't be had"),
            }
            sleep(self.config.retry).await;
        }
    }

    /// Renews until it can't any more; then this process must not act any longer.
    pub(crate) async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.config.retry).await;
            match timeout(self.config.renew_deadline, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed"),
                Err(_) => tracing::warn!("the lease was not renewed in time"),
            }
            if renewed.elapsed() >= self.config.renew_deadline {
                return;
            }
        }
    }

    /// Gives the Lease up, so that another need not wait for its end.
    pub(crate) async fn release(&mut self) {
        let Ok(Some(lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.candidate.identity) {
            return;
        }
        let body = serde_json::json!({
            "metadata": { "resourceVersion": lease.metadata.resource_version },
            "spec": { "holderIdentity": "", "leaseDurationSeconds": 1 },
        });
        if let Err(error) = self
            .api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(body))
            .await
        {
            tracing::debug!(%error, "the lease was not given up");
        }
    }

    /// One look at the record and what follows from it; whether this process leads now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let lease = self.api.get_opt(&self.name).await?;
        let record = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let step = self.candidate.step(record, Instant::now());
        let spec = Some(self.candidate.record(record, &self.config));
        let outcome = match (step, lease) {
            (Step::Wait, _) => return Ok(false),
            (Step::Create, _) | (_, None) => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                self.api.create(&PostParams::default(), &Lease { metadata, spec }).await
            }
            // With the resourceVersion that was read: of two that take it at once one fails.
            (Step::Take | Step::Renew, Some(lease)) => {
                let lease = Lease { spec, ..lease };
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_renews_is_left_alone_and_one_that_stands_still_is_replaced() {
        let mut me = Candidate::new("me");
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(me.step(None, start), Step::Create);
        assert_eq!(me.step(Some(&record("other", 1)), start), Step::Wait);
        assert_eq!(me.step(Some(&record("other", 11)), start + 10 * second), Step::Wait);
        assert_eq!(me.step(Some(&record("other", 11)), start + 20 * second), Step::Wait);
        assert_eq!(me.step(Some(&record("other", 11)), start + 25 * second), Step::Take);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_given_up_is_taken_at_once_and_ours_is_renewed() {
        let mut me = Candidate::new("me");
        assert_eq!(me.step(Some(&record("", 1)), Instant::now()), Step::Take);
        assert_eq!(me.step(Some(&record("me", 1)), Instant::now()), Step::Renew);
        let config = LeaseConfig::default();
        assert_eq!(me.record(Some(&record("other", 1)), &config).lease_transitions, Some(1));
        assert_eq!(me.record(Some(&record("me", 1)), &config).lease_transitions, Some(0));
    }
}
