//! The triggers of a ScaledObject where no KEDA runs: how each is asked.

use std::{collections::HashMap, sync::Arc};

use chrono::Utc;
use pilotlight_manifests::keda::{MetricType, ScaledObjectSpec, Trigger};

use super::super::{
    client::{Client, ScalerTls},
    cron::{MetadataError, Schedule},
    hpa::Reading,
    messages::{MetricValue, ScaledObjectRef},
    query::Query,
    scaler::Reference,
    scaling::Look,
    secrets::Secrets,
    state::Scaler,
};

/// Why a ScaledObject can't be scaled by us. Its workload is left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsupported {
    /// A trigger that only KEDA knows.
    #[error("trigger {index} is of type {kind:?}: without KEDA there are external, external-push, prometheus and cron")]
    Kind { index: usize, kind: String },
    /// Its triggers have not been read yet.
    #[error("the triggers have not been read yet")]
    Unread,
    /// Secrets of a trigger that can't be had.
    #[error("trigger {index}: {reason}")]
    Authentication { index: usize, reason: String },
    /// A trigger whose target needs what only Kubernetes can tell.
    #[error("trigger {index} has the metric type Utilization, which is only for cpu and memory")]
    Utilization { index: usize },
    /// A formula over the triggers.
    #[error("`advanced.scalingModifiers` needs KEDA")]
    Formula,
    /// A setting that is a variable of the workload's container.
    #[error("trigger {index}: `{key}` needs KEDA, which reads the variables of containers")]
    FromEnv { index: usize, key: String },
    /// A trigger whose settings are wrong.
    #[error("trigger {index}: {error}")]
    Metadata { index: usize, error: MetadataError },
}

impl Unsupported {
    /// For the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Kind { .. } | Self::Formula | Self::FromEnv { .. } => "UnsupportedTrigger",
            Self::Unread | Self::Authentication { .. } | Self::Utilization { .. } | Self::Metadata { .. } => {
                "InvalidTrigger"
            }
        }
    }
}

enum How {
    /// This platform's own counts.
    Own(Reference),
    /// Another external scaler.
    External(Client, ScaledObjectRef),
    Prometheus(Query),
    Cron(Box<Schedule>),
}

struct Asked {
    how: How,
    kind: MetricType,
}

/// All triggers of one ScaledObject.
pub(crate) struct Triggers {
    asked: Vec<Asked>,
    /// Those that say by themselves when they become active.
    push: Vec<(Client, ScaledObjectRef)>,
}

impl Triggers {
    /// Reads them; `namespace` and `name` are the ScaledObject's, `secrets` those of each trigger.
    pub(crate) fn new(
        namespace: &str,
        name: &str,
        spec: &ScaledObjectSpec,
        secrets: &[Secrets],
    ) -> Result<Self, Unsupported> {
        let mut triggers = Self {
            asked: Vec::new(),
            push: Vec::new(),
        };
        if spec.has_formula() {
            return Err(Unsupported::Formula);
        }
        for (index, trigger) in spec.triggers.iter().enumerate() {
            let none = Secrets::default();
            let secrets = secrets.get(index).unwrap_or(&none);
            triggers.add(index, (namespace, name), trigger, secrets)?;
        }
        Ok(triggers)
    }

    fn add(
        &mut self,
        index: usize,
        (namespace, name): (&str, &str),
        trigger: &Trigger,
        secrets: &Secrets,
    ) -> Result<(), Unsupported> {
        if trigger.metric_type == MetricType::Utilization {
            return Err(Unsupported::Utilization { index });
        }
        let wrong = |error| Unsupported::Metadata { index, error };
        let metadata = &trigger.metadata;
        if let Some(key) = metadata.keys().find(|key| key.ends_with("FromEnv")) {
            let key = key.clone();
            return Err(Unsupported::FromEnv { index, key });
        }
        let how = match trigger.kind.as_str() {
            "cron" => How::Cron(Box::new(Schedule::new(metadata).map_err(wrong)?)),
            "prometheus" => How::Prometheus(Query::new(metadata, secrets).map_err(wrong)?),
            "external" | "external-push" => {
                let metadata: HashMap<String, String> = metadata.clone().into_iter().collect();
                if is_own(trigger) {
                    How::Own(Reference {
                        name: name.to_owned(),
                        namespace: namespace.to_owned(),
                        metadata,
                    })
                } else {
                    let (client, reference) = external(namespace, name, metadata, secrets).map_err(wrong)?;
                    if trigger.kind == "external-push" {
                        self.push.push((client.clone(), reference.clone()));
                    }
                    How::External(client, reference)
                }
            }
            kind => {
                return Err(Unsupported::Kind {
                    index,
                    kind: kind.to_owned(),
                });
            }
        };
        self.asked.push(Asked {
            how,
            kind: trigger.metric_type,
        });
        Ok(())
    }

    /// Scalers whose streams are to be followed.
    pub(crate) fn push(&self) -> &[(Client, ScaledObjectRef)] {
        &self.push
    }

