//! The command line. Exit codes: 0 it worked, 1 it did not, 2 the command line is wrong or asks for what is not there yet.

use clap::{Parser, Subcommand};

use crate::{
    commands::{activator, apply, controller, delete, get, logs, predict},
    up,
};

/// Model inference that scales to zero.
#[derive(Debug, Parser)]
#[command(
    name = "pilotlight",
    version,
    after_help = "Exit codes: 0 it worked, 1 it did not, 2 the command line is wrong or asks for what is not there yet."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the manifests of a directory on this machine.
    Up(up::Args),
    /// Create services from manifests, or change them.
    Apply(apply::Args),
    /// Show services.
    Get(get::Args),
    /// Delete services that were applied.
    Delete(delete::Args),
    /// Ask a model.
    Predict(predict::Args),
    /// Print what the replicas of a service log.
    Logs(logs::Args),
    /// Print the CustomResourceDefinitions for Kubernetes.
    Crds(CrdsArgs),
    /// Serve models in this process: what `up` starts for each replica.
    Runtime(Box<pilotlight_runtime::Args>),
    /// Run the proxy alone, in a Kubernetes cluster or beside one.
    Activator(Box<activator::Args>),
    /// Run the controller of a Kubernetes cluster.
    Controller(Box<controller::Args>),
}

/// Which definitions are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct CrdsArgs {
    /// Those of KEDA and its HTTP add-on, for a cluster that has neither, instead of our own.
    #[arg(long)]
    pub(crate) keda: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        Cli::try_parse_from(line.split(' '))
            .map(|cli| cli.command)
            .map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn what_the_documentation_shows_is_understood() {
        for line in [
            "pilotlight up manifests/examples",
            "pilotlight up manifests --http-address 0.0.0.0:80 --admin-address 127.0.0.1:0 --domain models.lan",
            "pilotlight apply -f iris.yaml",
            "pilotlight apply -f a.yaml b.yaml -f c.yaml",
            "pilotlight get",
            "pilotlight get iris -o json",
            "pilotlight get -A --watch -o wide",
            "pilotlight get -n flowers --server http://127.0.0.1:9191",
            "pilotlight delete iris",
            "pilotlight delete -f iris.yaml",
            "pilotlight predict iris --data @flowers.json",
            "pilotlight predict iris --data {} --protocol v2 --url http://127.0.0.1:8080",
            "pilotlight predict iris --data {} --url https://127.0.0.1:8443 --ca ca.pem --token-file token",
            "pilotlight logs iris --follow --tail 10",
            "pilotlight crds",
            "pilotlight crds --keda",
            "pilotlight runtime --model iris=iris.onnx --http-address 127.0.0.1:8081",
            "pilotlight activator --http-address 0.0.0.0:8080 --watch-namespace a,b --domain models.lan",
            "pilotlight controller --keda",
            "pilotlight activator --keda",
            "pilotlight controller --beside-kserve --image pilotlight:1",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "pilotlight",
            "pilotlight apply",
            "pilotlight delete",
            "pilotlight delete iris -f iris.yaml",
            "pilotlight get iris -A",
            "pilotlight get -o yaml",
            "pilotlight predict iris",
            "pilotlight predict iris --data {} --protocol v3",
            "pilotlight logs iris --tail -1",
            "pilotlight get --server nowhere",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
