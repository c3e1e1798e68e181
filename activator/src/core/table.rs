//! Which route takes a request: a known host first, then the longest path prefix, then the model's name.
//!
//! Compiled once per table into hash maps; a match costs one look-up per step and allocates nothing. Where two steps
//! both say something they have to agree. Headers narrow the candidates of a step; among those that match, the route
//! that asks for more headers wins. Routes by rules ([`Rules`]) come after a known host and before prefix and name; those of
//! them without host come last.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::rules::{self, Rules, first_segments};
use crate::{Predicate, Route, RouteId, error::Code};

/// What is wrong with a table of routes. A faulty table changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Two routes have the same name.
    #[error("route {0} is declared twice")]
    Duplicate(RouteId),
    /// Nothing could ever take this route.
    #[error("route {0} has neither host nor path prefix nor model name nor rules")]
    Unreachable(RouteId),
    /// No backend, or only weights of 0.
    #[error("route {0} has no backend with a weight above 0")]
    NoBackend(RouteId),
    /// Two routes claim the same host with the same headers.
    #[error("routes {first} and {second} both claim host {host:?}")]
    HostCollision {
        /// The host.
        host: String,
        /// The route that came first in the table.
        first: RouteId,
        /// The other one.
        second: RouteId,
    },
    /// Two routes claim the same path prefix with the same headers.
    #[error("routes {first} and {second} both claim path prefix {prefix:?}")]
    PrefixCollision {
        /// The prefix.
        prefix: String,
        /// The route that came first in the table.
        first: RouteId,
        /// The other one.
        second: RouteId,
    },
    /// A host that is empty, not in lower case or has a port.
    #[error("route {route}: {host:?} is not a lower-case host name without port")]
    InvalidHost {
        /// The route.
        route: RouteId,
        /// What it says.
        host: String,
    },
    /// A prefix that does not start with `/` or has an empty segment.
    #[error("route {route}: {prefix:?} is not a path prefix like /serving/ns/name")]
    InvalidPrefix {
        /// The route.
        route: RouteId,
        /// What it says.
        prefix: String,
    },
}

impl RouteError {
    /// The route without which the table would be good as far as this error goes; of two that collide the later one.
    pub fn route(&self) -> &RouteId {
        match self {
            Self::Duplicate(route) | Self::Unreachable(route) | Self::NoBackend(route) => route,
            Self::HostCollision { second, .. } | Self::PrefixCollision { second, .. } => second,
            Self::InvalidHost { route, .. } | Self::InvalidPrefix { route, .. } => route,
        }
    }
}

/// What a match needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    /// Lower-case host without port.
    pub(crate) host: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// A match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Index of the route in the table.
    pub(crate) route: usize,
    /// Bytes of the path to take off before forwarding.
    pub(crate) strip: usize,
}

/// No match, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Miss {
    /// Nothing is known of what was asked for, in contrast to too much.
    fn is_unknown(&self) -> bool {
        matches!(self.code, Code::UnknownRoute | Code::UnknownModel)
    }
}

type Index = HashMap<Box<str>, Vec<usize>>;
type Headers = Vec<(HeaderName, Option<HeaderValue>)>;

struct Entry {
    id: RouteId,
    headers: Headers,
    hosts: Vec<String>,
    model_name: Option<String>,
}

/// A compiled table.
#[derive(Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    hosts: Index,
    prefixes: Index,
    /// Numbers of segments that prefixes have, longest first.
    depths: Vec<usize>,
    names: Index,
    rules: Rules,
}

/// Names listed in a 404 at most; a table may hold thousands.
const LISTED: usize = 8;

