use proptest::prelude::*;

use super::*;
use crate::testing::scaling;

const SECOND: Duration = Duration::from_secs(1);

fn at(second: u64) -> Duration {
    SECOND * second as u32
}

/// Loads the autoscaler evenly and decides at the end.
fn steady(policy: Scaling, seconds: u64, concurrency: f64, ready: u32) -> Decision {
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    for second in 0..seconds {
        autoscaler.record(at(second), concurrency);
    }
    autoscaler.decide(at(seconds - 1), ready, Load::Outstanding(concurrency.ceil() as u64))
}

#[test]
fn the_golden_series_of_the_published_formulas() {
    let policy = Scaling {
        target: 10.0,
        ..scaling()
    };
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    for row in include_str!("../../tests/golden/kpa.csv").lines().skip(1) {
        let fields: Vec<f64> = row.split(',').map(|field| field.parse().unwrap()).collect();
        let &[second, concurrency, ready, desired, panicking, stable, panic] = fields.as_slice() else {
            panic!("seven fields in {row}")
        };
        let now = at(second as u64);
        autoscaler.record(now, concurrency);
        let decision = autoscaler.decide(now, ready as u32, Load::Outstanding(concurrency.ceil() as u64));
        let found = (decision.desired, decision.panicking, decision.stable, decision.panic);
        assert_eq!(found, (desired as u32, panicking == 1.0, stable, panic), "{row}");
    }
}

#[test]
fn a_wake_wants_the_activation_scale_at_once_and_keeps_it_while_something_waits() {
    let policy = Scaling {
        activation_scale: 3,
        ..scaling()
    };
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    autoscaler.record(at(1), 0.0);
    assert_eq!(autoscaler.decide(at(1), 0, Load::Outstanding(0)).desired, 0);
    assert_eq!(autoscaler.wake(at(2)), 3);
    assert_eq!(autoscaler.wake(at(2)), 3);
    assert_eq!(autoscaler.decide(at(2), 0, Load::Outstanding(1)).desired, 3);
}

#[test]
fn a_wake_holds_a_replica_for_the_whole_window_though_the_counts_say_nothing_yet() {
    let mut autoscaler = Autoscaler::new(scaling(), Duration::ZERO, 0);
    autoscaler.record(at(9), 0.0);
    autoscaler.wake(at(10));
    assert_eq!(autoscaler.decide(at(11), 0, Load::Outstanding(0)).desired, 1);
    assert_eq!(
        autoscaler.decide(at(69), 1, Load::Outstanding(0)).gate,
        Gate::Until(at(70))
    );
    assert_eq!(autoscaler.decide(at(70), 1, Load::Outstanding(0)).desired, 0);
}

#[test]
fn the_last_replica_goes_after_the_window_and_the_retention() {
    let policy = Scaling {
        scale_to_zero_retention: SECOND * 30,
        ..scaling()
    };
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    autoscaler.record(at(100), 5.0);
    let mut zero_at = None;
    for second in 101..300 {
        autoscaler.record(at(second), 0.0);
        if autoscaler.decide(at(second), 1, Load::Outstanding(0)).desired == 0 {
            zero_at = zero_at.or(Some(second));
        }
    }
    assert_eq!(zero_at, Some(190));
}

#[test]
fn a_request_too_short_to_be_seen_in_the_average_still_counts_as_life() {
    let mut autoscaler = Autoscaler::new(scaling(), Duration::ZERO, 0);
    autoscaler.wake(at(0));
    for second in 1..60 {
        autoscaler.record(at(second), 0.0);
    }
    autoscaler.touch(at(59));
    autoscaler.record(at(60), 0.0);
    assert_eq!(autoscaler.decide(at(60), 1, Load::Outstanding(0)).desired, 1);
}

#[test]
fn unknown_counts_keep_the_decision() {
    let mut autoscaler = Autoscaler::new(scaling(), Duration::ZERO, 0);
    autoscaler.wake(at(0));
    let decision = autoscaler.decide(at(10_000), 1, Load::Unknown);
    assert_eq!((decision.desired, decision.gate), (1, Gate::Unknown));
}

