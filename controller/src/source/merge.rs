//! One set of services out of files and applied objects.

use std::{path::Path, sync::Arc};

use pilotlight_manifests::{Service, check_set};

use super::{Declared, files::Files, store::Store};

/// All services that don't collide. What is declared already stays with its file, so a newcomer is at fault.
pub(super) fn merge(files: &Files, store: &Store, before: &Declared, domain: &str) -> Declared {
    let incumbent = |service: &&Service| {
        let held = before.services.get(service.key().as_str());
        held.is_some_and(|held| held.source.file == service.source.file)
    };
    let all = files.all().flat_map(|(_, file)| &file.services).chain(store.all());
    let (stay, new): (Vec<&Service>, Vec<&Service>) = all.partition(incumbent);
    let ordered: Vec<Service> = stay.into_iter().chain(new).cloned().collect();
    let mut declared = Declared::default();
    let collisions = check_set(&ordered, domain);
    let at_fault = |file: &Path, line| collisions.iter().any(|fault| fault.file == file && fault.line == line);
    for service in ordered {
        if !at_fault(&service.source.file, service.source.line) {
            declared
                .services
                .insert(service.key().into(), keep_identity(before, service));
        }
    }
    for (path, file) in files.all() {
        declared.faults.extend(file.faults.iter().cloned());
        declared.warnings.extend(file.warnings.iter().cloned());
        declared
            .unreadable
            .extend(file.unreadable.iter().map(|error| (path.clone(), error.clone())));
    }
    declared.faults.extend(store.faults().iter().cloned());
    declared.faults.extend(collisions);
    declared.unreadable.extend(files.unreadable().cloned());
    declared.unreadable.extend(store.unreadable().iter().cloned());
    declared
}

/// The same value stays the same allocation, so that many generations of many services cost little.
fn keep_identity(before: &Declared, service: Service) -> Arc<Service> {
    match before.services.get(service.key().as_str()) {
        Some(held) if **held == service => held.clone(),
        _ => Arc::new(service),
    }
}
