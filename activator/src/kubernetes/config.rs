//! Settings of an activator in a cluster.

use std::time::Duration;

use pilotlight_manifests::kubernetes::SYSTEM_NAMESPACE;

/// Settings of the cluster's side; those of the proxy itself are in [`crate::Config`].
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Namespace that the platform runs in, where its activators are looked for. Default `pilotlight-system`.
    pub namespace: String,
    /// Name of this activator's pod, by which it finds itself among the others. Default `activator`.
    pub own_name: String,
    /// Domain of the hosts from outside: `{name}.{namespace}.{domain}`. Default `example.com`.
    pub domain: String,
    /// Domain of the cluster's DNS. Default `cluster.local`.
    pub cluster_domain: String,
    /// Namespaces whose services are served; empty is all. Default empty.
    pub watch_namespaces: Vec<String>,
    /// How long a workload's pods may be unable to start before waiting requests are told so. Default 2 s: some failures
    /// pass by themselves.
    pub failure_grace: Duration,
    /// Wakes that write to the API server at once; more wait. Default 32.
    pub wake_concurrency: usize,
    /// Wakes a second once the burst is used up; more wait. Default 100.
    pub wake_rate: f64,
    /// Wakes that may come at once. Default 200.
    pub wake_burst: u32,
    /// How long a wake is tried while the API server does not answer; then `platform-error`. Default 60 s.
    pub wake_patience: Duration,
    /// How long a wake waits for a workload that does not exist (yet), or that may not be written; then `unknown-backend`
    /// or `platform-error`. Default 10 s.
    pub absent_patience: Duration,
    /// How long one call of the API server may take. Default 5 s.
    pub call_timeout: Duration,
    /// Longest time that a seal holds without being repeated. Default 5 min.
    pub hold_max: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            own_name: "activator".to_owned(),
            domain: "example.com".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            watch_namespaces: Vec::new(),
            failure_grace: Duration::from_secs(2),
            wake_concurrency: 32,
            wake_rate: 100.0,
            wake_burst: 200,
            wake_patience: Duration::from_mins(1),
            absent_patience: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
            hold_max: Duration::from_mins(5),
        }
    }
}
