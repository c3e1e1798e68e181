use pilotlight_manifests::keda::{Fallback, MetricType, Object, read};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy(annotations: Value, more: Value) -> Policy {
    let mut spec = json!({ "scaleTargetRef": { "name": "app" }, "triggers": [{ "type": "external" }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = json!({ "metadata": { "name": "so", "annotations": annotations }, "spec": spec });
    let object: Object<ScaledObjectSpec> = read(object).unwrap();
    Policy::new(&object.metadata, &object.spec)
}

fn scaling(annotations: Value, more: Value) -> Scaling {
    Scaling::new(policy(annotations, more), Hpa::new(None), Duration::ZERO, None)
}

fn look(active: bool, value: f64) -> Look {
    Look {
        active,
        failed: false,
        readings: vec![Reading {
            value: Some(value),
            target: 10.0,
            kind: MetricType::AverageValue,
        }],
    }
}

fn failed() -> Look {
    Look {
        active: false,
        failed: true,
        readings: vec![Reading {
            value: None,
            target: 10.0,
            kind: MetricType::AverageValue,
        }],
    }
}

#[test]
fn defaults_are_kedas() {
    let policy = policy(json!({}), json!({}));
    assert_eq!((policy.min, policy.max, policy.idle), (0, 100, None));
    assert_eq!(
        (policy.cooldown, policy.initial_cooldown),
        (seconds(300), Duration::ZERO)
    );
    assert_eq!((policy.polling, policy.pause), (seconds(30), Pause::No));
}

#[test]
fn a_push_starts_the_least_number_of_replicas_at_once_and_changes_no_more() {
    let mut zero = scaling(json!({}), json!({}));
    assert_eq!(zero.pushed(seconds(1), 0), Step::Scale(1, Reason::Activated));
    assert_eq!(zero.pushed(seconds(2), 1), Step::Stay);
    let mut three = scaling(json!({}), json!({ "minReplicaCount": 3, "idleReplicaCount": 0 }));
    assert_eq!(three.pushed(seconds(1), 0), Step::Scale(3, Reason::Activated));
}

#[test]
fn zero_comes_after_the_cool_down_since_the_last_activity() {
    let mut scaling = scaling(json!({}), json!({ "cooldownPeriod": 20 }));
    assert_eq!(
        scaling.look(seconds(10), 0, &look(true, 5.0)),
        Step::Scale(1, Reason::Activated)
    );
    for at in [20, 29] {
        assert_eq!(scaling.look(seconds(at), 1, &look(false, 0.0)), Step::Stay, "{at}");
    }
    assert_eq!(
        scaling.look(seconds(30), 1, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
    assert_eq!(scaling.look(seconds(31), 0, &look(false, 0.0)), Step::Stay);
}

#[test]
fn a_workload_that_was_never_active_waits_for_the_initial_cool_down_only() {
    let mut scaling = scaling(json!({}), json!({ "initialCooldownPeriod": 50 }));
    assert_eq!(scaling.look(seconds(49), 2, &look(false, 0.0)), Step::Stay);
    assert_eq!(
        scaling.look(seconds(50), 2, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
}

#[test]
fn a_restart_goes_on_with_the_activity_that_the_status_tells() {
    let policy = policy(json!({}), json!({}));
    let mut scaling = Scaling::new(policy, Hpa::new(None), Duration::ZERO, Some(seconds(1_000)));
    assert_eq!(scaling.look(seconds(1_299), 1, &look(false, 0.0)), Step::Stay);
    assert_eq!(
        scaling.look(seconds(1_300), 1, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
}

/// The add-on's default ScaledObject of its e2e: min 1, max 1, idle 0, cool-down 10.
#[test]
fn add_on_idle_replicas_stand_for_no_activity_and_min_for_activity() {
    let spec = json!({ "minReplicaCount": 1, "maxReplicaCount": 1, "idleReplicaCount": 0, "cooldownPeriod": 10 });
    let mut scaling = scaling(json!({}), spec);
    assert_eq!(
        scaling.look(seconds(0), 1, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
    assert_eq!(scaling.pushed(seconds(5), 0), Step::Scale(1, Reason::Activated));
    assert_eq!(scaling.look(seconds(6), 1, &look(true, 900.0)), Step::Stay);
    assert_eq!(
        scaling.look(seconds(16), 1, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
}

#[test]
fn with_a_minimum_it_never_goes_below_and_comes_back_to_it() {
    let mut scaling = scaling(json!({}), json!({ "minReplicaCount": 2 }));
    assert_eq!(
        scaling.look(seconds(0), 1, &look(false, 0.0)),
        Step::Scale(2, Reason::Bounds)
    );
    assert_eq!(scaling.look(seconds(900), 2, &look(false, 0.0)), Step::Stay);
}

/// Add-on e2e `TestScaling`: requestRate with target 5 and 10 requests a second make exactly 2.
#[test]
fn add_on_twice_the_target_makes_two_replicas() {
    let mut scaling = scaling(json!({}), json!({}));
    assert_eq!(
        scaling.look(seconds(0), 1, &look(true, 20.0)),
        Step::Scale(2, Reason::Metrics)
    );
    scaling.scaled(seconds(0), 1, 2);
    for at in [15, 30, 45] {
        assert_eq!(scaling.look(seconds(at), 2, &look(true, 20.0)), Step::Stay);
    }
}

#[test]
fn metrics_are_looked_at_every_15_seconds_like_a_horizontal_pod_autoscaler_does() {
    let mut scaling = scaling(json!({}), json!({}));
    assert_eq!(scaling.look(seconds(0), 1, &look(true, 10.0)), Step::Stay);
    assert_eq!(scaling.look(seconds(14), 1, &look(true, 30.0)), Step::Stay);
    assert_eq!(
        scaling.look(seconds(15), 1, &look(true, 30.0)),
        Step::Scale(3, Reason::Metrics)
    );
}

#[test]
fn pauses_hold() {
    let mut at = scaling(json!({ "autoscaling.keda.sh/paused-replicas": "4" }), json!({}));
    assert_eq!(
        at.look(seconds(0), 1, &look(true, 90.0)),
        Step::Scale(4, Reason::Paused)
    );
    assert_eq!(at.look(seconds(900), 4, &look(false, 0.0)), Step::Stay);
    assert_eq!(at.pushed(seconds(901), 0), Step::Stay);
    for value in ["true", ""] {
        let mut paused = scaling(json!({ "autoscaling.keda.sh/paused": value }), json!({}));
        assert_eq!(paused.look(seconds(900), 3, &look(false, 0.0)), Step::Stay);
    }
    let mut not = scaling(json!({ "autoscaling.keda.sh/paused": "false" }), json!({}));
    assert_eq!(
        not.look(seconds(900), 3, &look(false, 0.0)),
        Step::Scale(0, Reason::CooledDown)
    );
    let mut keeps = scaling(json!({ "autoscaling.keda.sh/paused-scale-in": "true" }), json!({}));
    assert_eq!(keeps.look(seconds(900), 3, &look(false, 0.0)), Step::Stay);
    assert_eq!(
        keeps.look(seconds(901), 0, &look(true, 1.0)),
        Step::Scale(1, Reason::Activated)
    );
    let mut small = scaling(json!({ "autoscaling.keda.sh/paused-scale-out": "true" }), json!({}));
    assert_eq!(small.pushed(seconds(0), 0), Step::Stay);
}

#[test]
fn force_activation_is_activity() {
    let mut scaling = scaling(json!({ "autoscaling.keda.sh/force-activation": "true" }), json!({}));
    assert_eq!(
        scaling.look(seconds(900), 0, &look(false, 0.0)),
        Step::Scale(1, Reason::Activated)
    );
    assert_eq!(scaling.look(seconds(2_000), 1, &look(false, 0.0)), Step::Stay);
}

#[test]
fn triggers_that_fail_block_scale_to_zero_unless_a_fallback_says_otherwise() {
    let mut without = scaling(json!({}), json!({}));
    assert_eq!(without.look(seconds(900), 2, &failed()), Step::Stay);
    for (behavior, current, expected) in [
        ("static", 2, Step::Scale(5, Reason::Fallback)),
        ("static", 9, Step::Scale(5, Reason::Fallback)),
        ("currentReplicas", 2, Step::Stay),
        ("currentReplicasIfHigher", 2, Step::Scale(5, Reason::Fallback)),
        ("currentReplicasIfHigher", 9, Step::Stay),
        ("currentReplicasIfLower", 9, Step::Scale(5, Reason::Fallback)),
        ("currentReplicasIfLower", 2, Step::Stay),
    ] {
        let fallback = json!({ "fallback": { "failureThreshold": 2, "replicas": 5, "behavior": behavior } });
        let mut with = scaling(json!({}), fallback);
        for at in [900, 930] {
            assert_eq!(
                with.look(seconds(at), current, &failed()),
                Step::Stay,
                "{behavior} {at}"
            );
        }
        assert_eq!(
            with.look(seconds(960), current, &failed()),
            expected,
            "{behavior} {current}"
        );
        assert!(with.is_fallen_back());
        with.look(seconds(990), current, &look(true, 10.0));
        assert!(!with.is_fallen_back());
    }
    assert_eq!(
        policy(
            json!({}),
            json!({ "fallback": { "failureThreshold": 2, "replicas": 5 } })
        )
        .fallback,
        Some(Fallback {
            failure_threshold: 2,
            replicas: 5,
            behavior: FallbackBehavior::Static
        })
    );
}

proptest! {
    #[test]
    fn zero_is_reached_only_once_cool_and_never_with_activity(
        looks in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u32..200), 1..80),
        cooldown in 0u64..100,
    ) {
        let mut scaling = scaling(json!({}), json!({ "cooldownPeriod": cooldown }));
        let (mut current, mut last_active) = (1, None);
        for (step, (active, fails, value)) in (0..).zip(looks) {
            let now = seconds(step * 5);
            let look = Look { failed: fails, ..look(active, f64::from(value)) };
            if active {
                last_active = Some(now);
            }
            if let Step::Scale(to, _) = scaling.look(now, current, &look) {
                if to == 0 {
                    prop_assert!(!active && !fails);
                    prop_assert!(last_active.is_none_or(|last| now.saturating_sub(last) >= seconds(cooldown)));
                }
                prop_assert!(to <= 100);
                scaling.scaled(now, current, to);
                current = to;
            }
        }
    }
}
