//! Triton's additions to V2 over REST: a model's configuration, its statistics, and the model repository.

use std::collections::BTreeMap;

use pilotlight_engine::{DataType, Signature, TensorInfo};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json::declared;
use crate::config::Config;
use crate::control::Indexed;
use crate::error::ApiError;
use crate::served::Served;
use crate::stats::{Counts, Spent};

/// What `/config` and `ModelConfig` say, before it takes its form.
pub(crate) struct ModelConfig<'a> {
    pub(crate) name: &'a str,
    /// 0: requests are not batched, and `dims` hold the first dimension too.
    pub(crate) max_batch_size: usize,
    pub(crate) max_queue_delay_us: u64,
    pub(crate) preferred: Vec<usize>,
    /// 0: there are none.
    pub(crate) priority_levels: u32,
    pub(crate) default_priority: u32,
    pub(crate) max_queue_size: usize,
    pub(crate) platform: &'static str,
    version: &'a str,
    signature: &'a Signature,
}

impl<'a> ModelConfig<'a> {
    pub(crate) fn of(served: &'a Served, config: &Config) -> Self {
        Self {
            name: served.name(),
            max_batch_size: if served.batchable() { config.max_batch_size } else { 0 },
            max_queue_delay_us: config.max_latency.as_micros() as u64,
            preferred: match &config.preferred_batch_sizes[..] {
                [] => vec![config.max_batch_size],
                sizes => sizes.to_vec(),
            },
            priority_levels: if config.priority_levels > 1 {
                config.priority_levels
            } else {
                0
            },
            default_priority: config.default_priority,
            max_queue_size: config.queue_size,
            platform: served.platform(),
            version: served.version(),
            signature: served.signature(),
        }
    }

    /// Name, type and dimensions, which leave out that of the batch.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&'a str, DataType, Vec<i64>)> {
        self.tensors(&self.signature.inputs)
    }

    /// As `inputs`.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&'a str, DataType, Vec<i64>)> {
        self.tensors(&self.signature.outputs)
    }

    fn tensors(&self, infos: &'a [TensorInfo]) -> impl Iterator<Item = (&'a str, DataType, Vec<i64>)> + use<'a> {
        let skip = usize::from(self.max_batch_size > 0);
        infos.iter().map(move |info| {
            (
                &*info.name,
                info.datatype,
                declared(info).into_iter().skip(skip).collect(),
            )
        })
    }

    /// The body of `/config`.
    pub(crate) fn to_json(&self) -> Value {
        let tensors = |list: &mut dyn Iterator<Item = (&str, DataType, Vec<i64>)>| -> Vec<Value> {
            list.map(|(name, datatype, dims)| json!({"name": name, "data_type": type_name(datatype), "dims": dims}))
                .collect()
        };
        let mut config = json!({
            "name": self.name,
            "platform": self.platform,
            "backend": "burn",
            "version_policy": {"specific": {"versions": [self.version.parse::<u64>().unwrap_or(1)]}},
            "max_batch_size": self.max_batch_size,
            "input": tensors(&mut self.inputs()),
            "output": tensors(&mut self.outputs()),
            "instance_group": [{"name": self.name, "kind": "KIND_CPU", "count": 1}],
            "model_transaction_policy": {"decoupled": false},
        });
        if self.max_batch_size > 0 {
            config["dynamic_batching"] = json!({
                "preferred_batch_size": self.preferred,
                "max_queue_delay_microseconds": self.max_queue_delay_us,
                "default_queue_policy": {"max_queue_size": self.max_queue_size},
            });
            if self.priority_levels > 0 {
                config["dynamic_batching"]["priority_levels"] = self.priority_levels.into();
                config["dynamic_batching"]["default_priority_level"] = self.default_priority.into();
            }
        }
        config
    }
}

/// Triton's name of a type.
fn type_name(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        datatype => format!("TYPE_{datatype}"),
    }
}

/// The body of `/stats`.
pub(crate) fn statistics<'a>(models: impl Iterator<Item = (&'a Served, &'a Counts)>) -> Value {
    let models: Vec<Value> = models.map(|(served, counts)| model(served, counts)).collect();
    json!({"model_stats": models})
}

/// The body of an answer to `/v2/repository/index`.
pub(crate) fn index(models: &[Indexed]) -> Value {
    let entry = |model: &Indexed| json!({"name": model.name, "version": model.version, "state": model.state, "reason": model.reason});
    models.iter().map(entry).collect()
}

/// The body of a request of the model repository extension; clients send an empty one as well.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Management {
    /// Of an index: only models that are ready.
    #[serde(default)]
    pub(crate) ready: bool,
    /// Of a load or an unload.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Value>,
}

impl Management {
    /// # Errors
    /// 400 where it is no JSON of this form.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))
    }
}

fn model(served: &Served, counts: &Counts) -> Value {
    let spent = |spent: Spent| json!({"count": spent.count, "ns": spent.ns});
    let batches: Vec<Value> = counts
        .batches
        .iter()
        .map(|(rows, batch)| {
            json!({
                "batch_size": rows,
                "compute_input": spent(batch.input),
                "compute_infer": spent(batch.infer),
                "compute_output": spent(batch.output),
            })
        })
        .collect();
    json!({
        "name": served.name(),
        "version": served.version(),
        "last_inference": counts.last_inference,
        "inference_count": counts.inferences,
        "execution_count": counts.executions,
        "inference_stats": {
            "success": spent(counts.success),
            "fail": spent(counts.fail),
            "queue": spent(counts.queue),
            "compute_input": spent(counts.input),
            "compute_infer": spent(counts.infer),
            "compute_output": spent(counts.output),
            "cache_hit": spent(Spent::default()),
            "cache_miss": spent(Spent::default()),
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    })
}
