//! Routes by rules of hosts, path prefixes and headers that have to match together, in the order of the KEDA HTTP add-on.
//!
//! Hosts come in three tiers: the exact name, wildcards from the most to the least specific (`*.example.com` stands for every
//! name below it, over several labels, and not for itself), and rules without host. In a tier the longest path prefix that
//! matches by whole segments counts, and of its rules the first whose headers all match; where none does the next tier is
//! looked at, not a shorter prefix. Rules with more headers come first, then those with more values, then those of the route
//! that comes first in the table. Paths are passed on as they came.

use std::{cmp::Reverse, collections::HashMap};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::table::Query;
use crate::Rule;

type Headers = Vec<(HeaderName, Option<HeaderValue>)>;

/// Compiled rules of all routes.
#[derive(Default)]
pub(crate) struct Rules {
    exact: HashMap<Box<str>, Paths>,
    /// By what follows the `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The rules of one host.
#[derive(Default)]
struct Paths {
    buckets: HashMap<Box<str>, Vec<Candidate>>,
    /// Numbers of segments that prefixes have, longest first.
    depths: Vec<usize>,
}

struct Candidate {
    route: usize,
    headers: Headers,
}

impl Rules {
    /// Adds a rule of the route with this index.
    pub(crate) fn add(&mut self, route: usize, rule: &Rule) {
        let any = [String::new()];
        let hosts = if rule.hosts.is_empty() { &any[..] } else { &rule.hosts };
        let prefixes = if rule.path_prefixes.is_empty() {
            &any[..]
        } else {
            &rule.path_prefixes
        };
        for host in hosts {
            let host = normal_host(host);
            let paths = match host.strip_prefix("*.") {
                Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
                None if host.is_empty() || host == "*" => &mut self.any,
                None => self.exact.entry(host.as_str().into()).or_default(),
            };
            for prefix in prefixes {
                paths.add(prefix, route, &rule.headers);
            }
        }
    }

    /// Puts every list into its order; called once all are added.
    pub(crate) fn finish(&mut self) {
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut());
        hosts.chain([&mut self.any]).for_each(Paths::finish);
    }

    /// The route that the host leads to: by its name, or by a wildcard over it.
    pub(crate) fn by_host(&self, query: Query<'_>) -> Option<usize> {
        let host = bare(query.host?);
        let exact = self.exact.get(host).and_then(|paths| paths.find(query));
        exact.or_else(|| self.by_wildcard(host, query))
    }

    fn by_wildcard(&self, host: &str, query: Query<'_>) -> Option<usize> {
        if self.wildcard.is_empty() {
            return None;
        }
        let dots = host.match_indices('.');
        dots.map(|(at, _)| &host[at + 1..])
            .filter_map(|suffix| self.wildcard.get(suffix))
            .find_map(|paths| paths.find(query))
    }

    /// The route of a rule without host.
    pub(crate) fn by_path(&self, query: Query<'_>) -> Option<usize> {
        self.any.find(query)
    }

    /// Host names that are known exactly, for messages.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.exact.keys().map(AsRef::as_ref)
    }
}

impl Paths {
    fn add(&mut self, prefix: &str, route: usize, headers: &Headers) {
        let prefix = normal_prefix(prefix);
        self.depths.push(prefix.matches('/').count());
        let candidate = Candidate {
            route,
            headers: headers.clone(),
        };
        self.buckets.entry(prefix.into()).or_default().push(candidate);
    }

    fn finish(&mut self) {
        self.depths.sort_unstable_by(|a, b| b.cmp(a));
        self.depths.dedup();
        for bucket in self.buckets.values_mut() {
            let values = |headers: &Headers| headers.iter().filter(|(_, value)| value.is_some()).count();
            bucket.sort_by_key(|Candidate { route, headers }| (Reverse((headers.len(), values(headers))), *route));
        }
    }

    /// Only the longest prefix that matches is looked at.
    fn find(&self, query: Query<'_>) -> Option<usize> {
        let mut depths = self.depths.iter();
        let bucket = depths.find_map(|&depth| self.buckets.get(first_segments(query.path, depth)?))?;
        let found = bucket
            .iter()
            .find(|candidate| all_match(&candidate.headers, query.headers));
        found.map(|candidate| candidate.route)
    }
}

/// Whether a rule takes a request, by itself; for lists of rules whose first match counts.
pub(crate) fn takes(rule: &Rule, query: Query<'_>) -> bool {
    let host = query.host.map(bare);
    let by_host = |pattern: &String| {
        let pattern = normal_host(pattern);
        match (pattern.strip_prefix("*."), host) {
            _ if pattern.is_empty() || pattern == "*" => true,
            (_, None) => false,
            (Some(suffix), Some(host)) => host
                .strip_suffix(suffix)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            (None, Some(host)) => pattern == host,
        }
    };
    let by_path = |prefix: &String| {
        let prefix = normal_prefix(prefix);
        first_segments(query.path, prefix.matches('/').count()) == Some(prefix.as_str())
    };
    (rule.hosts.is_empty() || rule.hosts.iter().any(by_host))
        && (rule.path_prefixes.is_empty() || rule.path_prefixes.iter().any(by_path))
        && all_match(&rule.headers, query.headers)
}

/// Whether every header is there, with the value where one is asked for.
pub(crate) fn all_match(wanted: &Headers, headers: &HeaderMap) -> bool {
    wanted.iter().all(|(name, wanted)| match wanted {
        None => headers.contains_key(name),
        Some(value) => headers.get_all(name).iter().any(|found| found == value),
    })
}

/// In lower case, without port.
fn normal_host(host: &str) -> String {
    bare(&crate::headers::host_name(host)).to_owned()
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

/// With a slash before and none after; the root is empty.
fn normal_prefix(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        rest => format!("/{rest}"),
    }
}

/// The first `depth` segments of a path, if it has as many.
pub(crate) fn first_segments(path: &str, depth: usize) -> Option<&str> {
    if depth == 0 {
        return Some("");
    }
    let mut seen = 0;
    for (at, byte) in path.bytes().enumerate().skip(1) {
        if byte == b'/' {
            seen += 1;
            if seen == depth {
                return Some(&path[..at]);
            }
        }
    }
    (seen + 1 == depth && path.len() > 1).then_some(path)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
