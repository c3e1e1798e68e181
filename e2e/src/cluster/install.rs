//! Puts Pilotlight into a cluster as a user does: an overlay of `manifests/install` that names the image.

use std::{fs, path::Path};

use super::{ACTIVATOR, CONTROLLER, SYSTEM, kubectl::Kubectl};
use crate::places;

const OVERLAY: &str = "manifests/install/overlays/high-availability";

/// Installs it and waits until controllers and activators are ready. The error tells what was not and why.
pub(super) fn install(kubectl: &Kubectl, image: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().canonicalize().map_err(|error| error.to_string())?;
    let overlay = overlay(image, &relative(&path, &places::root().join(OVERLAY)));
    fs::write(path.join("kustomization.yaml"), overlay).map_err(|error| error.to_string())?;
    kubectl.now(&format!("apply --server-side -k {}", path.display()), "")?;
    for part in [CONTROLLER, ACTIVATOR] {
        let waited = kubectl.now(
            &format!("--namespace {SYSTEM} rollout status deployment/{part} --timeout=300s"),
            "",
        );
        waited.map_err(|error| format!("{error}\n{}", why(kubectl, part)))?;
    }
    Ok(())
}

/// What the pods of a part look like and say.
fn why(kubectl: &Kubectl, part: &str) -> String {
    let questions = [
        format!("--namespace {SYSTEM} describe pods --selector app={part}"),
        format!("--namespace {SYSTEM} logs --selector app={part} --tail=20 --prefix"),
    ];
    let answers = questions.map(|question| kubectl.now(&question, "").unwrap_or_else(|error| error));
    answers.join("\n")
}

fn overlay(image: &str, base: &str) -> String {
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    format!(
        r"apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{base}]
images: [{{name: pilotlight, newName: {name}, newTag: {tag}}}]
patches:
  - target: {{kind: Deployment, name: {CONTROLLER}}}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {{name: {CONTROLLER}}}
      spec:
        template:
          spec:
            containers:
              - name: controller
                env: [{{name: PILOTLIGHT_IMAGE, value: {image}}}]
"
    )
}

/// The way from one absolute folder to another: kustomize takes no absolute one.
fn relative(from: &Path, to: &Path) -> String {
    let up = "../".repeat(from.components().count() - 1);
    format!("{up}{}", to.strip_prefix("/").unwrap_or(to).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_is_found_from_another() {
        assert_eq!(relative(Path::new("/tmp/a"), Path::new("/work/b")), "../../work/b");
    }
}
