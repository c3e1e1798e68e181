//! Settings of an activator. Plain values, parsed by whoever starts it.

use std::time::Duration;

use crate::ReporterId;

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
    /// Whether `GET /` without a route is answered 200, as KServe's servers do. Default true; where applications of all kinds are
    /// routed, a host that none has is a 404 whatever the path.
    pub alive_at_root: bool,
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
            alive_at_root: true,
            event_buffer: 1_024,
        }
    }
}
