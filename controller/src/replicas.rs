//! Which replicas to start, seal, take back and end, as a function of what is seen and of a passed-in time.
//!
//! Rules, in their order:
//! 1. A replica that is sealed and drained is ended, unless the wish grew meanwhile: then it is taken back first.
//! 2. Missing replicas of the wanted revision are started at once; after failures of ones that never became ready only
//!    one at a time and after the pause.
//! 3. A former revision keeps as many replicas as the wanted one lacks ready ones, so that new is ready before old drains.
//! 4. Too many are sealed: starting ones before ready ones, the youngest first.
//!
//! No IO, no clock, nothing of processes.

use pilotlight_activator::EndpointId;
use tokio::time::Instant;

use crate::{backoff::Backoff, platform::Revision};

/// Where a replica is in its life. It moves forward, except from sealed back to ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Exists, not seen ready.
    Starting,
    /// Serves.
    Ready,
    /// Gets no new requests; those that it has go on.
    Sealed {
        /// Whether it had been ready.
        ready: bool,
        /// Whether the last request left it.
        drained: bool,
    },
    /// The platform was told to end it.
    Ending,
}

/// One replica as the reconciler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which one.
    pub id: EndpointId,
    /// What it runs.
    pub revision: Revision,
    /// Where it is in its life.
    pub phase: Phase,
    /// When its start began.
    pub started: Instant,
}

impl Observed {
    /// Counts towards the wish: starting or ready.
    fn active(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Ready)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start so many more replicas of the wanted revision.
    Start(u32),
    /// No new requests for this one.
    Seal(EndpointId),
    /// Take a sealed one back.
    Unseal(EndpointId),
    /// End this one: it is drained.
    Stop(EndpointId),
    /// Nothing to start before this time.
    Wait(Instant),
}

/// What to do so that `desired` replicas of `revision` serve. Applying it and planning again with the new state comes to
/// an end: a state that is as it should be plans nothing (but waits).
pub fn plan(replicas: &[Observed], desired: u32, revision: &Revision, backoff: &Backoff, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    let (wanted, former): (Vec<_>, Vec<_>) = replicas.iter().partition(|replica| replica.revision == *revision);
    let active = wanted.iter().filter(|replica| replica.active()).count() as u32;
    let back = take_back(&wanted, desired.saturating_sub(active), &mut actions);
    start(
        &wanted,
        desired.saturating_sub(active + back),
        backoff,
        now,
        &mut actions,
    );
    let ready = wanted.iter().filter(|replica| replica.phase == Phase::Ready).count() as u32;
    seal_down_to(&wanted, desired, &mut actions);
    seal_down_to(&former, desired.saturating_sub(ready + back), &mut actions);
    for replica in replicas {
        let taken_back = actions.contains(&Action::Unseal(replica.id.clone()));
        if matches!(replica.phase, Phase::Sealed { drained: true, .. }) && !taken_back {
            actions.push(Action::Stop(replica.id.clone()));
        }
    }
    actions
}

/// Takes up to `missing` sealed replicas back that had been ready; answers how many.
fn take_back(wanted: &[&Observed], missing: u32, actions: &mut Vec<Action>) -> u32 {
    let sealed = wanted
        .iter()
        .filter(|replica| matches!(replica.phase, Phase::Sealed { ready: true, .. }));
    let before = actions.len();
    actions.extend(
        sealed
            .take(missing as usize)
            .map(|replica| Action::Unseal(replica.id.clone())),
    );
    (actions.len() - before) as u32
}

/// Starts what is missing, as far as earlier failures let it.
fn start(wanted: &[&Observed], missing: u32, backoff: &Backoff, now: Instant, actions: &mut Vec<Action>) {
    if missing == 0 {
        return;
    }
    if let Some(until) = backoff.blocked(now) {
        actions.push(Action::Wait(until));
        return;
    }
    // After a failure one replica shows whether it works now, before many fail together.
    let starting = wanted.iter().filter(|replica| replica.phase == Phase::Starting).count() as u32;
    let allowed = if backoff.failures() == 0 {
        missing
    } else {
        missing.min(1_u32.saturating_sub(starting))
    };
    if allowed > 0 {
        actions.push(Action::Start(allowed));
    }
}

/// Seals active replicas past `keep`.
fn seal_down_to(replicas: &[&Observed], keep: u32, actions: &mut Vec<Action>) {
    let mut active: Vec<_> = replicas.iter().filter(|replica| replica.active()).collect();
    // What goes last comes first: ready before starting, older before younger.
    active.sort_by_key(|replica| (replica.phase != Phase::Ready, replica.started, replica.id.clone()));
    let excess = active.iter().skip(keep as usize).rev();
    actions.extend(excess.map(|replica| Action::Seal(replica.id.clone())));
}

#[cfg(test)]
mod tests;
