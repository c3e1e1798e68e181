//! The one binary: each subcommand is a file of `commands`, and loads what it needs and nothing else.

mod api;
mod cli;
mod client;
mod commands;
mod data_plane;
mod output;
mod process;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Every HTTP client of the process asks for it.
    pilotlight_storage::install_tls_provider();
    commands::run(cli::Cli::parse())
}
