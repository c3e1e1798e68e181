//! The secrets of triggers: what a `TriggerAuthentication` or a `ClusterTriggerAuthentication` names, read from the API server when
//! the triggers are made. They are kept for as long as the triggers are, and read again where a trigger fails.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use pilotlight_manifests::keda::{
    self, ClusterTriggerAuthenticationSpec, KeyRef, ScaledObjectSpec, Spec, Trigger, TriggerAuthenticationSpec,
};

use super::{super::secrets::Secrets, objects, triggers::Unsupported};

/// The secrets of each trigger of a ScaledObject, in their order. `cluster` is the namespace of those for the whole cluster.
///
/// # Errors
/// What can't be read or needs KEDA, with the trigger.
pub(crate) async fn read(
    client: &Client,
    cluster: &str,
    namespace: &str,
    spec: &ScaledObjectSpec,
) -> Result<Vec<Secrets>, Unsupported> {
    let mut all = Vec::new();
    for (index, trigger) in spec.triggers.iter().enumerate() {
        let secrets = of_trigger(client, cluster, namespace, trigger).await;
        all.push(secrets.map_err(|reason| Unsupported::Authentication { index, reason })?);
    }
    Ok(all)
}

async fn of_trigger(client: &Client, cluster: &str, namespace: &str, trigger: &Trigger) -> Result<Secrets, String> {
    let Some(reference) = &trigger.authentication_ref else {
        return Ok(Secrets::default());
    };
    let name = reference.get("name").filter(|name| !name.is_empty());
    let name = name.ok_or("its authenticationRef has no name")?;
    let (namespace, spec) = match reference.get("kind").map_or("", String::as_str) {
        "" | TriggerAuthenticationSpec::KIND => {
            let api = objects::api::<TriggerAuthenticationSpec>(client, Some(namespace));
            (namespace, object::<TriggerAuthenticationSpec>(api, name).await?)
        }
        ClusterTriggerAuthenticationSpec::KIND => {
            let api = objects::api::<ClusterTriggerAuthenticationSpec>(client, None);
            (cluster, object::<ClusterTriggerAuthenticationSpec>(api, name).await?.0)
        }
        kind => return Err(format!("its authenticationRef is of kind {kind}, which is not known")),
    };
    spec.check().map_err(|problem| format!("{name}: {problem}"))?;
    let maps = values(
        client,
        namespace,
        &spec.config_map_target_ref,
        |map: &ConfigMap, key| map.data.as_ref()?.get(key).cloned(),
    );
    let mut found = maps.await?;
    let secrets = values(client, namespace, &spec.secret_target_ref, |secret: &Secret, key| {
        String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
    });
    found.extend(secrets.await?);
    Ok(found.into())
}

async fn object<S: Spec>(api: Api<kube::api::DynamicObject>, name: &str) -> Result<S, String> {
    let kind = S::KIND;
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| format!("{kind} {name} can't be read: {error}"))?;
    let found = found.ok_or_else(|| format!("{kind} {name} does not exist"))?;
    let value = serde_json::to_value(found).map_err(|error| format!("{kind} {name}: {error}"))?;
    let wrong = |problems: Vec<keda::Problem>| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("{kind} {name}: {}", text.join("; "))
    };
    keda::read::<S>(value).map(|object| object.spec).map_err(wrong)
}

/// The values of some keys, by their parameters.
async fn values<K>(
    client: &Client,
    namespace: &str,
    references: &[KeyRef],
    value: impl Fn(&K, &str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let kind = K::kind(&());
    let mut found = BTreeMap::new();
    for KeyRef { parameter, name, key } in references {
        let object = api.get_opt(name).await;
        let object = object.map_err(|error| format!("{kind} {name} can't be read: {error}"))?;
        let object = object.ok_or_else(|| format!("{kind} {namespace}/{name} does not exist"))?;
        let text =
            value(&object, key).ok_or_else(|| format!("{kind} {namespace}/{name} has no key {key} with a text"))?;
        found.insert(parameter.clone(), text);
    }
    Ok(found)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
