//! From a service as declared to what the platform runs and what the activator routes.

pub(crate) use pilotlight_activator::services::{backend, probe};
use pilotlight_activator::{Route, services};
use pilotlight_manifests::Service;
use pilotlight_storage::sha256;
use serde_json::json;

use crate::{
    model::Model,
    platform::{Revision, RuntimeSpec, Workload},
    source::Declared,
};

/// Digits of a revision that are shown; 48 bits tell apart more revisions than anyone rolls.
const REVISION_DIGITS: usize = 12;

/// The workload that serves this model under this service.
pub(crate) fn workload(service: &Service, model: &Model) -> Workload {
    let capacity = service.container_concurrency.map(std::num::NonZeroU32::get);
    let batch = service.batching.max_batch_size.get();
    Workload {
        id: backend(service),
        revision: revision(service, &model.digest),
        runtime: RuntimeSpec {
            model: service.name.clone(),
            path: model.path.clone(),
            hold: model.hold.clone(),
            args: service.args.clone(),
            env: service.env.clone(),
            batching: service.batching.clone(),
            timeout: service.timeout,
        },
        capacity,
        initial_capacity: services::initial_capacity(capacity, batch),
    }
}

/// The digest of all that takes a new process: the model's content and everything on the runtime's command line. Scaling,
/// activation and the file's path don't. Concurrency of a replica does, as in Knative, where it belongs to the revision.
fn revision(service: &Service, digest: &str) -> Revision {
    let parts = json!([
        digest,
        service.name,
        service.args,
        service.env,
        service.container_concurrency.map(std::num::NonZeroU32::get),
        service.timeout.as_nanos().to_string(),
        service.batching.max_batch_size.get(),
        service.batching.max_latency.as_nanos().to_string(),
        service.batching.queue_size,
        service.batching.ready_queue_limit,
        service.batching.priority_levels,
        service.batching.default_priority,
        service.batching.preferred_batch_sizes,
        service.batching.adaptive,
    ]);
    // Reading from memory can't fail, and an empty digest would only cost a roll-over.
    let whole = sha256(parts.to_string().as_bytes());
    Revision::new(&whole[..REVISION_DIGITS.min(whole.len())])
}

/// The path under which a service is reached whatever its host.
pub(crate) fn path_prefix(service: &Service) -> String {
    services::path_prefix(&service.namespace, &service.name)
}

/// The routes of all services.
pub(crate) fn routes(declared: &Declared, domain: &str) -> Vec<Route> {
    declared
        .services
        .values()
        .map(|service| services::route(service, domain))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{platform::Hold, testing::service};

    fn model(path: &str, digest: &str) -> Model {
        Model {
            path: PathBuf::from(path),
            digest: digest.to_owned(),
            hold: Hold::default(),
        }
    }

    #[test]
    fn what_needs_a_new_process_changes_the_revision_and_nothing_else_does() {
        let base = service("iris");
        let revision = |service: &Service| workload(service, &model("a.onnx", "d1")).revision;
        let first = revision(&base);
        assert_eq!(first.as_str().len(), REVISION_DIGITS);
        assert_ne!(first, workload(&base, &model("a.onnx", "d2")).revision);
        assert_eq!(first, workload(&base, &model("elsewhere/a.onnx", "d1")).revision);
        let mut scaled = base.clone();
        scaled.scaling.max_replicas = Some(9);
        scaled.scaling.target = 3.0;
        scaled.activation.max_waiting = 3;
        assert_eq!(first, revision(&scaled));
        let mut slower = base.clone();
        slower.timeout *= 2;
        assert_ne!(first, revision(&slower));
        let mut with_env = base.clone();
        with_env.env.insert("A".into(), "b".into());
        assert_ne!(first, revision(&with_env));
    }
}
