//! Settings of an activator. Plain values, parsed by whoever starts it.

use std::time::Duration;

use crate::{
    ReporterId,
    secure::{Tls, Tokens},
};

/// Settings of one activator. Bounds per route are in [`crate::RoutePolicy`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The name under which its counts are reported. Default `activator`.
    pub reporter: ReporterId,
    /// Pause between two probes of a starting endpoint. Default 10 ms.
    pub probe_interval: Duration,
    /// The pause of an endpoint that has been probed for less than ten intervals is a tenth of that time, down to this.
    /// Default 1 ms.
    pub probe_interval_min: Duration,
    /// The pause grows to 1 % of the time an endpoint has been probed, up to this: a replica that needs minutes is not
    /// asked a hundred times a second. Default 100 ms.
    pub probe_interval_max: Duration,
    /// How long one probe may stay unanswered. Long on purpose: a local listener accepts before its process runs, and
    /// the probe waiting there is answered the moment it does. Default 10 s.
    pub probe_timeout: Duration,
    /// For a connection to an endpoint. Default 1 s.
    pub connect_timeout: Duration,
    /// Idle connections kept per endpoint; more are closed after their answer. Default 256.
    pub pool_max_idle: usize,
    /// Idle connections older than this are closed. Default 15 s, well below the idle limits of servers.
    pub pool_idle_timeout: Duration,
    /// How long requests may go on after shutdown was asked for. What still waits then is answered 503
    /// `shutting-down`, what is still being answered is cut off. Default 30 s.
    pub drain_timeout: Duration,
    /// From the first byte of a request's head to its last, and for an idle client connection. Default 75 s.
    pub header_read_timeout: Duration,
    /// Client connections at once; more wait in the kernel's queue. Default 16,384.
    pub max_connections: usize,
    /// Bytes of a gRPC call's first message that are read to find its model's name, where its host does not tell.
    /// Clients write the name first. Past it: `unknown-route`. Default 64 KiB.
    pub grpc_name_limit: usize,
    /// Streams at once per HTTP/2 client connection. Default 1,024.
    pub max_streams: u32,
    /// The waker is asked again if its yes was not followed by an endpoint for so long. Default 1 s.
    pub wake_repeat: Duration,
    /// Seconds in `Retry-After` of our own 503s. Default 1.
    pub retry_after: u32,
    /// First pause of an endpoint that refused a request while it held no other of ours; doubles with each refusal in
    /// a row. Default 10 ms.
    pub refusal_pause: Duration,
    /// Longest such pause. Default 1 s.
    pub refusal_pause_max: Duration,
    /// Whether forwarded answers carry `X-KEDA-HTTP-Cold-Start: true|false`. Default true.
    pub cold_start_header: bool,
    /// Applications of all kinds are routed, not only models: what no route takes is a 404 in the words of the KEDA HTTP add-on, at `/`
    /// too, where otherwise 200 is the answer as from KServe's servers. Default false.
    pub applications: bool,
    /// Every request is logged once it is over, in the Combined Log Format, under the target `access`. Default false.
    pub log_requests: bool,
    /// TLS on the listener; `None` (the default) is plain text.
    pub tls: Option<Tls>,
    /// Bearer tokens, one of which every request has to bring; `None` (the default) lets anybody in. Without a right one:
    /// 401 `unauthenticated`. The header is taken off on the way to the model.
    pub tokens: Option<Tokens>,
    /// Time between two looks at whether the files of certificates and tokens changed. Default 2 s.
    pub reload_interval: Duration,
    /// Bytes of a request's body; past it 413 `body-too-large`. Streaming gRPC calls have no such bound. Default 1 GiB.
    pub max_body_bytes: u64,
    /// How long a request's body may pause (not gRPC's); then 408 `request-body-timeout`. Default 60 s.
    pub body_idle_timeout: Duration,
    /// Bytes of a request's head; past it 431. At least 8 KiB. Default 64 KiB.
    pub max_header_bytes: u32,
    /// Headers of a request over HTTP/1.1; past it 431. Default 100.
    pub max_headers: usize,
    /// How long writing to a client may stall, as it does when the client doesn't read; then the connection ends.
    /// Default 60 s.
    pub write_timeout: Duration,
    /// For a TLS handshake; then the connection ends. Default 10 s.
    pub handshake_timeout: Duration,
    /// An HTTP/2 client that is silent for so long is asked whether it is still there, and has the same time again to say
    /// so. Default 30 s.
    pub http2_ping_interval: Duration,
    /// Events kept for a slow receiver; older ones are lost to it. Default 1,024.
    pub event_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reporter: ReporterId::new("activator"),
            probe_interval: Duration::from_millis(10),
            probe_interval_min: Duration::from_millis(1),
            probe_interval_max: Duration::from_millis(100),
            probe_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            pool_max_idle: 256,
            pool_idle_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            header_read_timeout: Duration::from_secs(75),
            max_connections: 16_384,
            grpc_name_limit: 64 << 10,
            max_streams: 1_024,
            wake_repeat: Duration::from_secs(1),
            retry_after: 1,
            refusal_pause: Duration::from_millis(10),
            refusal_pause_max: Duration::from_secs(1),
            cold_start_header: true,
            applications: false,
            log_requests: false,
            tls: None,
            tokens: None,
            reload_interval: Duration::from_secs(2),
            max_body_bytes: 1 << 30,
            body_idle_timeout: Duration::from_mins(1),
            max_header_bytes: 64 << 10,
            max_headers: 100,
            write_timeout: Duration::from_mins(1),
            handshake_timeout: Duration::from_secs(10),
            http2_ping_interval: Duration::from_secs(30),
            event_buffer: 1_024,
        }
    }
}
