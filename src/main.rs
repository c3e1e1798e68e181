//! The one binary: each subcommand is a file of `commands`, and loads what it needs and nothing else.

mod api;
mod cli;
mod client;
mod commands;
mod output;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // The clients of HTTPS take the process's cryptography, and there is none unless it is chosen. An error means that it was.
    let _ = rustls::crypto::ring::default_provider().install_default();
    commands::run(cli::Cli::parse())
}
