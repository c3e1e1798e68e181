//! Writes of a workload's `scale`, each on the condition that nobody wrote since it was decided on.

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use pilotlight_manifests::kubernetes::{ANNOTATION_WOKEN_AT, AUTOSCALER_MANAGER};
use serde_json::json;

use super::seal::Sealer;

/// Writes that may fail for another reason than a wake: the status of a workload moves its version too.
const TRIES: u32 = 5;

/// A step that was decided on.
pub(crate) struct Write<'a> {
    pub(crate) api: &'a Api<DynamicObject>,
    pub(crate) name: &'a str,
    /// The version of the workload that it was decided on.
    pub(crate) version: &'a str,
    /// The replicas asked for then.
    pub(crate) current: u32,
    /// Those asked for from now on.
    pub(crate) replicas: u32,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The API server did not take it.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// A request is there, or could be.
    #[error("{0}")]
    Busy(&'static str),
}

impl Write<'_> {
    /// Writes it where the workload is of this version.
    pub(crate) async fn once(&self, version: &str) -> kube::Result<Scale> {
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": self.replicas } });
        let params = PatchParams {
            field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.api.patch_scale(self.name, &params, &Patch::Merge(patch)).await
    }

    /// Seals every pod of the backends and then writes, unless somebody woke the workload meanwhile.
    pub(crate) async fn to_zero(&self, sealer: &Sealer, backends: &[String]) -> Result<Scale, Refused> {
        let woken = self.woken().await?.1;
        let sealed = sealer.seal(backends).await.map_err(Refused::Busy)?;
        let written = self.unless_woken(woken.as_deref()).await;
        if written.is_err() {
            sealer.take_back(&sealed).await;
        }
        written
    }

    async fn unless_woken(&self, woken: Option<&str>) -> Result<Scale, Refused> {
        let mut version = self.version.to_owned();
        for _ in 0..TRIES {
            match self.once(&version).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                written => return Ok(written?),
            }
            let (now, woken_now) = self.woken().await?;
            let scale = self.api.get_scale(self.name).await?;
            let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            if woken_now.as_deref() != woken || u32::try_from(replicas) != Ok(self.current) {
                return Err(Refused::Busy("it was asked for"));
            }
            version = now;
        }
        Err(Refused::Busy("the workload is written all the time"))
    }

    /// The version of the workload, and when an activator woke it last while it had replicas.
    async fn woken(&self) -> kube::Result<(String, Option<String>)> {
        let mut meta = self.api.get_metadata(self.name).await?.metadata;
        let annotations = meta.annotations.as_mut();
        let woken = annotations.and_then(|annotations| annotations.remove(ANNOTATION_WOKEN_AT));
        Ok((meta.resource_version.unwrap_or_default(), woken))
    }
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
