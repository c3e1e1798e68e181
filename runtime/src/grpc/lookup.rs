//! Calls that run no model.

use bytes::Bytes;
use pilotlight_engine::{DataType, TensorInfo};

use super::messages::{
    BatchStatistics, ConfigInput, ConfigOutput, ConfigType, Duration, DynamicBatching, InferStatistics, ModelConfig,
    ModelConfigResponse, ModelIndex, ModelMetadataResponse, ModelRequest, ModelStatistics, ModelStatisticsResponse,
    ReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelResponse, ServerLiveResponse, ServerMetadataResponse, TensorMetadata,
};
use super::wire::{decode, encode};
use super::{health, version};
use crate::app::{App, EXTENSIONS};
use crate::error::{ApiError, Code};
use crate::faces::{ModelConfig as Config, Of, declared};
use crate::served::Served;
use crate::stats::{Counts, Spent};

pub(super) const SERVICE: &str = "inference.GRPCInferenceService";

/// The answer to a call, with its prefix.
pub(super) async fn answer(app: &App, path: &str, message: Bytes) -> Result<Bytes, ApiError> {
    let unknown = || ApiError::new(Code::UnknownPath, format!("there is no method {path}"));
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .ok_or_else(unknown)?;
    Ok(match (service, method) {
        ("grpc.health.v1.Health", "Check") => encode(&health::check(app, &decode(message)?)?),
        (SERVICE, "ServerLive") => encode(&ServerLiveResponse { live: true }),
        (SERVICE, "ServerReady") => encode(&ReadyResponse {
            ready: app.serving().is_ok(),
        }),
        (SERVICE, "ModelReady") => encode(&model_ready(app, decode(message)?).await?),
        (SERVICE, "ServerMetadata") => encode(&ServerMetadataResponse {
            name: "pilotlight".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.iter().map(|&name| name.to_owned()).collect(),
        }),
        (SERVICE, "ModelMetadata") => encode(&metadata(app, &decode(message)?)?),
        (SERVICE, "ModelConfig") => encode(&config(app, &decode(message)?)?),
        (SERVICE, "ModelStatistics") => {
            let request: ModelRequest = decode(message)?;
            let stats = app.statistics(Some(request.of()).filter(|of| !of.model.is_empty()))?;
            encode(&ModelStatisticsResponse {
                model_stats: stats
                    .into_iter()
                    .map(|(served, counts)| statistics(&served, &counts))
                    .collect(),
            })
        }
        (SERVICE, "RepositoryIndex") => encode(&index(app, &decode(message)?)),
        (SERVICE, "RepositoryModelLoad") => {
            let request: RepositoryModelLoadRequest = decode(message)?;
            let name = request.name();
            app.load_model(name, request.parameters.keys().map(String::as_str))
                .await?;
            encode(&done(name))
        }
        (SERVICE, "RepositoryModelUnload") => {
            let request: RepositoryModelLoadRequest = decode(message)?;
            app.unload_model(request.name()).await?;
            encode(&done(request.name()))
        }
        _ => return Err(unknown()),
    })
}

impl ModelRequest {
    fn of(&self) -> Of<'_> {
        Of {
            model: &self.name,
            version: version(&self.version),
        }
    }
}

impl RepositoryModelLoadRequest {
    fn name(&self) -> &str {
        if self.model_name.is_empty() {
            &self.repository_name
        } else {
            &self.model_name
        }
    }
}

fn done(name: &str) -> RepositoryModelResponse {
    RepositoryModelResponse {
        model_name: name.to_owned(),
        done: true,
    }
}

/// A model that is not ready is an answer, one that is not there an error.
async fn model_ready(app: &App, request: ModelRequest) -> Result<ReadyResponse, ApiError> {
    app.hold_ready(&request.name).await;
    match app.model_ready(request.of()) {
        Err(error) if error.code == Code::ModelNotFound => Err(error),
        result => Ok(ReadyResponse { ready: result.is_ok() }),
    }
}