#[test]
fn a_restart_with_replicas_starts_in_panic_and_keeps_them_for_a_window() {
    let mut autoscaler = Autoscaler::new(scaling(), Duration::ZERO, 7);
    assert_eq!(autoscaler.desired(), 7);
    autoscaler.record(at(1), 1.0);
    assert_eq!(autoscaler.decide(at(1), 7, Load::Outstanding(1)).desired, 7);
    autoscaler.record(at(61), 1.0);
    assert_eq!(autoscaler.decide(at(61), 7, Load::Outstanding(1)).desired, 3);
}

#[test]
fn the_initial_scale_holds_until_it_was_reached() {
    let policy = Scaling {
        initial_scale: 3,
        ..scaling()
    };
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    assert_eq!(autoscaler.desired(), 3);
    autoscaler.record(at(2), 0.0);
    assert_eq!(autoscaler.decide(at(2), 1, Load::Outstanding(0)).desired, 3);
    assert_eq!(autoscaler.decide(at(4), 3, Load::Outstanding(0)).desired, 3);
    assert_eq!(autoscaler.decide(at(6), 3, Load::Outstanding(0)).desired, 1);
}

#[test]
fn a_lower_wish_has_to_last_the_scale_down_delay() {
    let policy = Scaling {
        scale_down_delay: SECOND * 30,
        target: 1.0,
        target_utilization: 1.0,
        ..scaling()
    };
    let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
    autoscaler.initial = None;
    for second in 0..200 {
        autoscaler.record(at(second), if second < 100 { 4.0 } else { 1.0 });
        let desired = autoscaler.decide(at(second), 4, Load::Outstanding(1)).desired;
        // The stable average falls to 3 at 119 s, so that the wish of 4 was last there at 118 s.
        assert_eq!(desired == 4, second < 148, "second {second}: {desired}");
    }
}

#[test]
fn the_minimum_and_maximum_bound_the_wish() {
    let bounded = Scaling {
        min_replicas: 2,
        max_replicas: Some(3),
        initial_scale: 2,
        ..scaling()
    };
    assert_eq!(steady(bounded.clone(), 60, 0.0, 2).desired, 2);
    assert_eq!(steady(bounded, 60, 10_000.0, 2).desired, 3);
}

#[test]
fn a_stopped_service_gets_nothing_whatever_waits() {
    let stopped = Scaling {
        max_replicas: Some(0),
        ..scaling()
    };
    assert_eq!(steady(stopped, 60, 50.0, 0).desired, 0);
}

fn policies() -> impl Strategy<Value = Scaling> {
    let bounds = (0_u32..4, proptest::option::of(4_u32..20), 1_u32..4, 0_u32..4);
    let rates = (1.1_f64..1000.0, 1.1_f64..10.0, 1.1_f64..10.0, 0.02_f64..1.0);
    let times = (6_u64..120, 0_u64..30, 0_u64..30);
    (bounds, rates, times, 0.01_f64..200.0).prop_map(|((min, max, activation, initial), rates, times, target)| {
        Scaling {
            min_replicas: min,
            max_replicas: max,
            activation_scale: activation,
            initial_scale: initial,
            max_scale_up_rate: rates.0,
            max_scale_down_rate: rates.1,
            panic_threshold: rates.2,
            panic_window: rates.3,
            stable_window: at(times.0),
            scale_down_delay: at(times.1),
            scale_to_zero_retention: at(times.2),
            target,
            ..scaling()
        }
    })
}

/// Seconds of (concurrency, ready, whether all reporters are known).
fn series() -> impl Strategy<Value = Vec<(f64, u32, bool)>> {
    let load = prop_oneof![3 => Just(0.0), 3 => 0.0_f64..50.0, 1 => 0.0_f64..5000.0];
    proptest::collection::vec((load, 0_u32..30, proptest::bool::weighted(0.9)), 1..200)
}

