//! The runtime alone, as a program: what `pilotlight runtime` runs, without the rest of the platform.
//!
//! `cargo run -p pilotlight-runtime --example serve -- --model iris=manifests/examples/iris.onnx`

use std::process::ExitCode;

use clap::Parser as _;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: pilotlight_runtime::Args,
}

fn main() -> ExitCode {
    pilotlight_runtime::main(Cli::parse().args)
}
