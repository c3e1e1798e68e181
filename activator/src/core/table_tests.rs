use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::{BackendId, RoutePolicy, WeightedBackend};

fn route(id: &str, predicate: Predicate) -> Route {
    Route {
        id: RouteId::new(id),
        predicate,
        backends: vec![WeightedBackend {
            backend: BackendId::new(id),
            weight: 100,
        }],
        policy: RoutePolicy::default(),
    }
}

/// As the controller declares the route of a service.
fn service(namespace: &str, name: &str) -> Route {
    route(
        &format!("{namespace}/{name}"),
        Predicate {
            hosts: vec![
                format!("{name}.{namespace}.example.com"),
                format!("{name}-{namespace}.example.com"),
            ],
            path_prefixes: vec![format!("/serving/{namespace}/{name}")],
            headers: vec![],
            model_name: Some(name.to_owned()),
            rules: None,
        },
    )
}

fn find(table: &Table, host: &str, path: &str) -> Result<Found, Miss> {
    find_with(table, host, path, &HeaderMap::new())
}

fn find_with(table: &Table, host: &str, path: &str, headers: &HeaderMap) -> Result<Found, Miss> {
    let query = Query {
        host: Some(host),
        path,
        headers,
    };
    table.find(query, crate::inference::model_name)
}

fn code(result: Result<Found, Miss>) -> Code {
    result.unwrap_err().code
}

fn two() -> Table {
    Table::compile(&[service("a", "iris"), service("b", "digits")]).unwrap()
}

#[test]
fn host_path_and_name_all_lead_there() {
    let table = two();
    for (host, path, strip) in [
        ("digits.b.example.com", "/v1/models/digits:predict", 0),
        ("digits-b.example.com", "/predict", 0),
        ("localhost", "/serving/b/digits/v1/models/digits:predict", 17),
        ("localhost", "/serving/b/digits", 17),
        ("localhost", "/v2/models/digits/infer", 0),
        ("digits.b.example.com", "/serving/b/digits/predict", 17),
    ] {
        assert_eq!(find(&table, host, path), Ok(Found { route: 1, strip }), "{host} {path}");
    }
}

#[test]
fn prefixes_match_whole_segments() {
    assert_eq!(
        code(find(&two(), "localhost", "/serving/b/digitsx/predict")),
        Code::UnknownRoute
    );
}

#[test]
fn the_longest_prefix_wins() {
    let prefix = |id: &str, prefix: &str| {
        let path_prefixes = vec![prefix.to_owned()];
        route(
            id,
            Predicate {
                path_prefixes,
                ..Predicate::default()
            },
        )
    };
    let table = Table::compile(&[prefix("a", "/"), prefix("b", "/x"), prefix("c", "/x/y/")]).unwrap();
    for (path, route, strip) in [
        ("/x/y/z", 2, 4),
        ("/x/yy", 1, 2),
        ("/x", 1, 2),
        ("/z", 0, 0),
        ("/", 0, 0),
    ] {
        assert_eq!(find(&table, "h", path), Ok(Found { route, strip }), "{path}");
    }
}

#[test]
fn steps_that_disagree_are_a_404_that_names_both() {
    let table = two();
    for (host, path) in [
        ("iris.a.example.com", "/serving/b/digits/predict"),
        ("iris.a.example.com", "/v1/models/digits:predict"),
        ("localhost", "/serving/a/iris/v1/models/digits:predict"),
    ] {
        let miss = find(&table, host, path).unwrap_err();
        assert_eq!(miss.code, Code::RouteDisagreement);
        assert!(
            miss.message.contains("iris") && miss.message.contains("digits"),
            "{}",
            miss.message
        );
    }
}

#[test]
fn an_unknown_route_says_what_was_tried_and_what_is_known() {
    let table = two();
    let miss = find(&table, "nobody.example.com", "/nothing").unwrap_err();
    assert_eq!(miss.code, Code::UnknownRoute);
    for part in ["nobody.example.com", "/nothing", "iris.a.example.com", "digits"] {
        assert!(miss.message.contains(part), "{part} in {}", miss.message);
    }
    let miss = find(&table, "localhost", "/v2/models/cats/infer").unwrap_err();
    assert_eq!(miss.code, Code::UnknownModel);
    assert!(
        miss.message.contains("cats") && miss.message.contains("digits, iris"),
        "{}",
        miss.message
    );
}

#[test]
fn a_name_in_two_namespaces_needs_a_host() {
    let table = Table::compile(&[service("a", "iris"), service("b", "iris")]).unwrap();
    let miss = find(&table, "localhost", "/v1/models/iris:predict").unwrap_err();
    assert_eq!(miss.code, Code::AmbiguousRoute);
    assert!(
        miss.message.contains("iris.a.example.com, iris.b.example.com"),
        "{}",
        miss.message
    );
    assert_eq!(
        find(&table, "iris.b.example.com", "/v1/models/iris:predict")
            .unwrap()
            .route,
        1
    );
}

#[test]
fn among_routes_of_a_host_the_one_that_asks_for_more_headers_wins() {
    let canary = HeaderName::from_static("x-canary");
    let mut special = service("a", "iris");
    special.id = RouteId::new("a/canary");
    special.predicate.headers = vec![(canary.clone(), Some(HeaderValue::from_static("1")))];
    let table = Table::compile(&[service("a", "iris"), special]).unwrap();
    let mut headers = HeaderMap::new();
    for (value, expected) in [("0", 0), ("1", 1)] {
        headers.insert(canary.clone(), HeaderValue::from_static(value));
        for (host, path) in [
            ("iris.a.example.com", "/predict"),
            ("localhost", "/v1/models/iris:predict"),
        ] {
            assert_eq!(
                find_with(&table, host, path, &headers).unwrap().route,
                expected,
                "{host} {value}"
            );
        }
    }
}

