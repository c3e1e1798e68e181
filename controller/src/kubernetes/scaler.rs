//! One workload's replicas: the autoscaler's wish, and what is to be done about it. Reads no clock and knows no client.

use std::time::Duration;

use pilotlight_manifests::Scaling;

use crate::{
    autoscaler::{Autoscaler, Decision, Load},
    reports::Reading,
};

/// What is to be done about a workload's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Keep,
    /// More, at once.
    Up(u32),
    /// Fewer, once what is to go has drained.
    Down(u32),
}

/// Who may scale a workload, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// We alone.
    All,
    /// Somebody else's autoscaler works between one and more; the way to zero is ours.
    ToZero,
}

/// The autoscaler of one workload over the replicas that are there.
#[derive(Debug)]
pub(crate) struct Scaler {
    autoscaler: Autoscaler,
    policy: Scaling,
    /// `spec.replicas` as last seen.
    replicas: u32,
    /// Until then nothing is scaled down: what is known of the load is younger than the stable window.
    learning: Duration,
    recorded: u64,
}

impl Scaler {
    /// Takes a workload over that has so many replicas, after a start or a change of leader.
    pub(crate) fn new(policy: Scaling, now: Duration, replicas: u32) -> Self {
        Self {
            autoscaler: Autoscaler::resume(policy.clone(), now, replicas),
            learning: now + policy.stable_window,
            policy,
            replicas,
            recorded: now.as_secs(),
        }
    }

    /// Takes changed options over.
    pub(crate) fn set_policy(&mut self, policy: &Scaling) {
        if *policy != self.policy {
            self.policy = policy.clone();
            self.autoscaler.set_policy(policy.clone());
        }
    }

    /// Takes the counts of the last second in; seconds without are filled with the average over them. Of a workload that sleeps
    /// nothing is kept, as silence of a whole window starts the averages again anyway: thousands of them cost no memory.
    pub(crate) fn record(&mut self, now: Duration, reading: Option<Reading>) {
        let Some(reading) = reading else { return };
        let second = now.as_secs();
        if self.replicas == 0 && reading.arrivals == 0 && reading.outstanding() == 0 && reading.concurrency <= 0.0 {
            self.recorded = self.recorded.max(second);
            return;
        }
        let from = (self.recorded + 1).max(second.saturating_sub(self.policy.stable_window.as_secs()));
        for missed in from..=second {
            self.autoscaler.record(Duration::from_secs(missed), reading.concurrency);
        }
        self.recorded = self.recorded.max(second);
        if reading.arrivals > 0 || reading.outstanding() > 0 {
            self.autoscaler.touch(now);
        }
    }

    /// Decides, given the replicas that are asked for, those that are ready, and the counts.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        replicas: u32,
        ready: u32,
        reading: Option<Reading>,
        reach: Reach,
    ) -> (Step, Decision) {
        if self.replicas == 0 && replicas > 0 {
            // An activator woke it, or somebody by hand: idle time begins now.
            self.autoscaler.wake(now);
        }
        self.replicas = replicas;
        let load = reading.map_or(Load::Unknown, |reading| Load::Outstanding(reading.outstanding()));
        // Where the steps between are another's, the bound on how far one goes down at once would never let zero be reached.
        let ready = if reach == Reach::ToZero { ready.min(1) } else { ready };
        let decision = self.autoscaler.decide(now, ready, load);
        let step = self.towards(decision.desired, now, load);
        (within(step, reach), decision)
    }

    fn towards(&self, desired: u32, now: Duration, load: Load) -> Step {
        // Stopped by the user: not a matter of load.
        let stopped = self.policy.max_replicas == Some(0);
        match desired.cmp(&self.replicas) {
            std::cmp::Ordering::Greater => Step::Up(desired),
            std::cmp::Ordering::Less if stopped => Step::Down(desired),
            std::cmp::Ordering::Less if load != Load::Unknown && now >= self.learning => Step::Down(desired),
            _ => Step::Keep,
        }
    }
}

