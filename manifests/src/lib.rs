//! The manifest types, their parser and the configuration that follows from them. Does no IO: text in, values out.
//!
//! Text becomes a tree whose keys know their lines (`tree`), the tree is checked against the schema of the types
//! (`check`), what is good of it becomes the types ([`v1beta1`]), and they become a [`Service`] by the rules between fields
//! (`service`). Every step reports all that it finds and passes on what is left, so a manifest's faults come in one go.
//!
//! It never reads a file, never knows of processes or routes, and never panics, whatever the text.

mod annotations;
mod builder;
mod canary;
mod check;
mod cluster;
mod crd;
mod devices;
mod documents;
mod duration;
pub mod effective;
pub mod failure;
mod fault;
pub mod keda;
mod known;
pub mod kubernetes;
mod path;
mod quantity;
mod reference;
mod report;
mod rewrite;
mod scalar;
mod schema;
mod service;
mod set;
mod storage;
mod suggest;
mod tree;
pub mod v1alpha1;
pub mod v1beta1;
mod yaml;

use std::path::Path;

pub use cluster::{parse_object, parse_runtime};
pub use crd::{CRD_FILES, crds, document};
pub use devices::{Devices, GPU_RESOURCE};
pub use effective::{Activation, AutoscalerClass, Batching, Canary, Cluster, Scaling, Service, Source, Storage};
pub use fault::Fault;
pub use reference::{annotations_table, fields_table, known_table};
pub use rewrite::absolute;
pub use set::check_set;

use crate::{report::Report, tree::Node};

/// What a text of manifests holds: the good documents, and what is to be said about the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// One for each document without a fault, in the order of the text.
    pub services: Vec<Service>,
    /// Every fault of every document, in the order of the lines; a document with one has no service.
    pub faults: Vec<Fault>,
    /// Fields that KServe has and we do not support yet, and values that have no effect here, by line too. They hinder nothing.
    pub warnings: Vec<Fault>,
}

/// Reads the YAML documents (or JSON, being YAML) of `text`. `file` names them in messages, and a relative `storageUri` is
/// relative to its directory; where `file` is relative itself, to the working directory. Reads no file. Never panics; a faulty
/// document does not hide the others.
///
/// Models come with JSON files of their own (configurations, vocabularies, example requests), and those may lie beside
/// manifests: a `*.json` file that holds neither `"apiVersion"` nor `"InferenceService"` is taken for one and says nothing.
pub fn parse(text: &str, file: &Path) -> Parsed {
    let mut parsed = Parsed::default();
    if is_data(text, file) {
        return parsed;
    }
    for document in tree::load(text) {
        let mut report = Report::new(file);
        for problem in document.problems {
            report.fault(problem.line, problem.field, problem.message);
        }
        let service = document.root.and_then(|root| read(&root, file, &mut report));
        parsed.services.extend(service);
        report.faults.sort_by_key(|fault| fault.line);
        report.warnings.sort_by_key(|warning| warning.line);
        parsed.faults.append(&mut report.faults);
        parsed.warnings.append(&mut report.warnings);
    }
    parsed
}

fn is_data(text: &str, file: &Path) -> bool {
    let marked = ["\"apiVersion\"", "\"InferenceService\""]
        .iter()
        .any(|mark| text.contains(mark));
    file.extension().is_some_and(|extension| extension == "json") && !marked
}

fn read(root: &Node, file: &Path, report: &mut Report<'_>) -> Option<Service> {
    if !is_inference_service(root, report) {
        return None;
    }
    let checked = check::check(root, report);
    service::build(root, checked, file, report)
}

/// Says what is wrong with `apiVersion` and `kind`; the rest of a foreign document is not looked at.
fn is_inference_service(root: &Node, report: &mut Report<'_>) -> bool {
    let text = |key: &str| root.get(key).and_then(|entry| entry.value.as_str());
    let (version, kind) = (text("apiVersion"), text("kind"));
    let expected = format!(
        "expected `apiVersion: {}` and `kind: {}`",
        v1beta1::API_VERSION,
        v1beta1::KIND
    );
    match (version, kind) {
        (_, Some(kind @ ("ServingRuntime" | "ClusterServingRuntime"))) => {
            let message = format!(
                "{kind} is not supported yet, the document has no effect: every model runs in Pilotlight's own runtime"
            );
            report.warning(root.line_of(&["kind"]), "kind", message);
            false
        }
        (_, Some(kind)) if kind != v1beta1::KIND => {
            let hint = suggest::nearest(kind, [v1beta1::KIND])
                .map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
            report.fault(
                root.line_of(&["kind"]),
                "kind",
                format!("found {}, {expected}{hint}", Fault::quote(kind)),
            );
            false
        }
        (Some(version), _) if version != v1beta1::API_VERSION => {
            let message = format!("found {}, {expected}", Fault::quote(version));
            report.fault(root.line_of(&["apiVersion"]), "apiVersion", message);
            false
        }
        (None, None) if root.get("apiVersion").is_none() && root.get("kind").is_none() => {
            report.fault(root.line_of(&[]), "", format!("this is no manifest: {expected}"));
            false
        }
        _ => true,
    }
}
