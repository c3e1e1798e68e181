//! The runtime's flags that say how it batches and on what it computes; both homes start runtimes with them.

use pilotlight_manifests::{Batching, Devices};

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

/// Flags and values. What `args`, the manifest's own arguments, say stands: a flag may be given once.
pub(crate) fn devices(devices: &Devices, args: &[String]) -> Vec<(&'static str, String)> {
    let given = |flag: &str| {
        let with_value = format!("{flag}=");
        args.iter().any(|arg| arg == flag || arg.starts_with(&with_value))
    };
    let device = if devices.gpus > 0 { "cuda" } else { "cpu" };
    let mut flags = vec![("--device", device.to_owned())];
    if devices.precision != Devices::default().precision {
        flags.push(("--precision", devices.precision.to_owned()));
    }
    flags.retain(|(flag, _)| !given(flag));
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(gpus: u32, precision: &'static str, args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let flags = devices(&Devices { gpus, precision }, &args);
        let words = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]);
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_asks_for_a_gpu_runs_on_one_and_everybody_else_on_the_cpu() {
        assert_eq!(line(1, "f32", &[]), "--device cuda");
        assert_eq!(line(0, "f32", &[]), "--device cpu");
        assert_eq!(line(1, "bf16", &[]), "--device cuda --precision bf16");
    }

    #[test]
    fn what_the_manifest_s_arguments_say_is_not_said_again() {
        assert_eq!(line(1, "f16", &["--device", "cuda:0"]), "--precision f16");
        assert_eq!(line(1, "f16", &["--device=cpu", "--precision=f32"]), "");
        assert_eq!(line(0, "f32", &["--devices"]), "--device cpu");
    }
}
