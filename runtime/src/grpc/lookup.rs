//! Calls that run no model.

use bytes::Bytes;
use pilotlight_engine::{DataType, TensorInfo};

use super::check_version;
use super::messages::{
    BatchStatistics, ConfigInput, ConfigOutput, ConfigType, Duration, DynamicBatching, HealthRequest, HealthResponse,
    InferStatistics, ModelConfig, ModelConfigResponse, ModelIndex, ModelMetadataResponse, ModelRequest,
    ModelStatistics, ModelStatisticsResponse, ReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerLiveResponse, ServerMetadataResponse, TensorMetadata,
};
use super::wire::{decode, encode};
use crate::app::{App, EXTENSIONS};
use crate::error::{ApiError, Code};
use crate::faces::v2::{PLATFORM, VERSION};
use crate::faces::{ModelConfig as Config, declared};
use crate::models::ModelState;
use crate::stats::{Counts, Spent};

const SERVICE: &str = "inference.GRPCInferenceService";

/// The answer to a call, with its prefix.
pub(super) async fn answer(app: &App, path: &str, message: Bytes) -> Result<Bytes, ApiError> {
    let unknown = || ApiError::new(Code::UnknownPath, format!("there is no method {path}"));
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .ok_or_else(unknown)?;
    Ok(match (service, method) {
        ("grpc.health.v1.Health", "Check") => encode(&health(app, &decode::<HealthRequest>(message)?)?),
        (SERVICE, "ServerLive") => encode(&ServerLiveResponse { live: true }),
        (SERVICE, "ServerReady") => encode(&ReadyResponse {
            ready: app.serving().is_ok(),
        }),
        (SERVICE, "ModelReady") => encode(&model_ready(app, &model(message)?.name).await?),
        (SERVICE, "ServerMetadata") => encode(&ServerMetadataResponse {
            name: "pilotlight".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.iter().map(|&name| name.to_owned()).collect(),
        }),
        (SERVICE, "ModelMetadata") => encode(&metadata(app, model(message)?)?),
        (SERVICE, "ModelConfig") => encode(&config(app, &model(message)?.name)?),
        (SERVICE, "ModelStatistics") => {
            let stats = app.statistics(Some(model(message)?.name).filter(|name| !name.is_empty()).as_deref())?;
            encode(&ModelStatisticsResponse {
                model_stats: stats
                    .into_iter()
                    .map(|(name, counts)| statistics(name, &counts))
                    .collect(),
            })
        }
        (SERVICE, "RepositoryIndex") => encode(&index(app, &decode(message)?)),
        (SERVICE, "RepositoryModelLoad" | "RepositoryModelUnload") => {
            return Err(ApiError::new(
                Code::Unsupported,
                "models are loaded and unloaded by the platform, not by clients; apply or delete a manifest",
            ));
        }
        _ => return Err(unknown()),
    })
}

fn model(message: Bytes) -> Result<ModelRequest, ApiError> {
    let request: ModelRequest = decode(message)?;
    check_version(&request.name, &request.version)?;
    Ok(request)
}

fn health(app: &App, request: &HealthRequest) -> Result<HealthResponse, ApiError> {
    if !matches!(&*request.service, "" | SERVICE) {
        let message = format!("there is no service {:?}", request.service);
        return Err(ApiError::new(Code::ModelNotFound, message));
    }
    let status = if app.serving().is_ok() { 1 } else { 2 };
    Ok(HealthResponse { status })
}

/// A model that is not ready is an answer, one that is not there an error.
async fn model_ready(app: &App, name: &str) -> Result<ReadyResponse, ApiError> {
    app.hold_ready(name).await;
    match app.model_ready(name) {
        Err(error) if error.code == Code::ModelNotFound => Err(error),
        result => Ok(ReadyResponse { ready: result.is_ok() }),
    }
}

fn metadata(app: &App, request: ModelRequest) -> Result<ModelMetadataResponse, ApiError> {
    let lease = app.repository.lease(&request.name)?;
    let signature = lease.served.signature();
    let tensor = |info: &TensorInfo| TensorMetadata {
        name: info.name.clone(),
        datatype: info.datatype.as_str().to_owned(),
        shape: declared(info),
    };
    Ok(ModelMetadataResponse {
        name: request.name,
        versions: vec![VERSION.to_owned()],
        platform: PLATFORM.to_owned(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    })
}

fn config(app: &App, name: &str) -> Result<ModelConfigResponse, ApiError> {
    let lease = app.repository.lease(name)?;
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
            platform: PLATFORM.to_owned(),
            max_batch_size,
            input: config.inputs().map(input).collect(),
            output: config.outputs().map(output).collect(),
            dynamic_batching: (max_batch_size > 0).then(|| DynamicBatching {
                preferred_batch_size: vec![max_batch_size],
                max_queue_delay_microseconds: config.max_queue_delay_us,
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

fn statistics(name: String, counts: &Counts) -> ModelStatistics {
    let spent = |Spent { count, ns }: Spent| Some(Duration { count, ns });
    ModelStatistics {
        name,
        version: VERSION.to_owned(),
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
    let wanted = |(_, state): &(String, ModelState)| !request.ready || matches!(state, ModelState::Ready(..));
    let entry = |(name, state): (String, ModelState)| ModelIndex {
        name,
        version: VERSION.to_owned(),
        state: state.as_str().to_owned(),
        reason: match state {
            ModelState::Failed(reason) => reason,
            _ => String::new(),
        },
    };
    RepositoryIndexResponse {
        models: app.repository.index().into_iter().filter(wanted).map(entry).collect(),
    }
}