impl Table {
    /// Checks and compiles routes; their order gives the indices of [`Found`].
    pub(crate) fn compile(routes: &[Route]) -> Result<Self, RouteError> {
        let mut table = Self::default();
        let mut ids = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            if ids.insert(route.id.clone(), index).is_some() {
                return Err(RouteError::Duplicate(route.id.clone()));
            }
            table.add(index, route)?;
        }
        for candidates in table
            .hosts
            .values_mut()
            .chain(table.prefixes.values_mut())
            .chain(table.names.values_mut())
        {
            // Stable: routes with as many header predicates keep the order of the table.
            candidates.sort_by_key(|&index| std::cmp::Reverse(table.entries[index].headers.len()));
        }
        table.depths.sort_unstable_by(|a, b| b.cmp(a));
        table.depths.dedup();
        table.rules.finish();
        Ok(table)
    }

    fn add(&mut self, index: usize, route: &Route) -> Result<(), RouteError> {
        let Predicate {
            hosts,
            path_prefixes,
            headers,
            model_name,
            rules,
        } = &route.predicate;
        if hosts.is_empty() && path_prefixes.is_empty() && model_name.is_none() && rules.is_none() {
            return Err(RouteError::Unreachable(route.id.clone()));
        }
        if route.backends.iter().all(|backend| backend.weight == 0) {
            return Err(RouteError::NoBackend(route.id.clone()));
        }
        self.entries.push(Entry {
            id: route.id.clone(),
            headers: headers.clone(),
            hosts: hosts.clone(),
            model_name: model_name.clone(),
        });
        for host in hosts {
            check_host(route, host)?;
            if let Some(first) = self.collision(&self.hosts, host, index) {
                return Err(RouteError::HostCollision {
                    host: host.clone(),
                    first,
                    second: route.id.clone(),
                });
            }
            push(&mut self.hosts, host, index);
        }
        for prefix in path_prefixes {
            let normal = check_prefix(route, prefix)?;
            if let Some(first) = self.collision(&self.prefixes, normal, index) {
                return Err(RouteError::PrefixCollision {
                    prefix: prefix.clone(),
                    first,
                    second: route.id.clone(),
                });
            }
            self.depths.push(normal.matches('/').count());
            push(&mut self.prefixes, normal, index);
        }
        if let Some(name) = model_name {
            push(&mut self.names, name, index);
        }
        for rule in rules.iter().flatten() {
            self.rules.add(index, rule);
        }
        Ok(())
    }

    /// A route that claims the same key with the same headers, whose requests could not be told apart.
    fn collision(&self, index: &Index, key: &str, new: usize) -> Option<RouteId> {
        let headers = &self.entries[new].headers;
        index
            .get(key)?
            .iter()
            .filter(|&&other| other != new)
            .find(|&&other| same_headers(&self.entries[other].headers, headers))
            .map(|&other| self.entries[other].id.clone())
    }

    /// The route of a request. `name_in` reads the model's name from what is left of a path.
    pub(crate) fn find<'p>(
        &self,
        query: Query<'p>,
        name_in: impl Fn(&'p str) -> Option<&'p str>,
    ) -> Result<Found, Miss> {
        self.find_named(query, name_in)
            .or_else(|miss| self.hostless(query).filter(|_| miss.is_unknown()).ok_or(miss))
    }

    /// The route by a rule without host, for a request that nothing else takes.
    pub(crate) fn hostless(&self, query: Query<'_>) -> Option<Found> {
        let route = self.rules.by_path(query)?;
        Some(Found { route, strip: 0 })
    }

    fn find_named<'p>(&self, query: Query<'p>, name_in: impl Fn(&'p str) -> Option<&'p str>) -> Result<Found, Miss> {
        let addressed = self.addressed(query)?;
        let strip = addressed.map_or(0, |found| found.strip);
        let name = name_in(&query.path[strip..]);
        let Some(found) = addressed else {
            return self.by_name(query, name);
        };
        match (name, &self.entries[found.route].model_name) {
            (Some(name), Some(own)) if name != own => Err(Miss {
                code: Code::RouteDisagreement,
                message: format!(
                    "{} leads to {}, which serves model {own:?}, but the request names model {name:?}",
                    if self.by_host(query).is_some() {
                        "the host"
                    } else {
                        "the path prefix"
                    },
                    self.entries[found.route].id,
                ),
            }),
            _ => Ok(found),
        }
    }

    /// The route that host and path prefix alone lead to; `None` if they say nothing.
    pub(crate) fn addressed(&self, query: Query<'_>) -> Result<Option<Found>, Miss> {
        let host = self.by_host(query);
        if host.is_none()
            && let Some(route) = self.rules.by_host(query)
        {
            return Ok(Some(Found { route, strip: 0 }));
        }
        match (host, self.longest_prefix(query)) {
            (Some(host), Some(path)) if host != path.route => Err(self.disagreement(query, host, path)),
            (Some(host), None) => Ok(Some(Found { route: host, strip: 0 })),
            (_, path) => Ok(path),
        }
    }

    fn by_host(&self, query: Query<'_>) -> Option<usize> {
        self.first(self.hosts.get(query.host?)?, query.headers)
    }

    fn longest_prefix(&self, query: Query<'_>) -> Option<Found> {
        self.depths.iter().find_map(|&depth| {
            let prefix = first_segments(query.path, depth)?;
            let route = self.first(self.prefixes.get(prefix)?, query.headers)?;
            Some(Found {
                route,
                strip: prefix.len(),
            })
        })
    }

    fn by_name(&self, query: Query<'_>, name: Option<&str>) -> Result<Found, Miss> {
        let Some(name) = name else {
            return Err(self.unknown(query));
        };
        let mut candidates = self
            .names
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .filter(|&index| self.headers_match(index, query.headers));
        let Some(route) = candidates.next() else {
            return Err(self.unknown_model(query, name));
        };
        let wanted = self.entries[route].headers.len();
        // Sorted by the number of header predicates: a second one that asks for as many is as good a match.
        if candidates
            .next()
            .is_some_and(|other| self.entries[other].headers.len() == wanted)
        {
            return Err(self.ambiguous(name));
        }
        Ok(Found { route, strip: 0 })
    }

    fn first(&self, candidates: &[usize], headers: &HeaderMap) -> Option<usize> {
        candidates
            .iter()
            .copied()
            .find(|&index| self.headers_match(index, headers))
    }

    fn headers_match(&self, index: usize, headers: &HeaderMap) -> bool {
        rules::all_match(&self.entries[index].headers, headers)
    }

    // --- words for the client -----------------------------------------------------------------------------------

    fn disagreement(&self, query: Query<'_>, host: usize, path: Found) -> Miss {
        Miss {
            code: Code::RouteDisagreement,
            message: format!(
                "host {:?} leads to {} but path prefix {:?} to {}",
                query.host.unwrap_or_default(),
                self.entries[host].id,
                &query.path[..path.strip],
                self.entries[path.route].id,
            ),
        }
    }

    fn unknown(&self, query: Query<'_>) -> Miss {
        Miss {
            code: Code::UnknownRoute,
            message: format!(
                "no route: {}, path {:?} is under no known prefix and names no model; known hosts: {}; known models: {}",
                host_tried(query.host),
                query.path,
                list(self.hosts.keys().map(AsRef::as_ref).chain(self.rules.hosts())),
                list(self.names.keys().map(AsRef::as_ref)),
            ),
        }
    }

    fn unknown_model(&self, query: Query<'_>, name: &str) -> Miss {
        Miss {
            code: Code::UnknownModel,
            message: format!(
                "model {name:?} does not exist ({}); known models: {}",
                host_tried(query.host),
                list(self.names.keys().map(AsRef::as_ref)),
            ),
        }
    }

    fn ambiguous(&self, name: &str) -> Miss {
        let hosts = self.names.get(name).into_iter().flatten().filter_map(|&index| {
            let entry = &self.entries[index];
            entry.hosts.first().map(String::as_str).or(Some(entry.id.as_str()))
        });
        Miss {
            code: Code::AmbiguousRoute,
            message: format!(
                "model {name:?} exists more than once; name one of these hosts: {}",
                list(hosts)
            ),
        }
    }
}

