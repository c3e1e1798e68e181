use super::*;

const NOW: &str = "2026-11-23T12:00:00Z";
const LATER: &str = "2026-11-23T12:05:00Z";

fn seen(replicas: u32, ready: u32) -> Seen {
    Seen {
        exists: true,
        replicas,
        ready,
        ready_newest: ready,
        revision: "r1".to_owned(),
        ..Seen::default()
    }
}

fn observed(stable: Seen) -> Observed<'static> {
    Observed {
        name: "iris",
        namespace: "shop",
        generation: 3,
        domain: "example.com",
        cluster_domain: "cluster.local",
        invalid: None,
        stopped: false,
        promised: 0,
        stable,
        canaries: Vec::new(),
        reachable: true,
        runtime: None,
        tier: None,
    }
}

fn failing(stable: Seen) -> Seen {
    Seen {
        failed: 1,
        failure: Some(PodFailure {
            kind: FailureKind::Crash,
            message: "no such file".to_owned(),
            exit_code: Some(3),
        }),
        ..stable
    }
}

fn condition_of<'a>(status: &'a Value, kind: &str) -> &'a Value {
    find(status, kind)
}

fn ready(status: &Value) -> &str {
    text(find(status, "Ready"), "status")
}

fn reasons(former: &Value, status: &Value) -> Vec<String> {
    transitions(former, status)
        .into_iter()
        .map(|transition| transition.reason)
        .collect()
}

#[test]
fn a_service_at_zero_is_ready_and_on_standby() {
    let status = status(&observed(seen(0, 0)), &Value::Null, NOW);
    assert_eq!(ready(&status), "True");
    assert_eq!(status["modelStatus"]["states"]["activeModelState"], "Standby");
    assert_eq!(status["modelStatus"]["transitionStatus"], "UpToDate");
    assert_eq!(status["url"], "http://iris-shop.example.com");
    assert_eq!(status["address"]["url"], "http://iris-predictor.shop.svc.cluster.local");
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(status["components"]["predictor"]["traffic"][0]["percent"], 100);
}

#[test]
fn a_promised_replica_has_to_be_there() {
    let mut starting = observed(seen(1, 0));
    starting.promised = 1;
    let first = status(&starting, &Value::Null, NOW);
    assert_eq!(ready(&first), "Unknown");
    starting.stable = seen(1, 1);
    let second = status(&starting, &first, LATER);
    assert_eq!(ready(&second), "True");
    assert_eq!(condition_of(&second, "Ready")["lastTransitionTime"], LATER);
    assert_eq!(second["modelStatus"]["states"]["activeModelState"], "Loaded");
    let third = status(&starting, &second, "2026-11-23T12:09:00Z");
    assert!(same(&second, &third));
}

#[test]
fn a_model_that_can_not_load_says_why_even_after_it_fell_back_to_zero() {
    let failed = status(&observed(failing(seen(1, 0))), &Value::Null, NOW);
    assert_eq!(ready(&failed), "False");
    assert_eq!(failed["modelStatus"]["transitionStatus"], "BlockedByFailedLoad");
    assert_eq!(failed["modelStatus"]["lastFailureInfo"]["message"], "no such file");
    assert_eq!(failed["modelStatus"]["lastFailureInfo"]["exitCode"], 3);
    let at_zero = status(&observed(seen(0, 0)), &failed, LATER);
    assert_eq!(ready(&at_zero), "False");
    assert_eq!(condition_of(&at_zero, "PredictorReady")["reason"], "CrashLoopBackOff");
    assert_eq!(at_zero["modelStatus"]["lastFailureInfo"]["time"], NOW);
    let mut mended = seen(0, 0);
    mended.revision = "r2".to_owned();
    let mended = status(&observed(mended), &at_zero, LATER);
    assert_eq!(ready(&mended), "True");
    assert_eq!(mended["modelStatus"]["transitionStatus"], "UpToDate");
    assert_eq!(mended["modelStatus"]["lastFailureInfo"]["message"], "no such file");
}

#[test]
fn old_pods_go_on_serving_while_the_new_revision_fails() {
    let mut stable = failing(seen(2, 1));
    stable.ready_newest = 0;
    let status = status(&observed(stable), &Value::Null, NOW);
    assert_eq!(ready(&status), "True");
    assert_eq!(status["modelStatus"]["transitionStatus"], "BlockedByFailedLoad");
    assert_eq!(status["modelStatus"]["states"]["activeModelState"], "Loaded");
}

#[test]
fn an_invalid_spec_is_a_condition_and_one_event() {
    let mut invalid = observed(seen(1, 1));
    invalid.invalid = Some(Invalid {
        reason: runtime_reason::UNSUPPORTED,
        message: "no runtime".to_owned(),
    });
    let status = status(&invalid, &Value::Null, NOW);
    assert_eq!(condition_of(&status, "PredictorReady")["reason"], "InvalidSpec");
    assert_eq!(status["modelStatus"]["transitionStatus"], "InvalidSpec");
    assert_eq!(
        status["modelStatus"]["lastFailureInfo"]["reason"],
        "NoSupportingRuntime"
    );
    let told = transitions(&Value::Null, &status);
    let faults: Vec<_> = told.iter().filter(|told| told.warning).collect();
    assert_eq!(faults.len(), 1, "{told:?}");
    assert_eq!(
        (faults[0].reason.as_str(), faults[0].note.as_str()),
        ("InvalidSpec", "no runtime")
    );
    assert!(transitions(&status, &status).is_empty());
}

