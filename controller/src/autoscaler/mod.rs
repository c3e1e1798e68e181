//! The scaling decision: Knative's pod autoscaler (KPA) on the concurrency of requests, as a function of what was
//! recorded and of a passed-in time. `up`, a cluster and a simulator call the same [`Autoscaler::decide`].
//!
//! - [`Autoscaler::record`] takes the average concurrency of one second; sources add up.
//! - [`Autoscaler::wake`] is a request that found nothing: at least the activation scale, at once.
//! - [`Autoscaler::decide`] is called at every tick with the ready replicas and what is outstanding right now.
//!
//! Times are [`Duration`]s since an epoch of the caller's choice on a monotonic clock. No IO and no clock here, nothing
//! of processes or pods.
//!
//! Where it differs from Knative, on purpose: the activator is always in the path, so the scale-to-zero grace period,
//! which covers the time it takes to splice the activator in, has nothing to cover and is left out (the activator seals
//! the last replica instead, which is exact). The retention period counts from the end of an idle stable window. What is
//! outstanding right now always holds one replica, and unknown counts keep the decision as it was.

mod delay;
mod gate;
mod window;

use std::time::Duration;

use pilotlight_manifests::Scaling;

use self::{delay::MaxWindow, gate::IdleGate, window::Buckets};

pub use gate::Gate;

/// How long a new service may hold its initial scale without having reached it.
const INITIAL_SCALE_DEADLINE: Duration = Duration::from_mins(10);

/// The smallest target of one replica, so that no configuration divides by zero.
const SMALLEST_TARGET: f64 = 0.01;

/// What is outstanding at this moment, summed over all reporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A reporter is missing or stale: nobody knows. The decision stays what it was and never goes to zero.
    Unknown,
    /// Requests in flight and waiting.
    Outstanding(u64),
}

/// The result of one decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Replicas that should exist.
    pub desired: u32,
    /// Whether the panic window rules, in which the wish never falls.
    pub panicking: bool,
    /// Average concurrency over the stable window.
    pub stable: f64,
    /// Average concurrency over the panic window.
    pub panic: f64,
    /// What kept the last replica, where the formulas alone said zero.
    pub gate: Gate,
}

/// The autoscaler of one backend.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    policy: Scaling,
    buckets: Buckets,
    panic: Option<Panic>,
    delay: MaxWindow,
    gate: IdleGate,
    initial: Option<Duration>,
    last: Decision,
}

/// An episode of panic.
#[derive(Clone, Copy, Debug)]
struct Panic {
    /// When the load was last past the threshold.
    since: Duration,
    /// The highest wish of the episode.
    most: u32,
}

impl Autoscaler {
    /// Starts deciding for a backend that has `ready` replicas. More than one means that somebody before this process
    /// wanted them: it starts in panic at that number, so that a restart with no memory never scales a loaded backend
    /// down.
    pub fn new(policy: Scaling, now: Duration, ready: u32) -> Self {
        let panic = (ready > 1).then_some(Panic {
            since: now,
            most: ready,
        });
        let desired = clamp(
            policy.initial_scale.max(ready),
            policy.min_replicas,
            policy.max_replicas,
        );
        Self {
            buckets: Buckets::new(policy.stable_window),
            delay: MaxWindow::default(),
            gate: IdleGate::new((desired > 0).then_some(now)),
            initial: Some(now),
            last: Decision {
                desired,
                panicking: panic.is_some(),
                stable: 0.0,
                panic: 0.0,
                gate: Gate::None,
            },
            panic,
            policy,
        }
    }

    /// Goes on for a backend that somebody before this process scaled to `replicas`: they are the wish until the load says
    /// otherwise, panic included as in [`Self::new`], and the initial scale was had long ago.
    pub fn resume(policy: Scaling, now: Duration, replicas: u32) -> Self {
        let (least, most) = (policy.min_replicas, policy.max_replicas);
        let mut resumed = Self::new(policy, now, replicas);
        resumed.initial = None;
        resumed.last.desired = clamp(replicas, least, most);
        resumed.gate = IdleGate::new((replicas > 0).then_some(now));
        resumed
    }

    /// Takes changed options over and keeps what was recorded.
    pub fn set_policy(&mut self, policy: Scaling) {
        self.buckets.set_window(policy.stable_window);
        self.policy = policy;
        self.last.desired = clamp(self.last.desired, self.policy.min_replicas, self.policy.max_replicas);
    }

    /// Adds the average concurrency that one source saw during the second of `time`. A time older than the window is
    /// ignored; so is a value that isn't a positive number.
    pub fn record(&mut self, time: Duration, concurrency: f64) {
        let concurrency = if concurrency.is_finite() {
            concurrency.max(0.0)
        } else {
            0.0
        };
        if concurrency > 0.0 {
            self.gate.touch(time);
        }
        self.buckets.record(time, concurrency);
    }

    /// Notes that a request arrived, however short it was: the idle time starts again.
    pub fn touch(&mut self, time: Duration) {
        self.gate.touch(time);
    }

