//! Sends the metrics of the process at each interval, from a thread of its own, so that neither a blocked runtime nor the end of
//! one keeps them.

use std::{
    io,
    io::Write as _,
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use prometheus::proto::MetricFamily;
use prost::Message as _;
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::{metadata::MetadataMap, transport::Channel};

use crate::{
    families::{Times, request},
    tls,
    variables::{Destination, Protocol},
};

/// The longest that the last export holds up the end.
const LAST: Duration = Duration::from_secs(3);

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the collector answered {0}")]
    Status(reqwest::StatusCode),
    #[error("{}: {}", .0.code(), .0.message())]
    Grpc(Box<tonic::Status>),
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Tls(#[from] tls::Fault),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads every family as it is now.
pub(crate) type Gather = Box<dyn Fn() -> Vec<MetricFamily> + Send>;

/// Exports until it is dropped, which sends once more and takes at most three seconds.
#[derive(Debug)]
pub(crate) struct Pushing {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pushing {
    /// Begins; the first export comes after one interval.
    ///
    /// # Errors
    /// Where the system gives no thread, or a file of TLS can't be used.
    pub(crate) fn start(to: Destination, resource: Vec<KeyValue>, gather: Gather) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            // Channels belong to the runtime that drives them.
            let _within = runtime.enter();
            Client::new(&to)?
        };
        let (stop, stopped) = oneshot::channel();
        let work = move || runtime.block_on(run(client, to, resource, gather, stopped));
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(work)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by its hook.
            let _ = thread.join();
        }
    }
}

async fn run(
    client: Client,
    to: Destination,
    resource: Vec<KeyValue>,
    gather: Gather,
    mut stopped: oneshot::Receiver<()>,
) {
    let start = now();
    let mut ticks = interval_at(Instant::now() + to.interval, to.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut works = true;
    loop {
        let last = tokio::select! {
            _ = &mut stopped => true,
            _ = ticks.tick() => false,
        };
        let limit = if last { to.timeout.min(LAST) } else { to.timeout };
        let message = request(&resource, &gather(), Times { start, now: now() });
        let sending = tokio::time::timeout(limit, client.send(message));
        let sent = tokio::select! {
            sent = sending => sent.unwrap_or(Err(Error::Late(limit))),
            // The last one tells the same, and more.
            _ = &mut stopped, if !last => {
                let message = request(&resource, &gather(), Times { start, now: now() });
                let limit = to.timeout.min(LAST);
                tell(&tokio::time::timeout(limit, client.send(message)).await.unwrap_or(Err(Error::Late(limit))), &mut works);
                return;
            }
        };
        tell(&sent, &mut works);
        if last {
            return;
        }
    }
}

/// Logs the first failure and the first success after it; counters lose nothing by one that is missing.
fn tell(sent: &Result<(), Error>, works: &mut bool) {
    match sent {
        Ok(()) if !*works => tracing::info!("metrics are exported again"),
        Err(error) if *works => tracing::warn!(%error, "metrics can't be exported; it is tried again at each interval"),
        _ => {}
    }
    *works = sent.is_ok();
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

enum Client {
    Http {
        http: reqwest::Client,
        to: Destination,
    },
    Grpc {
        service: MetricsServiceClient<Channel>,
        metadata: MetadataMap,
    },
}

impl Client {
    fn new(to: &Destination) -> Result<Self, Error> {
        if to.protocol == Protocol::Grpc {
            return Ok(Self::Grpc {
                service: MetricsServiceClient::new(to.files.channel(&to.endpoint)?),
                metadata: MetadataMap::from_headers(to.headers.clone()),
            });
        }
        Ok(Self::Http {
            http: to.files.http()?,
            to: to.clone(),
        })
    }

    async fn send(&self, message: ExportMetricsServiceRequest) -> Result<(), Error> {
        match self {
            Self::Grpc { service, metadata } => {
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = metadata.clone();
                let sent = service.clone().export(request).await;
                sent.map(drop).map_err(|status| Error::Grpc(Box::new(status)))
            }
            Self::Http { http, to } => {
                let mut body = message.encode_to_vec();
                let mut post = http
                    .post(&to.endpoint)
                    .headers(to.headers.clone())
                    .header("content-type", "application/x-protobuf");
                if to.gzip {
                    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
                    packer.write_all(&body)?;
                    body = packer.finish()?;
                    post = post.header("content-encoding", "gzip");
                }
                let status = post.body(body).send().await?.status();
                if status.is_success() {
                    Ok(())
                } else {
                    Err(Error::Status(status))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