#[test]
fn sleeping_and_waking_are_told() {
    let asleep = status(&observed(seen(0, 0)), &Value::Null, NOW);
    assert_eq!(reasons(&Value::Null, &asleep), ["Ready"]);
    let waking = status(&observed(seen(1, 0)), &asleep, LATER);
    assert_eq!(reasons(&asleep, &waking), [""; 0]);
    let awake = status(&observed(seen(1, 1)), &waking, LATER);
    assert_eq!(reasons(&waking, &awake), ["ModelLoaded"]);
}

#[test]
fn without_an_activator_nothing_is_reached() {
    let mut lonely = observed(seen(0, 0));
    lonely.reachable = false;
    let status = status(&lonely, &Value::Null, NOW);
    assert_eq!(
        (ready(&status), &condition_of(&status, "Ready")["reason"]),
        ("False", &json!("NoActivator"))
    );
}

#[test]
fn a_stopped_service_is_stopped_and_no_fault() {
    let mut stopped = observed(seen(0, 0));
    stopped.stopped = true;
    let status = status(&stopped, &Value::Null, NOW);
    assert_eq!(condition_of(&status, "Stopped")["status"], "True");
    assert_eq!(ready(&status), "False");
    assert!(transitions(&Value::Null, &status).iter().all(|told| !told.warning));
}

#[test]
fn a_canary_shows_in_the_columns_for_traffic() {
    let mut both = observed(seen(1, 1));
    let canary = |revision: &str| Seen {
        revision: revision.to_owned(),
        ..seen(1, 1)
    };
    both.canaries = vec![("canary".to_owned(), 10, canary("r2"))];
    let status = status(&both, &Value::Null, NOW);
    let traffic = &status["components"]["predictor"]["traffic"];
    assert_eq!(
        (&traffic[0]["percent"], &traffic[0]["revisionName"]),
        (&json!(10), &json!("iris-predictor-r2"))
    );
    assert_eq!(
        (&traffic[1]["percent"], &traffic[1]["tag"]),
        (&json!(90), &json!("prev"))
    );
    assert_eq!(condition_of(&status, "CanaryPredictorReady")["status"], "True");
}

#[test]
fn several_canaries_show_with_their_names_and_the_one_that_is_not_ready_speaks_for_all() {
    let mut many = observed(seen(1, 1));
    let canary = |name: &str, percent: u8, ready: u32| {
        let seen = Seen {
            revision: name.to_owned(),
            ..seen(1, ready)
        };
        (name.to_owned(), percent, seen)
    };
    many.canaries = vec![canary("a", 10, 1), canary("b", 20, 0)];
    let status = status(&many, &Value::Null, NOW);
    assert_eq!(
        status["canaryStatuses"],
        json!([
            { "name": "a", "ready": true, "trafficPercent": 10 },
            { "name": "b", "ready": false, "trafficPercent": 20 },
        ])
    );
    let verdict = condition_of(&status, "CanaryPredictorReady");
    assert_eq!(
        (&verdict["status"], &verdict["message"]),
        (&json!("Unknown"), &json!("b: no replica is ready"))
    );
    let traffic = status["components"]["predictor"]["traffic"].as_array().unwrap();
    let percents: Vec<&Value> = traffic.iter().map(|one| &one["percent"]).collect();
    assert_eq!(percents, [&json!(20), &json!(70), &json!(10)]);
}

#[test]
fn a_standby_tier_has_a_condition_and_its_claims_are_told() {
    let with = |tier: Tier| Observed {
        tier: Some(tier),
        ..observed(seen(0, 0))
    };
    let none = status(&observed(seen(0, 0)), &Value::Null, NOW);
    assert_eq!(condition_of(&none, "StandbyReady"), &Value::Null, "it asks for none");
    let arming = status(&with(Tier::of(None, 0, false)), &none, NOW);
    assert_eq!(condition_of(&arming, "StandbyReady")["status"], "Unknown");
    assert_eq!(reasons(&none, &arming), Vec::<String>::new());
    let armed = status(&with(Tier::of(None, 0, true)), &arming, NOW);
    assert_eq!(condition_of(&armed, "StandbyReady")["status"], "True");
    assert_eq!(
        condition_of(&armed, "StandbyReady")["severity"],
        "Info",
        "it is no part of Ready"
    );
    assert_eq!(reasons(&arming, &armed), ["StandbyArmed"]);
    let claimed = status(&with(Tier::of(Some("ready-1".to_owned()), 1, false)), &armed, NOW);
    assert!(text(condition_of(&claimed, "StandbyReady"), "message").contains("ready-1"));
    assert_eq!(reasons(&armed, &claimed), ["StandbyClaimed"]);
    assert_eq!(reasons(&claimed, &claimed), Vec::<String>::new(), "once");
    assert_eq!(Tier::of(None, 1, true), Tier::Awake, "woken by a pod of its own");
    assert_eq!(ready(&claimed), "True");
}
