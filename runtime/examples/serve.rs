//! The runtime alone, as a program: what `pilotlight runtime` runs, without the rest of the platform.
//!
//! `cargo run -p pilotlight-runtime --example serve -- --model iris=manifests/examples/iris.onnx`

use std::process::ExitCode;

use clap::Parser as _;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    command: pilotlight_runtime::Command,
}

fn main() -> ExitCode {
    pilotlight_runtime::command(Cli::parse().command)
}