    /// Whether a trigger on our own counts is active.
    pub(crate) fn is_own_active(&self, scaler: &Scaler) -> bool {
        let own = self.asked.iter().filter_map(|asked| match &asked.how {
            How::Own(reference) => Some(reference),
            _ => None,
        });
        own.into_iter()
            .any(|reference| scaler.is_active(reference).is_ok_and(|answer| answer.value))
    }

    /// Asks all of them. What can't be read has no value and is told once as failed; why is logged.
    pub(crate) async fn look(&self, scaler: &Arc<Scaler>, http: &reqwest::Client) -> Look {
        let mut look = Look::default();
        for (index, asked) in self.asked.iter().enumerate() {
            match asked.ask(scaler, http).await {
                Ok((active, readings)) => {
                    look.active |= active;
                    look.readings.extend(readings);
                }
                Err(error) => {
                    tracing::debug!(trigger = index, error, "a trigger could not be asked");
                    look.failed = true;
                    look.readings.push(Reading {
                        value: None,
                        target: 1.0,
                        kind: asked.kind,
                    });
                }
            }
        }
        look
    }
}

fn external(
    namespace: &str,
    name: &str,
    metadata: HashMap<String, String>,
    secrets: &Secrets,
) -> Result<(Client, ScaledObjectRef), MetadataError> {
    let wrong = |message: String| MetadataError::new("scalerAddress", message);
    let address = metadata.get("scalerAddress").filter(|address| !address.is_empty());
    let address = address.ok_or_else(|| wrong("is missing".to_owned()))?;
    let is = |key: &str| metadata.get(key).is_some_and(|value| value == "true");
    let tls = ScalerTls {
        authorities: secrets.get("caCert").map(str::to_owned),
        identity: secrets
            .get("tlsClientCert")
            .zip(secrets.get("tlsClientKey"))
            .map(|(certificate, key)| (certificate.to_owned(), key.to_owned())),
        anything: is("unsafeSsl"),
    };
    // As in KEDA: the flag, or what TLS is made of.
    let spoken = is("enableTLS") || tls.authorities.is_some() || tls.identity.is_some();
    let client = if spoken {
        Client::with_tls(address, &tls)
    } else {
        Client::new(address)
    };
    let client = client.map_err(|error| wrong(format!("`{address}`: {error}")))?;
    let reference = ScaledObjectRef {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scaler_metadata: metadata,
    };
    Ok((client, reference))
}

/// One of this platform: what it names is known here, wherever the address leads.
fn is_own(trigger: &Trigger) -> bool {
    [
        "interceptorRoute",
        "httpScaledObject",
        "inferenceService",
        "interceptorTargetPendingRequests",
    ]
    .iter()
    .any(|key| trigger.metadata.contains_key(*key))
}

impl Asked {
    async fn ask(&self, scaler: &Arc<Scaler>, http: &reqwest::Client) -> Result<(bool, Vec<Reading>), String> {
        let reading = |value: f64, target: f64| Reading {
            value: Some(value),
            target,
            kind: self.kind,
        };
        match &self.how {
            How::Own(reference) => {
                let text = |error: super::super::state::AskError| error.to_string();
                let metrics = scaler.metrics(reference).map_err(text)?;
                let values = scaler.values(reference, "").map_err(text)?.value;
                let active = scaler.is_active(reference).map_err(text)?.value;
                let pairs = metrics.iter().zip(values);
                Ok((
                    active,
                    pairs
                        .map(|(metric, (_, value))| reading(value.get(), metric.target.get()))
                        .collect(),
                ))
            }
            How::External(client, reference) => self
                .ask_external(client, reference)
                .await
                .map_err(|status| status.to_string()),
            How::Prometheus(query) => {
                let value = query.value(http).await.map_err(|error| error.to_string())?;
                Ok((value > query.activation, vec![reading(value, query.threshold)]))
            }
            How::Cron(schedule) => {
                let now = Utc::now();
                Ok((schedule.is_active(now), vec![reading(schedule.value(now), 1.0)]))
            }
        }
    }

    /// In KEDA's order: the specs, then for each metric its values and whether it is active.
    async fn ask_external(
        &self,
        client: &Client,
        reference: &ScaledObjectRef,
    ) -> Result<(bool, Vec<Reading>), tonic::Status> {
        let specs = client.metric_spec(reference.clone()).await?.metric_specs;
        if specs.is_empty() {
            return Err(tonic::Status::internal("the external scaler has no metric"));
        }
        let mut readings = Vec::new();
        let mut active = false;
        for spec in specs {
            let values = client.metrics(reference.clone(), &spec.metric_name).await?.into_inner();
            active |= client.is_active(reference.clone()).await?;
            let target = if spec.target_size_float > 0.0 {
                spec.target_size_float
            } else {
                spec.target_size as f64
            };
            if target <= 0.0 {
                return Err(tonic::Status::internal("the external scaler has a target of 0"));
            }
            readings.push(Reading {
                value: Some(values.metric_values.iter().map(value_of).sum()),
                target,
                kind: self.kind,
            });
        }
        Ok((active, readings))
    }
}

