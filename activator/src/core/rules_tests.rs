use proptest::prelude::*;

use super::*;

fn rule(hosts: &[&str], prefixes: &[&str], headers: &[(&str, Option<&str>)]) -> Rule {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    Rule {
        hosts: list(hosts),
        path_prefixes: list(prefixes),
        headers: headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.map(|value| value.parse().unwrap())))
            .collect(),
    }
}

fn rules(list: &[Rule]) -> Rules {
    let mut rules = Rules::default();
    for (route, rule) in list.iter().enumerate() {
        rules.add(route, rule);
    }
    rules.finish();
    rules
}

fn find_with(rules: &Rules, host: &str, path: &str, headers: &[(&str, &str)]) -> Option<usize> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let host = crate::headers::host_name(host);
    let query = Query {
        host: Some(&host),
        path,
        headers: &map,
    };
    rules.by_host(query).or_else(|| rules.by_path(query))
}

fn find(rules: &Rules, host: &str, path: &str) -> Option<usize> {
    find_with(rules, host, path, &[])
}

/// Add-on unit tests `TestNewKey` and `TestStripPort`.
#[test]
fn add_on_hosts_have_no_port_and_prefixes_no_slash_at_their_ends() {
    let rules = rules(&[
        rule(&["a.example.com:8080"], &["/x/"], &[]),
        rule(&["[::1]:8080"], &["y"], &[]),
        rule(&["Upper.Example.com"], &[], &[]),
    ]);
    for (host, path, expected) in [
        ("a.example.com", "/x", Some(0)),
        ("a.example.com:9999", "/x/z", Some(0)),
        ("a.example.com", "/x/", Some(0)),
        ("a.example.com", "/", None),
        ("[::1]", "/y", Some(1)),
        ("[::1]:8080", "/y/z", Some(1)),
        // Names of hosts have no case; the add-on compares bytes.
        ("UPPER.example.com", "/", Some(2)),
    ] {
        assert_eq!(find(&rules, host, path), expected, "{host} {path}");
    }
}

/// Add-on unit test `TestNewKeysFromRoutingRule`: hosts times paths.
#[test]
fn add_on_hosts_and_paths_of_a_rule_are_a_cartesian_product() {
    let rules = rules(&[rule(&["a.com", "b.com"], &["/x", "/y"], &[])]);
    for host in ["a.com", "b.com"] {
        for path in ["/x", "/y/z"] {
            assert_eq!(find(&rules, host, path), Some(0));
        }
        assert_eq!(find(&rules, host, "/z"), None);
    }
    assert_eq!(find(&rules, "c.com", "/x"), None);
}

/// Fact: `/health` does not match `/healthz`.
#[test]
fn add_on_prefixes_match_whole_segments_and_the_longest_counts() {
    let rules = rules(&[
        rule(&["a.com"], &[], &[]),
        rule(&["a.com"], &["/health"], &[]),
        rule(&["a.com"], &["/health/deep"], &[]),
    ]);
    for (path, expected) in [
        ("/", 0),
        ("/healthz", 0),
        ("/health", 1),
        ("/health/", 1),
        ("/health/deeper", 1),
        ("/health/deep/er", 2),
    ] {
        assert_eq!(find(&rules, "a.com", path), Some(expected), "{path}");
    }
}

/// Add-on unit test `TestWildcardHostnames`: over several labels, never the bare domain.
#[test]
fn add_on_wildcards_stand_for_every_name_below() {
    let rules = rules(&[rule(&["*.example.com"], &[], &[])]);
    for (host, expected) in [
        ("a.example.com", Some(0)),
        ("a.b.example.com", Some(0)),
        ("example.com", None),
        ("aexample.com", None),
        ("a.example.org", None),
    ] {
        assert_eq!(find(&rules, host, "/"), expected, "{host}");
    }
}

/// Add-on unit tests `TestRouteWildcardPrecedence` and `TestRouteCatchAll`.
#[test]
fn add_on_exact_beats_wildcards_beats_the_catch_all() {
    let rules = rules(&[
        rule(&[], &[], &[]),
        rule(&["*.com"], &[], &[]),
        rule(&["*.example.com"], &[], &[]),
        rule(&["*.b.example.com"], &[], &[]),
        rule(&["a.b.example.com"], &[], &[]),
    ]);
    for (host, expected) in [
        ("a.b.example.com", 4),
        ("c.b.example.com", 3),
        ("c.d.example.com", 2),
        ("b.example.com", 2),
        ("example.com", 1),
        ("example.org", 0),
    ] {
        assert_eq!(find(&rules, host, "/"), Some(expected), "{host}");
    }
    for any in ["", "*"] {
        assert_eq!(
            find(&self::rules(&[rule(&[any], &["/x"], &[])]), "h", "/x"),
            Some(0),
            "{any:?}"
        );
    }
}

