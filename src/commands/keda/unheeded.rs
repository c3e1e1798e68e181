//! The add-on's variables that have no effect here: each that is set is named in the log.

/// A variable and why it has no effect. One whose value is `harmless` says what is so anyway.
struct Unheeded {
    name: &'static str,
    harmless: &'static str,
    why: &'static str,
}

const fn unheeded(name: &'static str, harmless: &'static str, why: &'static str) -> Unheeded {
    Unheeded { name, harmless, why }
}

const NO_RESYNC: &str = "watches are followed, and nothing is listed again at intervals";
const NO_PROFILER: &str = "there is no profiling server";
const OWN_LEASE: &str = "the Lease has the times of the controller";

const INTERCEPTOR: [Unheeded; 4] = [
    unheeded(
        "KEDA_HTTP_DIRECT_POD_ROUTING",
        "true",
        "requests always go to pods directly",
    ),
    unheeded(
        "KEDA_HTTP_MAX_IDLE_CONNS",
        "",
        "idle connections are bounded for each pod, by KEDA_HTTP_MAX_IDLE_CONNS_PER_HOST",
    ),
    unheeded("KEDA_HTTP_SCALER_CONFIG_MAP_INFORMER_RSYNC_PERIOD", "", NO_RESYNC),
    unheeded("PROFILING_BIND_ADDRESS", "", NO_PROFILER),
];

const OPERATOR: [Unheeded; 6] = [
    unheeded(
        "KEDA_HTTP_SCALER_TARGET_ADMIN_DEPLOYMENT",
        "",
        "interceptors are found by KEDA_HTTP_SCALER_TARGET_ADMIN_SERVICE",
    ),
    unheeded("KEDA_HTTP_SCALER_CONFIG_MAP_INFORMER_RSYNC_PERIOD", "", NO_RESYNC),
    unheeded("PROFILING_BIND_ADDRESS", "", NO_PROFILER),
    unheeded("KEDA_HTTP_OPERATOR_LEADER_ELECTION_LEASE_DURATION", "", OWN_LEASE),
    unheeded("KEDA_HTTP_OPERATOR_LEADER_ELECTION_RENEW_DEADLINE", "", OWN_LEASE),
    unheeded("KEDA_HTTP_OPERATOR_LEADER_ELECTION_RETRY_PERIOD", "", OWN_LEASE),
];

/// Names those of the interceptor.
pub(crate) fn of_interceptor() {
    tell(&INTERCEPTOR);
}

/// Names those of operator and scaler.
pub(crate) fn of_operator() {
    tell(&OPERATOR);
}

fn tell(all: &[Unheeded]) {
    for Unheeded { name, why, .. } in set(all, super::variable) {
        tracing::warn!(variable = name, why, "it has no effect");
    }
}

fn set<'a>(all: &'a [Unheeded], get: impl Fn(&str) -> Option<String> + 'a) -> impl Iterator<Item = &'a Unheeded> {
    all.iter()
        .filter(move |of| get(of.name).is_some_and(|value| value != of.harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_on_variables_without_effect_are_named_where_they_ask_for_something_else() {
        let names = |value: &str| {
            let value = value.to_owned();
            let get = move |name: &str| (name == "KEDA_HTTP_DIRECT_POD_ROUTING").then(|| value.clone());
            set(&INTERCEPTOR, get).map(|of| of.name).collect::<Vec<_>>()
        };
        assert_eq!(names("false"), ["KEDA_HTTP_DIRECT_POD_ROUTING"]);
        assert!(names("true").is_empty());
        assert_eq!(set(&OPERATOR, |_| None).count(), 0);
    }
}