fn metadata(app: &App, request: &ModelRequest) -> Result<ModelMetadataResponse, ApiError> {
    let of = request.of();
    let lease = app.repository.lease_version(of.model, of.version)?;
    let signature = lease.served.signature();
    let tensor = |info: &TensorInfo| TensorMetadata {
        name: info.name.clone(),
        datatype: info.datatype.as_str().to_owned(),
        shape: declared(info),
    };
    Ok(ModelMetadataResponse {
        name: lease.served.name().to_owned(),
        versions: vec![lease.served.version().to_owned()],
        platform: lease.served.platform().to_owned(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    })
}

fn config(app: &App, request: &ModelRequest) -> Result<ModelConfigResponse, ApiError> {
    let of = request.of();
    let lease = app.repository.lease_version(of.model, of.version)?;
    let config = Config::of(&lease.served, &app.config);
    let max_batch_size = config.max_batch_size as i32;
    let input = |(name, datatype, dims): (&str, DataType, Vec<i64>)| ConfigInput {
        name: name.to_owned(),
        data_type: config_type(datatype) as i32,
        dims,
    };
    let output = |(name, datatype, dims): (&str, DataType, Vec<i64>)| ConfigOutput {
        name: name.to_owned(),
        data_type: config_type(datatype) as i32,
        dims,
    };
    Ok(ModelConfigResponse {
        config: Some(ModelConfig {
            name: config.name.to_owned(),
            platform: config.platform.to_owned(),
            max_batch_size,
            input: config.inputs().map(input).collect(),
            output: config.outputs().map(output).collect(),
            dynamic_batching: (max_batch_size > 0).then(|| DynamicBatching {
                preferred_batch_size: config.preferred.iter().map(|&size| size as i32).collect(),
                max_queue_delay_microseconds: config.max_queue_delay_us,
                priority_levels: config.priority_levels.into(),
                default_priority_level: if config.priority_levels > 0 {
                    config.default_priority.into()
                } else {
                    0
                },
            }),
            backend: "burn".to_owned(),
        }),
    })
}

fn config_type(datatype: DataType) -> ConfigType {
    match datatype {
        DataType::Bool => ConfigType::Bool,
        DataType::U8 => ConfigType::Uint8,
        DataType::U16 => ConfigType::Uint16,
        DataType::U32 => ConfigType::Uint32,
        DataType::U64 => ConfigType::Uint64,
        DataType::I8 => ConfigType::Int8,
        DataType::I16 => ConfigType::Int16,
        DataType::I32 => ConfigType::Int32,
        DataType::I64 => ConfigType::Int64,
        DataType::F16 => ConfigType::Fp16,
        DataType::BF16 => ConfigType::Bf16,
        DataType::F32 => ConfigType::Fp32,
        DataType::F64 => ConfigType::Fp64,
        DataType::Bytes => ConfigType::String,
    }
}

fn statistics(served: &Served, counts: &Counts) -> ModelStatistics {
    let spent = |Spent { count, ns }: Spent| Some(Duration { count, ns });
    ModelStatistics {
        name: served.name().to_owned(),
        version: served.version().to_owned(),
        last_inference: counts.last_inference,
        inference_count: counts.inferences,
        execution_count: counts.executions,
        inference_stats: Some(InferStatistics {
            success: spent(counts.success),
            fail: spent(counts.fail),
            queue: spent(counts.queue),
            compute_input: spent(counts.input),
            compute_infer: spent(counts.infer),
            compute_output: spent(counts.output),
        }),
        batch_stats: counts
            .batches
            .iter()
            .map(|(&rows, batch)| BatchStatistics {
                batch_size: rows as u64,
                compute_input: spent(batch.input),
                compute_infer: spent(batch.infer),
                compute_output: spent(batch.output),
            })
            .collect(),
    }
}

fn index(app: &App, request: &RepositoryIndexRequest) -> RepositoryIndexResponse {
    let entry = |model: crate::control::Indexed| ModelIndex {
        name: model.name,
        version: model.version,
        state: model.state.to_owned(),
        reason: model.reason,
    };
    RepositoryIndexResponse {
        models: app.index(request.ready).into_iter().map(entry).collect(),
    }
}
