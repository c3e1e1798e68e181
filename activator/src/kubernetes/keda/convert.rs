//! From the add-on's routes to the activator's: a pure function of the objects.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pilotlight_manifests::keda::{self, HeaderMatch, InterceptorRouteSpec, Overflow, ResponseMode, TargetRef};

use super::KedaConfig;
use crate::{
    BackendId, ColdStart, Predicate, Purity, Route, RouteId, RoutePolicy, Rule, WeightedBackend,
    cold_start::{StaticBody, StaticResponse, StaticRoute},
};

/// Readiness limit of a route with a fallback where nobody sets one.
const FALLBACK_AFTER: Duration = Duration::from_secs(30);
/// No limit; a wait of so long ends with its client.
const UNLIMITED: Duration = Duration::MAX;

/// A route of the add-on, whichever object it is from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) spec: InterceptorRouteSpec,
}

/// Files of a ConfigMap that answers may be read from, by `namespace/name`.
pub(crate) type Files = BTreeMap<String, Arc<BTreeMap<String, Bytes>>>;

/// A backend and the Service that its endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leads {
    pub(crate) backend: BackendId,
    pub(crate) namespace: String,
    pub(crate) target: TargetRef,
}

/// What follows from all objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) routes: Vec<Route>,
    pub(crate) backends: Vec<Leads>,
    /// Routes that can't be had, and why.
    pub(crate) faults: Vec<(String, String)>,
}

/// The backend of a route's target.
pub(crate) fn backend(namespace: &str, name: &str) -> BackendId {
    BackendId::new(format!("{namespace}/{name}@http"))
}

fn fallback_backend(namespace: &str, name: &str) -> BackendId {
    BackendId::new(format!("{namespace}/{name}@fallback"))
}

/// The routes in the add-on's order: of equal rules the oldest comes first, then the namespace and the name that come last
/// in the alphabet.
pub(crate) fn plan(mut declared: Vec<Declared>, files: &Files, config: &KedaConfig) -> Plan {
    declared.sort_by(|a, b| {
        let age = a.created.cmp(&b.created);
        age.then_with(|| b.namespace.cmp(&a.namespace))
            .then_with(|| b.name.cmp(&a.name))
    });
    let mut plan = Plan::default();
    for route in &declared {
        match convert(route, files, config) {
            Ok(converted) => {
                plan.backends
                    .push(leads(route, backend(&route.namespace, &route.name), &route.spec.target));
                let cold_start = route.spec.cold_start.as_ref();
                if let Some(fallback) = cold_start.and_then(|cold| cold.fallback.as_ref()) {
                    let id = fallback_backend(&route.namespace, &route.name);
                    plan.backends.push(leads(route, id, &fallback.service.clone().into()));
                }
                plan.routes.push(converted);
            }
            Err(fault) => plan.faults.push((format!("{}/{}", route.namespace, route.name), fault)),
        }
    }
    plan
}

fn leads(route: &Declared, backend: BackendId, target: &TargetRef) -> Leads {
    Leads {
        backend,
        namespace: route.namespace.clone(),
        target: target.clone(),
    }
}

fn convert(declared: &Declared, files: &Files, config: &KedaConfig) -> Result<Route, String> {
    let Declared {
        namespace, name, spec, ..
    } = declared;
    let cold_start = cold_start(declared, files)?;
    Ok(Route {
        id: RouteId::new(format!("{namespace}/{name}")),
        predicate: Predicate {
            rules: Some(rules(&spec.rules)?),
            ..Predicate::default()
        },
        backends: vec![WeightedBackend {
            backend: backend(namespace, name),
            weight: 100,
        }],
        policy: policy(spec, config, cold_start),
    })
}

