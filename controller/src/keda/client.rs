//! A client of external scalers, for the triggers `external` and `external-push` where no KEDA runs.

use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::messages::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, ScaledObjectRef,
};

/// How long a call may take. KEDA has none, and waits for a scaler that hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// A connection to an external scaler, opened at the first call and again after it broke. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Grpc<Channel>,
}

impl Client {
    /// A client of `address` (`host:port`), without TLS.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn new(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(LIMIT);
        Ok(Self {
            inner: Grpc::new(endpoint.connect_lazy()),
        })
    }

    async fn unary<M, R>(&self, message: M, path: &'static str) -> Result<Response<R>, Status>
    where
        M: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut inner = self.inner.clone();
        let call = async {
            inner
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            inner.unary(Request::new(message), path, ProstCodec::default()).await
        };
        let answer = tokio::time::timeout(LIMIT, call).await;
        answer.map_err(|_| Status::deadline_exceeded("the external scaler did not answer in time"))?
    }

    /// Whether the trigger is active.
    pub async fn is_active(&self, reference: ScaledObjectRef) -> Result<bool, Status> {
        let answer: Response<IsActiveResponse> =
            self.unary(reference, "/externalscaler.ExternalScaler/IsActive").await?;
        Ok(answer.into_inner().result)
    }

    /// Names and targets of its metrics.
    pub async fn metric_spec(&self, reference: ScaledObjectRef) -> Result<GetMetricSpecResponse, Status> {
        let answer = self
            .unary(reference, "/externalscaler.ExternalScaler/GetMetricSpec")
            .await?;
        Ok(answer.into_inner())
    }

    /// Values of its metrics, with the answer's headers.
    pub async fn metrics(
        &self,
        reference: ScaledObjectRef,
        name: &str,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = GetMetricsRequest {
            scaled_object_ref: Some(reference),
            metric_name: name.to_owned(),
        };
        self.unary(request, "/externalscaler.ExternalScaler/GetMetrics").await
    }

    /// Activity as it comes. The stream ends when the scaler ends it.
    pub async fn stream_is_active(&self, reference: ScaledObjectRef) -> Result<Streaming<IsActiveResponse>, Status> {
        self.stream(reference, "/externalscaler.ExternalScaler/StreamIsActive")
            .await
    }

    /// Names and targets as they change.
    pub async fn stream_metric_spec(
        &self,
        reference: ScaledObjectRef,
    ) -> Result<Streaming<GetMetricSpecResponse>, Status> {
        self.stream(reference, "/externalscaler.ExternalScaler/StreamMetricSpec")
            .await
    }

    async fn stream<R>(&self, message: ScaledObjectRef, path: &'static str) -> Result<Streaming<R>, Status>
    where
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut inner = self.inner.clone();
        inner
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let answer = inner
            .server_streaming(Request::new(message), path, ProstCodec::default())
            .await?;
        Ok(answer.into_inner())
    }
}
