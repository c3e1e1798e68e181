//! A client of external scalers, for the triggers `external` and `external-push` where no KEDA runs.

use std::{io, sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use pilotlight_activator::secure::{ClientTls, SecureError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
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

/// What TLS to an external scaler is made of, as KEDA's triggers have it.
#[derive(Clone, Default)]
pub struct ScalerTls {
    /// PEM of the authorities that its certificate has to come from. `None`: the system's.
    pub authorities: Option<String>,
    /// PEM of a certificate of our own, and of its key.
    pub identity: Option<(String, String)>,
    /// Any certificate will do.
    pub anything: bool,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("it is no address: {0}")]
    Address(#[from] tonic::transport::Error),
    /// No certificate can be for it.
    #[error("{0} has no host that a certificate could be for")]
    Host(String),
    /// A certificate or a key.
    #[error(transparent)]
    Tls(#[from] SecureError),
}

impl Client {
    /// A client of `address` (`host:port`), without TLS.
    ///
    /// # Errors
    /// Where the address is none.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(LIMIT);
        Ok(Self {
            inner: Grpc::new(endpoint.connect_lazy()),
        })
    }

    /// A client of `address` over TLS.
    ///
    /// # Errors
    /// Where the address is none, or a certificate or key can't be used.
    pub fn with_tls(address: &str, tls: &ScalerTls) -> Result<Self, ClientError> {
        // The scheme would have tonic look for TLS of its own.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(LIMIT);
        let host = endpoint
            .uri()
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let name = rustls::pki_types::ServerName::try_from(host).map_err(|_| ClientError::Host(address.to_owned()))?;
        let config = ClientTls {
            authorities: tls.authorities.as_deref(),
            identity: tls
                .identity
                .as_ref()
                .map(|(certificate, key)| (certificate.as_str(), key.as_str())),
            anything: tls.anything,
        };
        let mut config = config.config()?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let address: Arc<str> = address.into();
        let open = tower::service_fn(move |_| {
            let (connector, address, name) = (connector.clone(), Arc::clone(&address), name.clone());
            async move {
                let stream = TcpStream::connect(&*address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        Ok(Self {
            inner: Grpc::new(endpoint.connect_with_connector_lazy(open)),
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