#[test]
fn faulty_tables_are_refused() {
    let with = |change: fn(&mut Route)| {
        let mut other = service("b", "digits");
        change(&mut other);
        Table::compile(&[service("a", "iris"), other]).err().unwrap()
    };
    assert!(matches!(
        with(|r| r.id = RouteId::new("a/iris")),
        RouteError::Duplicate(_)
    ));
    assert!(matches!(
        with(|r| r.predicate = Predicate::default()),
        RouteError::Unreachable(_)
    ));
    assert!(matches!(with(|r| r.backends[0].weight = 0), RouteError::NoBackend(_)));
    assert!(matches!(with(|r| r.backends.clear()), RouteError::NoBackend(_)));
    assert!(matches!(
        with(|r| r.predicate.hosts.push("iris-a.example.com".into())),
        RouteError::HostCollision { .. }
    ));
    assert!(matches!(
        with(|r| r.predicate.path_prefixes.push("/serving/a/iris/".into())),
        RouteError::PrefixCollision { .. }
    ));
    for host in ["", "A.b", "a:80", "a/b"] {
        let mut other = service("b", "digits");
        other.predicate.hosts.push(host.to_owned());
        assert!(
            matches!(Table::compile(&[other]), Err(RouteError::InvalidHost { .. })),
            "{host:?}"
        );
    }
    for prefix in ["", "x", "//", "/a//b"] {
        let mut other = service("b", "digits");
        other.predicate.path_prefixes.push(prefix.to_owned());
        assert!(
            matches!(Table::compile(&[other]), Err(RouteError::InvalidPrefix { .. })),
            "{prefix:?}"
        );
    }
}

proptest! {
    #[test]
    fn every_declared_service_is_found_by_each_of_its_ways_and_no_other(
        names in proptest::collection::btree_set(("[a-c]{1,2}", "[a-z]{1,3}"), 1..12),
    ) {
        // One name in one namespace only, so that the way by name is open.
        let mut seen = std::collections::BTreeSet::new();
        let names: Vec<_> = names.into_iter().filter(|(_, name)| seen.insert(name.clone())).collect();
        let routes: Vec<Route> = names.iter().map(|(ns, name)| service(ns, name)).collect();
        let table = Table::compile(&routes).unwrap();
        for (index, (ns, name)) in names.iter().enumerate() {
            let prefix = format!("/serving/{ns}/{name}");
            let model = format!("/v1/models/{name}:predict");
            for (host, path) in [
                (format!("{name}.{ns}.example.com"), model.clone()),
                (format!("{name}-{ns}.example.com"), "/predict".to_owned()),
                ("localhost".to_owned(), format!("{prefix}{model}")),
                ("localhost".to_owned(), model.clone()),
            ] {
                prop_assert_eq!(find(&table, &host, &path).map(|found| found.route), Ok(index));
            }
        }
    }

    #[test]
    fn no_path_makes_the_match_fail_badly(path in "/[a-z/:.%]{0,40}", host in "[a-z.]{0,20}") {
        // Panics on a wrong slice would show here.
        if let Ok(found) = find(&two(), &host, &path) {
            prop_assert!(path.is_char_boundary(found.strip));
        }
    }
}

/// A route by rules alone.
fn by_rules(id: &str, hosts: &[&str]) -> Route {
    let rule = crate::Rule {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..crate::Rule::default()
    };
    route(
        id,
        Predicate {
            rules: Some(vec![rule]),
            ..Predicate::default()
        },
    )
}

#[test]
fn rules_come_after_a_known_host_before_prefix_and_name_and_without_host_last() {
    let table = Table::compile(&[
        service("a", "iris"),
        by_rules("app", &["app.com", "*.a.example.com"]),
        by_rules("rest", &[]),
    ])
    .unwrap();
    for (host, path, expected) in [
        ("iris.a.example.com", "/predict", 0),
        ("other.a.example.com", "/predict", 1),
        ("app.com", "/serving/a/iris/predict", 1),
        ("app.com", "/v1/models/iris:predict", 1),
        ("localhost", "/serving/a/iris/predict", 0),
        ("localhost", "/v1/models/iris:predict", 0),
        ("localhost", "/v1/models/cats:predict", 2),
        ("localhost", "/anything", 2),
    ] {
        assert_eq!(
            find(&table, host, path).map(|found| found.route),
            Ok(expected),
            "{host} {path}"
        );
    }
}

#[test]
fn a_rule_without_host_does_not_hide_what_is_ambiguous_or_disagrees() {
    let table = Table::compile(&[service("a", "iris"), service("b", "iris"), by_rules("rest", &[])]).unwrap();
    assert_eq!(
        code(find(&table, "localhost", "/v1/models/iris:predict")),
        Code::AmbiguousRoute
    );
    let disagrees = find(&table, "iris.a.example.com", "/serving/b/iris");
    assert_eq!(code(disagrees), Code::RouteDisagreement);
}

#[test]
fn equal_rules_of_two_routes_are_no_collision_and_an_empty_list_takes_nothing() {
    let mut none = by_rules("none", &[]);
    none.predicate.rules = Some(Vec::new());
    let table = Table::compile(&[none, by_rules("first", &["app.com"]), by_rules("second", &["app.com"])]).unwrap();
    assert_eq!(find(&table, "app.com", "/").map(|found| found.route), Ok(1));
    assert_eq!(code(find(&table, "localhost", "/")), Code::UnknownRoute);
}
