//! The command line of a runtime, what it inherits and what it sees of our environment.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use pilotlight_activator::WakeReason;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::lifeline::{LIFELINE_FD, Lifeline};
use crate::{config::LocalConfig, flags, platform::RuntimeSpec};

/// The descriptor under which a runtime finds its listener.
const LISTEN_FD: i32 = 3;

/// Connections that may wait for the runtime to accept them, its start included.
const BACKLOG: i32 = 1024;

/// A loopback socket that listens already, on a port that the system chose.
pub(super) struct Listener {
    socket: OwnedFd,
    pub(super) address: SocketAddr,
}

impl Listener {
    pub(super) fn bind() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listen(&socket, BACKLOG)?;
        let listener = TcpListener::from(socket);
        Ok(Self {
            address: listener.local_addr()?,
            socket: listener.into(),
        })
    }
}

/// The executable with the minimal environment, no input and a captured stderr; arguments are the caller's.
pub(crate) fn command(config: &LocalConfig) -> Command {
    let mut command = Command::new(&config.executable);
    command.env_clear();
    for name in &config.inherited_env {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // In a group of its own, an interrupt typed at the terminal reaches us alone and we end children in order.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Gives descriptors to the child under these numbers; ours are closed when the command is dropped.
pub(crate) fn map(command: &mut Command, descriptors: Vec<(OwnedFd, i32)>) -> io::Result<()> {
    let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
    command
        .fd_mappings(descriptors.into_iter().map(mapping).collect())
        .map_err(io::Error::other)?;
    Ok(())
}

/// Starts a runtime. Blocks for as long as fork and exec take. Our end of the listener is closed on return, so that a
/// connection to a dead runtime is refused and not left waiting. `gpus` is what it sees of the GPUs.
pub(super) fn spawn(
    config: &LocalConfig,
    spec: &RuntimeSpec,
    gpus: Option<String>,
    listener: Listener,
    lifeline: &Lifeline,
) -> io::Result<tokio::process::Child> {
    let mut command = command(config);
    command.args(arguments(spec)).envs(&spec.env).env("LISTEN_FDS", "1");
    if let Some(gpus) = gpus {
        // Numbers are those of the management library, which orders cards by their place on the bus.
        command.env("CUDA_VISIBLE_DEVICES", gpus);
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    }
    map(
        &mut command,
        vec![(listener.socket, LISTEN_FD), (lifeline.reader()?, LIFELINE_FD)],
    )?;
    tokio::process::Command::from(command).kill_on_drop(true).spawn()
}

/// The runtime's arguments. An option that the manifest sets by its variable is left to the variable.
fn arguments(spec: &RuntimeSpec) -> Vec<std::ffi::OsString> {
    let mut model = std::ffi::OsString::from(format!("{}=", spec.model));
    model.push(&spec.path);
    let mut arguments: Vec<std::ffi::OsString> = vec!["runtime".into(), "--model".into(), model];
    let mut option = |name: &str, value: String| {
        arguments.push(name.into());
        arguments.push(value.into());
    };
    option("--listen-fd", LISTEN_FD.to_string());
    option("--lifeline-fd", LIFELINE_FD.to_string());
    for (flag, value) in flags::batching(&spec.batching, |variable| spec.env.contains_key(variable)) {
        option(flag, value);
    }
    for (flag, value) in flags::devices(&spec.devices, &spec.args) {
        option(flag, value);
    }
    option("--request-timeout-ms", spec.timeout.as_millis().to_string());
    option("--drain-delay-ms", "0".to_owned());
    arguments.extend(spec.args.iter().map(Into::into));
    arguments
}

/// Why the system refused, for whoever waits for the replica.
pub(super) fn refusal(what: &str, error: &io::Error) -> (WakeReason, String) {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (reason, help) = match errno {
        Some(Errno::MFILE | Errno::NFILE) => (WakeReason::NoCapacity, "; raise the limit of open files (ulimit -n)"),
        Some(Errno::AGAIN | Errno::NOMEM) => (WakeReason::NoCapacity, "; the machine has no memory or processes left"),
        Some(Errno::ADDRNOTAVAIL) => (WakeReason::NoCapacity, "; the machine has no loopback ports left"),
        _ => (WakeReason::PlatformError, ""),
    };
    (reason, format!("{what}: {error}{help}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Model, platform::Hold, testing::service, workload::workload};

    fn spec(change: impl FnOnce(&mut pilotlight_manifests::Service)) -> RuntimeSpec {
        let mut service = service("iris");
        change(&mut service);
        workload(
            &service,
            &Model {
                path: "/m/iris.onnx".into(),
                digest: "d".into(),
                hold: Hold::default(),
            },
        )
        .runtime
    }

    fn line(spec: &RuntimeSpec) -> String {
        arguments(spec).join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_command_line_is_the_runtimes_contract() {
        let expected = "runtime --model iris=/m/iris.onnx --listen-fd 3 --lifeline-fd 4 --max-batch-size 32 \
                        --max-latency-ms 0 --queue-size 1000 --ready-queue-limit 100 --request-timeout-ms 5000 \
                        --drain-delay-ms 0 --device cpu";
        assert_eq!(
            line(&spec(|service| service.args = vec!["--device".into(), "cpu".into()])),
            expected
        );
    }

    #[test]
    fn options_of_the_batch_former_are_passed_where_they_are_given() {
        let spec = spec(|service| {
            service.batching.priority_levels = 3;
            service.batching.default_priority = Some(2);
            service.batching.preferred_batch_sizes = vec![4, 8];
            service.batching.adaptive = true;
        });
        let expected = "--priority-levels 3 --default-priority 2 --preferred-batch-sizes 4,8 --adaptive-batching true";
        assert!(line(&spec).contains(expected), "{}", line(&spec));
    }

    #[test]
    fn a_variable_of_the_manifest_rules_its_option() {
        let spec = spec(|service| {
            service.env.insert("MAX_BATCH_SIZE".into(), "4".into());
            service.env.insert("MAX_WAIT_MS".into(), "50".into());
        });
        assert!(!line(&spec).contains("--max-batch-size") && !line(&spec).contains("--max-latency-ms"));
    }

    #[test]
    fn a_full_file_table_names_its_remedy() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let (reason, message) = refusal("opening a loopback listener", &error);
        assert_eq!(reason, WakeReason::NoCapacity);
        assert!(message.contains("ulimit -n"), "{message}");
    }
}