/// Fact: where no rule of the longest prefix's bucket matches, the next tier of hosts is looked at, not a shorter path.
#[test]
fn add_on_a_bucket_without_match_falls_to_the_next_host_tier_and_not_to_a_shorter_path() {
    let rules = rules(&[
        rule(&["a.example.com"], &[], &[]),
        rule(&["a.example.com"], &["/x"], &[("x-need", None)]),
        rule(&["*.example.com"], &["/x"], &[]),
    ]);
    assert_eq!(find(&rules, "a.example.com", "/x/y"), Some(2));
    assert_eq!(find_with(&rules, "a.example.com", "/x/y", &[("x-need", "1")]), Some(1));
    assert_eq!(find(&rules, "a.example.com", "/z"), Some(0));
}

/// Add-on unit tests `TestRouteWithHeaders` and `TestMatchHeaders`.
#[test]
fn add_on_more_headers_beat_fewer_and_values_beat_presence() {
    let rules = rules(&[
        rule(&["a.com"], &[], &[]),
        rule(&["a.com"], &[], &[("X-A", None)]),
        rule(&["a.com"], &[], &[("X-A", Some("1"))]),
        rule(&["a.com"], &[], &[("X-A", Some("1")), ("X-B", None)]),
        rule(&["a.com"], &[], &[("X-Empty", Some(""))]),
    ]);
    let cases: [(&[(&str, &str)], usize); 8] = [
        (&[], 0),
        (&[("x-a", "2")], 1),
        (&[("x-a", "1")], 2),
        (&[("X-A", "2"), ("x-a", "1")], 2),
        (&[("x-a", "1"), ("x-b", "")], 3),
        (&[("x-b", "")], 0),
        (&[("x-empty", "")], 4),
        (&[("x-empty", "full")], 0),
    ];
    for (headers, expected) in cases {
        assert_eq!(find_with(&rules, "a.com", "/", headers), Some(expected), "{headers:?}");
    }
}

/// Add-on unit test `TestRememberOldestWins`: the table is given in that order.
#[test]
fn add_on_of_equal_rules_the_route_that_comes_first_wins() {
    let same = rule(&["a.com"], &["/x"], &[("x-a", None)]);
    assert_eq!(
        find_with(&rules(&[same.clone(), same]), "a.com", "/x", &[("x-a", "")]),
        Some(0)
    );
}

/// Add-on unit tests `TestMatchAnyHost`, `TestMatchAnyPath` and `TestMatchRoutingRule`, for the rules of static routes.
#[test]
fn add_on_a_rule_by_itself_takes_what_it_would_in_a_table() {
    let cases = [
        (rule(&[], &[], &[]), "h", "/", true),
        (rule(&["h"], &["/x"], &[]), "h", "/x/y", true),
        (rule(&["h"], &["/x"], &[]), "h", "/xy", false),
        (rule(&["*.h"], &[], &[]), "a.b.h", "/", true),
        (rule(&["*.h"], &[], &[]), "h", "/", false),
        (rule(&["*.h"], &[], &[]), "ah", "/", false),
        (rule(&["*"], &[], &[]), "h", "/", true),
        (rule(&[], &[], &[("x-a", None)]), "h", "/", false),
    ];
    let headers = HeaderMap::new();
    for (rule, host, path, expected) in cases {
        let query = Query {
            host: Some(host),
            path,
            headers: &headers,
        };
        assert_eq!(takes(&rule, query), expected, "{rule:?} {host} {path}");
    }
}

proptest! {
    /// Add-on `FuzzTableMemoryRoute`, with a slow look over all rules as the truth of whether any matches.
    #[test]
    fn add_on_what_is_found_matches_and_what_is_not_found_matches_nothing(
        list in proptest::collection::vec(("(\\*\\.)?[ab](\\.[ab]){0,2}|\\*|", "(/[xy]){0,3}/?"), 1..8),
        host in "[ab](\\.[ab]){0,3}", path in "(/[xy]){1,4}/?",
    ) {
        let list: Vec<Rule> = list.iter().map(|(host, path)| rule(&[host], &[path], &[])).collect();
        let headers = HeaderMap::new();
        let query = Query { host: Some(&host), path: &path, headers: &headers };
        let matching: Vec<usize> = (0..list.len()).filter(|&at| takes(&list[at], query)).collect();
        match find(&rules(&list), &host, &path) {
            Some(found) => prop_assert!(matching.contains(&found), "{found} of {list:?}"),
            None => prop_assert!(matching.is_empty(), "{matching:?} of {list:?}"),
        }
    }

    #[test]
    fn add_on_nothing_makes_it_panic(host in "\\PC{0,20}", path in "\\PC{0,20}") {
        let rules = rules(&[rule(&[&host], &[&path], &[])]);
        find(&rules, &host, &path);
    }
}
