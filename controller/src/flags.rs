//! The runtime's flags that say how it batches; both homes start runtimes with them.

use pilotlight_manifests::Batching;

/// Flags and values. One that has a variable is left to it where `by_variable` says that the manifest sets that.
pub(crate) fn batching(batching: &Batching, by_variable: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    if !by_variable("MAX_BATCH_SIZE") {
        flags.push(("--max-batch-size", batching.max_batch_size.to_string()));
    }
    if !by_variable("MAX_WAIT_MS") {
        flags.push(("--max-latency-ms", batching.max_latency.as_millis().to_string()));
    }
    flags.push(("--queue-size", batching.queue_size.to_string()));
    flags.push(("--ready-queue-limit", batching.ready_queue_limit.to_string()));
    if batching.priority_levels > 1 {
        flags.push(("--priority-levels", batching.priority_levels.to_string()));
    }
    if let Some(level) = batching.default_priority {
        flags.push(("--default-priority", level.to_string()));
    }
    if !batching.preferred_batch_sizes.is_empty() {
        let sizes: Vec<String> = batching.preferred_batch_sizes.iter().map(u32::to_string).collect();
        flags.push(("--preferred-batch-sizes", sizes.join(",")));
    }
    if batching.adaptive {
        flags.push(("--adaptive-batching", "true".to_owned()));
    }
    flags
}
