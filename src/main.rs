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
    commands::run(cli::Cli::parse())
}