fn push(index: &mut Index, key: &str, route: usize) {
    let candidates = index.entry(key.into()).or_default();
    if !candidates.contains(&route) {
        candidates.push(route);
    }
}

fn same_headers(a: &Headers, b: &Headers) -> bool {
    a.len() == b.len() && a.iter().all(|header| b.contains(header))
}

fn check_host(route: &Route, host: &str) -> Result<(), RouteError> {
    let port = host.contains(':') && !host.starts_with('[');
    if host.is_empty() || port || host.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'/') {
        return Err(RouteError::InvalidHost {
            route: route.id.clone(),
            host: host.to_owned(),
        });
    }
    Ok(())
}

/// The prefix without trailing slash; `/` becomes empty.
fn check_prefix<'a>(route: &Route, prefix: &'a str) -> Result<&'a str, RouteError> {
    let normal = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.starts_with('/') || normal.contains("//") || normal.ends_with('/') {
        return Err(RouteError::InvalidPrefix {
            route: route.id.clone(),
            prefix: prefix.to_owned(),
        });
    }
    Ok(normal)
}

fn host_tried(host: Option<&str>) -> String {
    match host {
        Some(host) => format!("host {host:?} is not known"),
        None => "the request names no host".to_owned(),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    let text = names.join(", ");
    if more > 0 {
        return format!("{text} and {more} more");
    }
    text
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