fn policy(spec: &InterceptorRouteSpec, config: &KedaConfig, cold_start: ColdStart) -> RoutePolicy {
    let own = &spec.timeouts;
    let limit = |own: Option<keda::GoDuration>, global: Duration| own.map_or(global, |own| own.0);
    let readiness = limit(own.readiness, config.readiness_timeout);
    let readiness = match (readiness.is_zero(), &cold_start.fallback) {
        (true, Some(_)) => FALLBACK_AFTER,
        (true, None) => UNLIMITED,
        (false, _) => readiness,
    };
    let request = limit(own.request, config.request_timeout);
    let response = limit(own.response_header, config.response_header_timeout);
    let own_pending = spec.cold_start.as_ref().and_then(|cold| cold.max_pending_requests);
    let pending = own_pending
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(config.max_pending);
    RoutePolicy {
        max_waiting: if pending == 0 {
            RoutePolicy::default().max_waiting
        } else {
            pending
        },
        wait_timeout: readiness,
        response_timeout: if response.is_zero() { UNLIMITED } else { response },
        request_timeout: Some(request).filter(|request| !request.is_zero()),
        // It may be anything, so nothing is sent twice that may have arrived once.
        purity: Purity::Opaque,
        cold_start: Some(cold_start)
            .filter(|cold| *cold != ColdStart::default())
            .map(Arc::new),
        ..RoutePolicy::default()
    }
}

fn rules(rules: &[keda::Rule]) -> Result<Vec<Rule>, String> {
    let rule = |rule: &keda::Rule| {
        Ok(Rule {
            hosts: rule.hosts.clone(),
            path_prefixes: rule.paths.iter().map(|path| path.value.clone()).collect(),
            headers: rule.headers.iter().map(header).collect::<Result<_, String>>()?,
        })
    };
    rules.iter().map(rule).collect()
}

fn header(header: &HeaderMatch) -> Result<(HeaderName, Option<HeaderValue>), String> {
    let name = header
        .name
        .parse()
        .map_err(|_| format!("{:?} is no name of a header", header.name))?;
    let value = header.value.as_deref().map(HeaderValue::from_str).transpose();
    Ok((
        name,
        value.map_err(|_| format!("{:?} is no value of a header", header.value))?,
    ))
}

fn cold_start(declared: &Declared, files: &Files) -> Result<ColdStart, String> {
    let Declared {
        namespace, name, spec, ..
    } = declared;
    let own = spec.cold_start.as_ref();
    let placeholder = own.and_then(|cold| cold.placeholder.as_ref());
    let placeholder =
        placeholder.map(|page| response(namespace, &page.response, StatusCode::SERVICE_UNAVAILABLE, files));
    let static_routes = spec.static_routes.iter().map(|route| {
        Ok(StaticRoute {
            rules: rules(&route.rules)?,
            response: response(namespace, &route.response, StatusCode::OK, files)?,
            when_unavailable: route.response_mode == ResponseMode::WhenUnavailable,
        })
    });
    Ok(ColdStart {
        fallback: own
            .and_then(|cold| cold.fallback.as_ref())
            .map(|_| fallback_backend(namespace, name)),
        placeholder: placeholder.transpose()?,
        placeholder_for_overflow: own
            .is_some_and(|cold| cold.overflow == Overflow::Placeholder && cold.max_pending_requests.is_some()),
        static_routes: static_routes.collect::<Result<_, String>>()?,
    })
}

fn response(
    namespace: &str,
    given: &keda::StaticResponse,
    default: StatusCode,
    files: &Files,
) -> Result<StaticResponse, String> {
    let status = given.status_code.and_then(|status| u16::try_from(status).ok());
    let status = status
        .map_or(Ok(default), StatusCode::from_u16)
        .map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, value) in &given.headers {
        let value = Some(value.clone());
        let (name, value) = header(&HeaderMatch {
            name: name.clone(),
            value,
        })?;
        headers.extend(value.map(|value| (name, value)));
    }
    let body = match (&given.body_from_config_map, &given.body) {
        (Some(source), _) => match (files.get(&format!("{namespace}/{}", source.name)), &source.key) {
            (None, _) => StaticBody::Missing,
            (Some(files), None) => StaticBody::Files(Arc::clone(files)),
            (Some(files), Some(key)) => files.get(key).map_or(StaticBody::Missing, |bytes| {
                StaticBody::File(key.clone(), bytes.clone())
            }),
        },
        (None, body) => StaticBody::Text(body.clone().unwrap_or_default().into()),
    };
    Ok(StaticResponse { status, headers, body })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