proptest! {
    #[test]
    fn the_wish_stays_within_its_bounds(policy in policies(), series in series()) {
        let mut autoscaler = Autoscaler::new(policy.clone(), Duration::ZERO, 0);
        for (second, (load, ready, known)) in series.into_iter().enumerate() {
            let now = at(second as u64);
            autoscaler.record(now, load);
            let load = if known { Load::Outstanding(load.ceil() as u64) } else { Load::Unknown };
            let desired = autoscaler.decide(now, ready, load).desired;
            prop_assert!(policy.max_replicas.is_none_or(|most| desired <= most));
            prop_assert!(desired >= policy.min_replicas.min(policy.max_replicas.unwrap_or(u32::MAX)));
        }
    }

    #[test]
    fn zero_is_never_reached_with_anything_outstanding_or_unknown_or_before_the_idle_time(
        policy in policies(), series in series(),
    ) {
        let mut autoscaler = Autoscaler::new(policy.clone(), Duration::ZERO, 0);
        let mut active: Option<Duration> = None;
        for (second, (load, ready, known)) in series.into_iter().enumerate() {
            let (now, before) = (at(second as u64), autoscaler.desired());
            autoscaler.record(now, load);
            if load > 0.0 {
                active = Some(now);
            }
            let outstanding = load.ceil() as u64;
            let load = if known { Load::Outstanding(outstanding) } else { Load::Unknown };
            let desired = autoscaler.decide(now, ready, load).desired;
            if desired == 0 {
                prop_assert!(!known || outstanding == 0);
                prop_assert!(known || before == 0);
                let idle = policy.stable_window + policy.scale_to_zero_retention;
                prop_assert!(!known || active.is_none_or(|active| now >= active + idle));
            }
        }
    }

    #[test]
    fn the_wish_never_falls_in_panic(policy in policies(), series in series()) {
        let mut autoscaler = Autoscaler::new(policy, Duration::ZERO, 0);
        let mut before: Option<Decision> = None;
        for (second, (load, ready, _)) in series.into_iter().enumerate() {
            let now = at(second as u64);
            autoscaler.record(now, load);
            let decision = autoscaler.decide(now, ready, Load::Outstanding(load.ceil() as u64));
            if let Some(before) = before.filter(|before| before.panicking && decision.panicking) {
                // The initial scale is a floor that goes away once it was reached.
                prop_assert!(decision.desired >= before.desired || autoscaler.initial.is_none());
                prop_assert!(autoscaler.panic.is_some_and(|panic| panic.most <= decision.desired
                    || autoscaler.policy.max_replicas == Some(decision.desired)));
            }
            before = Some(decision);
        }
    }

    #[test]
    fn the_wish_moves_no_further_than_the_rates_allow(
        ready in 1_u32..100, load in 0.0_f64..100_000.0, up in 1.1_f64..20.0, down in 1.1_f64..20.0,
    ) {
        let policy = Scaling { max_scale_up_rate: up, max_scale_down_rate: down, ..scaling() };
        let desired = steady(policy, 60, load, ready).desired;
        prop_assert!(f64::from(desired) <= (up * f64::from(ready)).ceil());
        prop_assert!(f64::from(desired) >= (f64::from(ready) / down).floor());
    }

    #[test]
    fn more_load_never_wants_less(policy in policies(), ready in 0_u32..30, low in 0.0_f64..5000.0, more in 0.0_f64..5000.0) {
        let few = steady(policy.clone(), 90, low, ready).desired;
        let many = steady(policy, 90, low + more, ready).desired;
        prop_assert!(few <= many);
    }
}

#[test]
fn a_restart_neither_repeats_the_initial_scale_nor_forgets_what_runs() {
    let policy = Scaling {
        min_replicas: 0,
        initial_scale: 3,
        ..Scaling::default()
    };
    let asleep = Autoscaler::resume(policy.clone(), Duration::ZERO, 0);
    assert_eq!(asleep.desired(), 0);
    let mut loaded = Autoscaler::resume(policy, Duration::ZERO, 7);
    let decision = loaded.decide(Duration::from_secs(2), 7, Load::Outstanding(0));
    assert_eq!((decision.desired, decision.panicking), (7, true));
}