    /// A request found no replica: at least the activation scale from now on. Idempotent, never lowers. Answers the wish.
    pub fn wake(&mut self, now: Duration) -> u32 {
        self.gate.touch(now);
        let least = clamp(
            self.policy.activation_scale.max(1),
            self.policy.min_replicas,
            self.policy.max_replicas,
        );
        self.last.desired = self.last.desired.max(least);
        self.last.desired
    }

    /// The wish as it stands, without deciding anew.
    pub fn desired(&self) -> u32 {
        self.last.desired
    }

    /// Decides how many replicas there should be, given that `ready` are.
    pub fn decide(&mut self, now: Duration, ready: u32, load: Load) -> Decision {
        let Load::Outstanding(outstanding) = load else {
            self.last.gate = Gate::Unknown;
            return self.last;
        };
        if outstanding > 0 {
            self.gate.touch(now);
        }
        let (stable, panic) = self.averages(now, outstanding);
        let wish = self.wish(now, ready, stable, panic, outstanding > 0);
        let wish = self.delay.record(now, wish, self.policy.scale_down_delay);
        let bounded = clamp(wish, self.floor(now, ready), self.policy.max_replicas);
        let (desired, gate) = self.hold(now, bounded, outstanding);
        self.last = Decision {
            desired,
            panicking: self.panic.is_some(),
            stable,
            panic,
            gate,
        };
        self.last
    }

    /// Stable and panic averages; before the first record what is outstanding stands for both.
    fn averages(&self, now: Duration, outstanding: u64) -> (f64, f64) {
        if self.buckets.is_empty() {
            return (outstanding as f64, outstanding as f64);
        }
        (
            self.buckets.average(now, self.policy.stable_window),
            self.buckets.average(now, self.panic_window()),
        )
    }

    /// The panic window in whole seconds, at least one.
    fn panic_window(&self) -> Duration {
        let seconds = (self.policy.stable_window.as_secs_f64() * self.policy.panic_window).round();
        Duration::from_secs((seconds as u64).max(1))
    }

    /// Concurrency that one replica is meant to have.
    fn target(&self) -> f64 {
        (self.policy.target * self.policy.target_utilization).max(SMALLEST_TARGET)
    }

    /// The formulas: rate limits, activation scale and panic.
    fn wish(&mut self, now: Duration, ready: u32, stable: f64, panic: f64, outstanding: bool) -> u32 {
        let from = f64::from(ready.max(1));
        let most = (self.policy.max_scale_up_rate * from).ceil() as u32;
        let least = (from / self.policy.max_scale_down_rate).floor() as u32;
        let wants_stable = (stable / self.target()).ceil() as u32;
        let wants_panic = (panic / self.target()).ceil() as u32;
        let limited = |wants: u32| {
            let wish = wants.clamp(least, most.max(least));
            let active = wants > 0 || outstanding;
            if active && self.policy.activation_scale > 1 {
                wish.max(self.policy.activation_scale)
            } else {
                wish
            }
        };
        let (by_stable, by_panic) = (limited(wants_stable), limited(wants_panic));
        self.update_panic(now, f64::from(wants_panic) / from >= self.policy.panic_threshold);
        match &mut self.panic {
            None => by_stable,
            Some(panic) => {
                panic.most = panic.most.max(by_stable).max(by_panic);
                panic.most
            }
        }
    }

    /// Panic starts past the threshold and ends a stable window after the load was last past it.
    fn update_panic(&mut self, now: Duration, over: bool) {
        match &mut self.panic {
            None if over => self.panic = Some(Panic { since: now, most: 0 }),
            Some(panic) if over => panic.since = now,
            Some(panic) if panic.since + self.policy.stable_window < now => self.panic = None,
            _ => {}
        }
    }

    /// `minReplicas`, raised to the initial scale until that was reached once or took too long.
    fn floor(&mut self, now: Duration, ready: u32) -> u32 {
        let Some(since) = self.initial else {
            return self.policy.min_replicas;
        };
        if ready >= self.policy.initial_scale || now > since + INITIAL_SCALE_DEADLINE {
            self.initial = None;
        }
        self.policy.min_replicas.max(self.policy.initial_scale)
    }

    /// The scale-to-zero gate: a wish of zero passes only once the service was idle long enough.
    fn hold(&self, now: Duration, wish: u32, outstanding: u64) -> (u32, Gate) {
        if wish > 0 || self.policy.max_replicas == Some(0) {
            return (wish, Gate::None);
        }
        let idle_for = self.policy.stable_window + self.policy.scale_to_zero_retention;
        match self.gate.check(now, outstanding, idle_for) {
            Gate::Open => (0, Gate::Open),
            closed => (1, closed),
        }
    }
}

/// `value` within `least..=most`; `most` wins where they cross.
fn clamp(value: u32, least: u32, most: Option<u32>) -> u32 {
    let raised = value.max(least);
    most.map_or(raised, |most| raised.min(most))
}

#[cfg(test)]
mod tests;
