//! Triton's additions to V2 over REST: a model's configuration and its statistics.

use pilotlight_engine::{DataType, Signature, TensorInfo};
use serde_json::{Value, json};

use super::json::declared;
use super::v2::{PLATFORM, VERSION};
use crate::config::Config;
use crate::served::Served;
use crate::stats::{Counts, Spent};

/// What `/config` and `ModelConfig` say, before it takes its form.
pub(crate) struct ModelConfig<'a> {
    pub(crate) name: &'a str,
    /// 0: requests are not batched, and `dims` hold the first dimension too.
    pub(crate) max_batch_size: usize,
    pub(crate) max_queue_delay_us: u64,
    signature: &'a Signature,
}

impl<'a> ModelConfig<'a> {
    pub(crate) fn of(served: &'a Served, config: &Config) -> Self {
        Self {
            name: served.name(),
            max_batch_size: if served.batchable() { config.max_batch_size } else { 0 },
            max_queue_delay_us: config.max_latency.as_micros() as u64,
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
            "platform": PLATFORM,
            "backend": "burn",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.max_batch_size,
            "input": tensors(&mut self.inputs()),
            "output": tensors(&mut self.outputs()),
            "instance_group": [{"name": self.name, "kind": "KIND_CPU", "count": 1}],
            "model_transaction_policy": {"decoupled": false},
        });
        if self.max_batch_size > 0 {
            config["dynamic_batching"] = json!({
                "preferred_batch_size": [self.max_batch_size],
                "max_queue_delay_microseconds": self.max_queue_delay_us,
            });
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
pub(crate) fn statistics<'a>(models: impl Iterator<Item = (&'a str, &'a Counts)>) -> Value {
    let models: Vec<Value> = models.map(|(name, counts)| model(name, counts)).collect();
    json!({"model_stats": models})
}

fn model(name: &str, counts: &Counts) -> Value {
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
        "name": name,
        "version": VERSION,
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
