use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { min: 1, max: 100 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn reading(value: f64, target: f64) -> Reading {
    Reading {
        value: Some(value),
        target,
        kind: MetricType::AverageValue,
    }
}

fn rules(window: i32, select: SelectPolicy, policies: &[(PolicyKind, i32, i32)]) -> ScalingRules {
    let policies = policies.iter().map(|(kind, value, period_seconds)| Policy {
        kind: *kind,
        value: *value,
        period_seconds: *period_seconds,
    });
    ScalingRules {
        stabilization_window_seconds: Some(window),
        select_policy: Some(select),
        policies: Some(policies.collect()),
        tolerance: None,
    }
}

fn hpa(scale_up: Option<ScalingRules>, scale_down: Option<ScalingRules>) -> Hpa {
    Hpa::new(Some(&Behavior { scale_up, scale_down }))
}

/// Runs `hpa` every 15 s on a proposal of so many replicas, carrying its answers out.
fn run(hpa: &mut Hpa, begin: u64, mut current: u32, proposals: &[u32]) -> Vec<u32> {
    let mut seen = Vec::new();
    for (step, &proposal) in (0..).zip(proposals) {
        let now = seconds(begin + step * 15);
        let wanted = hpa
            .desire(now, current, BOUNDS, &[reading(f64::from(proposal) * 10.0, 10.0)])
            .unwrap();
        hpa.changed(now, current, wanted);
        current = wanted;
        seen.push(current);
    }
    seen
}

/// KEDA's e2e `external_push_scaler`: targets and values, and the replicas that follow.
#[test]
fn keda_external_push_scaler_replicas() {
    let wanted = |value: f64, target: f64, current: u32| {
        Hpa::new(None).desire(seconds(0), current, BOUNDS, &[reading(value, target)])
    };
    assert_eq!(wanted(10.0, 10.0, 1), Some(1));
    assert_eq!(wanted(20.0, 10.0, 1), Some(2));
    assert_eq!(wanted(16.0, 6.111, 2), Some(3));
}

#[test]
fn a_metric_within_a_tenth_of_its_target_changes_nothing() {
    for (value, expected) in [(99.0, 10), (101.0, 10), (109.0, 10), (111.0, 12)] {
        let mut hpa = hpa(
            None,
            Some(rules(0, SelectPolicy::Max, &[(PolicyKind::Percent, 100, 15)])),
        );
        assert_eq!(
            hpa.desire(seconds(0), 10, BOUNDS, &[reading(value, 10.0)]),
            Some(expected),
            "{value}"
        );
    }
}

#[test]
fn a_target_for_all_replicas_together_scales_by_its_share() {
    let value = Reading {
        value: Some(30.0),
        target: 10.0,
        kind: MetricType::Value,
    };
    assert_eq!(Hpa::new(None).desire(seconds(0), 2, BOUNDS, &[value]), Some(6));
}

#[test]
fn the_largest_proposal_counts() {
    let readings = [reading(20.0, 10.0), reading(50.0, 10.0)];
    assert_eq!(Hpa::new(None).desire(seconds(0), 2, BOUNDS, &readings), Some(5));
}

#[test]
fn a_metric_that_cannot_be_read_hinders_a_scale_down_and_no_scale_up() {
    let unread = Reading {
        value: None,
        ..reading(0.0, 10.0)
    };
    let mut hpa = hpa(
        None,
        Some(rules(0, SelectPolicy::Max, &[(PolicyKind::Percent, 100, 15)])),
    );
    assert_eq!(hpa.desire(seconds(0), 5, BOUNDS, &[unread, reading(10.0, 10.0)]), None);
    assert_eq!(
        hpa.desire(seconds(15), 5, BOUNDS, &[unread, reading(70.0, 10.0)]),
        Some(7)
    );
    assert_eq!(hpa.desire(seconds(30), 5, BOUNDS, &[unread]), None);
}

#[test]
fn by_default_it_doubles_or_adds_four_every_15_seconds_upwards() {
    let mut hpa = Hpa::new(None);
    assert_eq!(run(&mut hpa, 0, 1, &[90, 90, 90, 90, 90]), [5, 10, 20, 40, 80]);
}

#[test]
fn by_default_it_goes_down_at_once_to_the_highest_proposal_of_five_minutes() {
    let mut hpa = Hpa::new(None);
    assert_eq!(run(&mut hpa, 0, 4, &[8, 6]), [8, 8]);
    let later = run(&mut hpa, 30, 8, &[3; 24]);
    // The proposal of 8 was made at 0 s and that of 6 at 15 s.
    assert_eq!(later[..18], [8; 18]);
    assert_eq!(later[18..20], [6, 3]);
}

#[test]
fn a_window_upwards_takes_the_lowest_proposal() {
    let up = rules(60, SelectPolicy::Max, &[(PolicyKind::Percent, 1000, 15)]);
    let mut hpa = hpa(Some(up), None);
    assert_eq!(run(&mut hpa, 0, 2, &[2, 9, 9, 9, 9]), [2, 2, 2, 2, 9]);
}

#[test]
fn policies_count_from_the_begin_of_their_period() {
    let up = rules(0, SelectPolicy::Max, &[(PolicyKind::Pods, 3, 60)]);
    let mut up = hpa(Some(up), None);
    assert_eq!(run(&mut up, 0, 1, &[50; 6]), [4, 4, 4, 4, 7, 7]);
    let down = rules(0, SelectPolicy::Max, &[(PolicyKind::Percent, 50, 30)]);
    let mut down = hpa(None, Some(down));
    assert_eq!(run(&mut down, 0, 10, &[1; 5]), [5, 5, 2, 2, 1]);
}

#[test]
fn select_policy_min_takes_the_smallest_change_and_disabled_none() {
    let policies = [(PolicyKind::Pods, 1, 15), (PolicyKind::Percent, 100, 15)];
    for (select, up, down) in [
        (SelectPolicy::Max, 20, 1),
        (SelectPolicy::Min, 11, 9),
        (SelectPolicy::Disabled, 10, 10),
    ] {
        let mut hpa = hpa(Some(rules(0, select, &policies)), Some(rules(0, select, &policies)));
        assert_eq!(run(&mut hpa, 0, 10, &[50]), [up], "{select:?}");
        assert_eq!(run(&mut hpa, 300, 10, &[1]), [down], "{select:?}");
    }
}

#[test]
fn bounds_hold_whatever_the_policies_say() {
    let bounds = Bounds { min: 3, max: 4 };
    let mut hpa = hpa(
        None,
        Some(rules(0, SelectPolicy::Max, &[(PolicyKind::Percent, 100, 15)])),
    );
    assert_eq!(hpa.desire(seconds(0), 3, bounds, &[reading(900.0, 10.0)]), Some(4));
    assert_eq!(hpa.desire(seconds(15), 4, bounds, &[reading(0.0, 10.0)]), Some(3));
    assert_eq!(hpa.desire(seconds(30), 9, bounds, &[reading(90.0, 10.0)]), Some(4));
}

proptest! {
    #[test]
    fn never_outside_its_bounds_and_never_against_the_proposals(
        values in proptest::collection::vec(0u32..400, 1..60),
        min in 1u32..5, more in 0u32..40, window in 0i32..120,
    ) {
        let bounds = Bounds { min, max: min + more };
        let policies = [(PolicyKind::Pods, 4, 15), (PolicyKind::Percent, 100, 15)];
        let mut hpa = hpa(
            Some(rules(window, SelectPolicy::Max, &policies)),
            Some(rules(window, SelectPolicy::Max, &policies)),
        );
        let mut current = min;
        for (step, value) in (0..).zip(values) {
            let now = seconds(step * 15);
            let wanted = hpa.desire(now, current, bounds, &[reading(f64::from(value), 10.0)]).unwrap();
            prop_assert!((bounds.min..=bounds.max).contains(&wanted));
            let proposal = value.div_ceil(10);
            if wanted > current {
                prop_assert!(wanted <= proposal.max(min));
            }
            if wanted < current {
                prop_assert!(wanted >= proposal.min(bounds.max));
            }
            hpa.changed(now, current, wanted);
            current = wanted;
        }
    }
}
