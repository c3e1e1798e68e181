//! The subcommands, one file each, and what they share: how they run and how they end.

pub(crate) mod activator;
pub(crate) mod apply;
pub(crate) mod controller;
pub(crate) mod delete;
pub(crate) mod files;
pub(crate) mod get;
pub(crate) mod keda;
pub(crate) mod logs;
pub(crate) mod predict;
pub(crate) mod settle;

use std::{future::Future, process::ExitCode};

use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Command, CrdsArgs},
    client::Error,
    output::{self, Palette},
    up,
};

/// Runs the subcommand. Nothing is built before it is known which: `runtime` is started for every wake, and its start is part
/// of the time that a request waits.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Up(args) => up::run(args),
        Command::Runtime(args) => pilotlight_runtime::command(*args),
        Command::Apply(args) => client(apply::run(args)),
        Command::Get(args) => client(get::run(args)),
        Command::Delete(args) => client(delete::run(args)),
        Command::Predict(args) => client(predict::run(args)),
        Command::Logs(args) => client(logs::run(args)),
        Command::Crds(args) => end(output::print(crds(args)).map_err(Failure::from)),
        Command::Activator(args) => activator::run(*args),
        Command::Controller(args) => controller::run(*args),
    }
}

fn crds(args: CrdsArgs) -> String {
    if !args.keda {
        return pilotlight_manifests::crds();
    }
    let definitions = pilotlight_manifests::keda::definitions();
    let documents: Vec<String> = definitions
        .iter()
        .map(pilotlight_manifests::keda::Definition::yaml)
        .collect();
    documents.join("---\n")
}

/// How a subcommand fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// With a message that is still to be shown.
    #[error(transparent)]
    Error(#[from] Error),
    /// With a message of its own.
    #[error("{0}")]
    Message(String),
    /// All has been said.
    #[error("")]
    Told,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Error(error.into())
    }
}

/// Runs a client on this thread.
fn client(command: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    end(runtime
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(command)))
}

/// Runs a part of the cluster home by itself, with its log on standard error.
fn serve_until_end(log_level: &str, serve: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let filter = match EnvFilter::builder().parse(log_level) {
        Ok(filter) => filter,
        Err(error) => {
            output::complain(format!("error: --log-level {log_level:?}: {error}"));
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    end(runtime.map_err(Failure::from).and_then(|runtime| {
        let result = runtime.block_on(serve);
        // A watch that is just being opened must not hold up the end.
        runtime.shutdown_background();
        result
    }))
}

fn end(outcome: Result<(), Failure>) -> ExitCode {
    let message = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Error(Error::Io(error))) if output::reader_left(&error) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(failure) => failure.to_string(),
    };
    output::complain(format!("{}: {message}", Palette::stderr().bad("error")));
    ExitCode::FAILURE
}