fn within(step: Step, reach: Reach) -> Step {
    match (reach, step) {
        (Reach::All, step) => step,
        (Reach::ToZero, Step::Down(0)) => Step::Down(0),
        (Reach::ToZero, _) => Step::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Scaling {
        Scaling {
            min_replicas: 0,
            initial_scale: 0,
            target: 10.0,
            target_utilization: 1.0,
            ..Scaling::default()
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn load(concurrency: u64) -> Option<Reading> {
        Some(Reading {
            in_flight: concurrency,
            concurrency: concurrency as f64,
            ..Reading::default()
        })
    }

    /// Steps every two seconds from `from` to `to` and answers the last step.
    fn run(scaler: &mut Scaler, from: u64, to: u64, replicas: u32, reading: Option<Reading>) -> Step {
        let mut last = Step::Keep;
        for second in from..=to {
            scaler.record(at(second), reading);
            if second.is_multiple_of(2) {
                last = scaler.step(at(second), replicas, replicas, reading, Reach::All).0;
            }
        }
        last
    }

    #[test]
    fn load_scales_up_at_once_and_silence_to_zero_after_the_window() {
        let mut scaler = Scaler::new(policy(), at(0), 1);
        assert_eq!(run(&mut scaler, 1, 8, 1, load(50)), Step::Up(5));
        assert_eq!(run(&mut scaler, 9, 20, 5, load(0)), Step::Keep);
        // By half at most at once.
        assert_eq!(run(&mut scaler, 21, 200, 5, load(0)), Step::Down(2));
        assert_eq!(run(&mut scaler, 201, 204, 2, load(0)), Step::Down(1));
        assert_eq!(run(&mut scaler, 205, 208, 1, load(0)), Step::Down(0));
    }

    #[test]
    fn a_restart_scales_nothing_down_within_the_first_stable_window() {
        let mut scaler = Scaler::new(policy(), at(1000), 4);
        for second in (1002..1060).step_by(2) {
            scaler.record(at(second), load(0));
            assert_eq!(
                scaler.step(at(second), 4, 4, load(0), Reach::All).0,
                Step::Keep,
                "{second}"
            );
        }
        assert!(matches!(run(&mut scaler, 1060, 1200, 4, load(0)), Step::Down(_)));
    }

    #[test]
    fn unknown_counts_scale_nothing_down() {
        let mut scaler = Scaler::new(policy(), at(0), 3);
        assert_eq!(run(&mut scaler, 1, 300, 3, None), Step::Keep);
    }

    #[test]
    fn a_wake_by_an_activator_is_kept_for_the_idle_time() {
        let mut scaler = Scaler::new(policy(), at(0), 0);
        assert_eq!(run(&mut scaler, 1, 200, 0, load(0)), Step::Keep);
        assert_eq!(run(&mut scaler, 201, 258, 1, load(0)), Step::Keep);
        assert_eq!(run(&mut scaler, 259, 270, 1, load(0)), Step::Down(0));
    }

    #[test]
    fn a_stopped_service_goes_to_zero_whatever_is_known() {
        let mut stopped = policy();
        stopped.max_replicas = Some(0);
        let mut scaler = Scaler::new(policy(), at(0), 2);
        scaler.set_policy(&stopped);
        assert_eq!(scaler.step(at(2), 2, 2, None, Reach::All).0, Step::Down(0));
    }

    #[test]
    fn beside_another_autoscaler_an_idle_workload_goes_to_zero_from_any_number() {
        let mut scaler = Scaler::new(policy(), at(0), 4);
        let mut steps = Vec::new();
        for second in (2..=200).step_by(2) {
            scaler.record(at(second), load(0));
            steps.push(scaler.step(at(second), 4, 4, load(0), Reach::ToZero).0);
        }
        assert_eq!(steps[0], Step::Keep);
        assert_eq!(steps.last(), Some(&Step::Down(0)));
    }

    #[test]
    fn beside_another_autoscaler_only_the_way_to_zero_is_ours() {
        assert_eq!(within(Step::Up(3), Reach::ToZero), Step::Keep);
        assert_eq!(within(Step::Down(2), Reach::ToZero), Step::Keep);
        assert_eq!(within(Step::Down(0), Reach::ToZero), Step::Down(0));
    }
}