fn value_of(value: &MetricValue) -> f64 {
    if value.metric_value_float > 0.0 {
        value.metric_value_float
    } else {
        value.metric_value as f64
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_manifests::keda::{Object, read};
    use serde_json::{Value, json};

    use super::*;

    fn triggers(triggers: Value) -> Result<Triggers, Unsupported> {
        let spec = json!({ "scaleTargetRef": { "name": "app" }, "triggers": triggers });
        let object: Object<ScaledObjectSpec> = read(json!({ "spec": spec })).unwrap();
        Triggers::new("shop", "so", &object.spec, &[])
    }

    #[tokio::test]
    async fn the_four_triggers_are_known_and_others_are_named() {
        let address = ("scalerAddress", "scaler:9090");
        let external =
            |kind: &str, key: (&str, &str)| json!({ "type": kind, "metadata": { address.0: address.1, key.0: key.1 } });
        let known = triggers(json!([
            external("external-push", ("interceptorRoute", "app")),
            external("external-push", ("foreign", "x")),
            external("external", ("foreign", "x")),
            { "type": "prometheus", "metadata": { "serverAddress": "http://p", "query": "up", "threshold": "1" } },
            { "type": "cron", "metadata": { "start": "0 8 * * *", "end": "0 9 * * *", "timezone": "UTC", "desiredReplicas": "2" } },
        ]));
        let known = known.ok().unwrap();
        assert_eq!((known.asked.len(), known.push().len()), (5, 1));
        let unknown = triggers(json!([{ "type": "kafka" }])).err().unwrap();
        assert_eq!(unknown.reason(), "UnsupportedTrigger");
        assert!(unknown.to_string().contains("kafka"), "{unknown}");
    }

    #[tokio::test]
    async fn what_needs_keda_is_refused_by_name() {
        for (trigger, text) in [
            (json!({ "type": "cron", "metricType": "Utilization" }), "Utilization"),
            (json!({ "type": "external", "metadata": {} }), "scalerAddress"),
            (json!({ "type": "prometheus", "metadata": {} }), "serverAddress"),
            (
                json!({ "type": "prometheus", "metadata": { "queryFromEnv": "Q" } }),
                "queryFromEnv",
            ),
        ] {
            let error = triggers(json!([trigger])).err().unwrap();
            assert!(["InvalidTrigger", "UnsupportedTrigger"].contains(&error.reason()));
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[tokio::test]
    async fn a_formula_over_the_triggers_needs_keda_and_is_named() {
        let spec = json!({
            "scaleTargetRef": { "name": "app" }, "triggers": [{ "type": "external", "metadata": { "scalerAddress": "a:1" } }],
            "advanced": { "scalingModifiers": { "formula": "a + b", "target": "2" } },
        });
        let object: Object<ScaledObjectSpec> = read(json!({ "spec": spec })).unwrap();
        let error = Triggers::new("shop", "so", &object.spec, &[]).err().unwrap();
        assert!(error.to_string().contains("scalingModifiers"), "{error}");
    }

    #[tokio::test]
    async fn secrets_reach_their_trigger_and_tls_is_spoken_where_they_ask_for_it() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let prometheus = json!({ "serverAddress": "http://p", "query": "up", "threshold": "1", "authModes": "bearer" });
        let spec = json!({ "scaleTargetRef": { "name": "app" }, "triggers": [
            { "type": "prometheus", "metadata": prometheus },
            { "type": "external", "metadata": { "scalerAddress": "a:1", "enableTLS": "true" } },
            { "type": "external", "metadata": { "scalerAddress": "a:1" } },
        ] });
        let object: Object<ScaledObjectSpec> = read(json!({ "spec": spec })).unwrap();
        let made = |secrets: &[Secrets]| Triggers::new("shop", "so", &object.spec, secrets).map(drop);
        assert!(made(&[]).unwrap_err().to_string().contains("bearerToken"));
        assert_eq!(made(&[[("bearerToken", "t")].into()]), Ok(()));
        let broken = [
            [("bearerToken", "t")].into(),
            Secrets::default(),
            [("caCert", "no PEM")].into(),
        ];
        assert!(made(&broken).unwrap_err().to_string().contains("authorit"));
    }

    #[tokio::test]
    async fn a_trigger_that_cannot_be_asked_is_a_failure_and_not_zero() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let scaler = Arc::new(
            Scaler::new(
                super::super::super::state::Config::default(),
                &::prometheus::Registry::new(),
            )
            .unwrap(),
        );
        let own = triggers(json!([{ "type": "external-push", "metadata": { "interceptorRoute": "none" } }]))
            .ok()
            .unwrap();
        let look = own.look(&scaler, &reqwest::Client::new()).await;
        assert!(look.failed && !look.active);
        assert_eq!(look.readings[0].value, None);
    }
}
