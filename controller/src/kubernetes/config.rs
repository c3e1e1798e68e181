//! Every option of the controller in a cluster, with its default and unit.

use std::{net::SocketAddr, time::Duration};

use pilotlight_manifests::kubernetes::{ADMIN_PORT, SYSTEM_NAMESPACE};

/// Options of the controller in a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Namespace of the platform: its Lease, and the activators' Service. Default `pilotlight-system`.
    pub namespace: String,
    /// Who this process is among several controllers: the pod's name.
    pub identity: String,
    /// The only namespace whose services are looked after; `None` is all.
    pub watched: Option<String>,
    /// Image of the runtimes: that of the platform.
    pub image: String,
    /// Image of the runtimes that are given GPUs; `None` is [`Self::image`].
    pub gpu_image: Option<String>,
    /// Domain of the external hosts. Default `example.com`, as in KServe.
    pub domain: String,
    /// The cluster's own domain. Default `cluster.local`.
    pub cluster_domain: String,
    /// KServe's own controller runs: its workloads are routed, counted, woken and ended when idle, and nothing of it is
    /// written. Default false.
    pub beside_kserve: bool,
    /// Address of `/livez`, `/readyz` and `/metrics`. Default `0.0.0.0:9090`.
    pub admin_address: SocketAddr,
    /// Port of the activators' admin side. Default 9090.
    pub activator_admin_port: u16,
    /// The Lease.
    pub lease: LeaseConfig,
    /// Reconciliations at once. Default 16.
    pub concurrency: u16,
    /// Writes to the API server a second that are not urgent (scaling is, and never waits). Default 100.
    pub writes_per_second: u32,
    /// Writes that may come at once after a pause. Default 200.
    pub write_burst: u32,
    /// Every service is looked at again after this long, whatever happened. Default 1 h.
    pub resync: Duration,
    /// Time between two rounds of snapshots. Default 1 s, the width of the autoscaler's buckets.
    pub snapshot_interval: Duration,
    /// Time between two decisions. Default 2 s.
    pub decision_interval: Duration,
    /// Counts older than this are unknown, and nothing is scaled down by them. Default 5 s.
    pub stale_after: Duration,
    /// An activator that is listed and does not answer keeps everything from being scaled down for so long. Default 300 s.
    pub unknown_limit: Duration,
    /// How long one answer of an activator may take. Default 2 s.
    pub activator_timeout: Duration,
    /// How long pods that are to go may take to finish what they have; past it the scale-down is taken back and tried again
    /// later. Default 300 s.
    pub drain_limit: Duration,
    /// A runtime goes on answering for so long after SIGTERM, while the activators learn of it. Default 3 s.
    pub drain_delay: Duration,
    /// Waits between tries of a reconciliation that fails, doubling from the first to the second. Default 200 ms to 60 s.
    pub retry: (Duration, Duration),
}

/// Options of the leader election, client-go's names and defaults.
#[derive(Clone, Copy, Debug)]
pub struct LeaseConfig {
    /// A holder that does not renew for so long is replaced. Default 15 s, whole seconds.
    pub duration: Duration,
    /// A holder that can't renew for so long stops acting. Default 10 s.
    pub renew_deadline: Duration,
    /// Time between tries. Default 2 s.
    pub retry: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            identity: "pilotlight-controller".to_owned(),
            watched: None,
            image: "pilotlight".to_owned(),
            gpu_image: None,
            domain: "example.com".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            beside_kserve: false,
            admin_address: SocketAddr::from(([0, 0, 0, 0], ADMIN_PORT)),
            activator_admin_port: ADMIN_PORT,
            lease: LeaseConfig::default(),
            concurrency: 16,
            writes_per_second: 100,
            write_burst: 200,
            resync: Duration::from_hours(1),
            snapshot_interval: Duration::from_secs(1),
            decision_interval: Duration::from_secs(2),
            stale_after: Duration::from_secs(5),
            unknown_limit: Duration::from_mins(5),
            activator_timeout: Duration::from_secs(2),
            drain_limit: Duration::from_mins(5),
            drain_delay: Duration::from_secs(3),
            retry: (Duration::from_millis(200), Duration::from_mins(1)),
        }
    }
}
