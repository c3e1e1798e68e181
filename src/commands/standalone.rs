//! `activator` and `controller` by themselves: parts of an installation on Kubernetes, which is not there yet.

use std::process::ExitCode;

use crate::output::{self, Palette};

/// Whatever is given: the answer is the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Says that it is not there yet, and what is. Exit code 2.
pub(crate) fn run(part: &str) -> ExitCode {
    let error = Palette::stderr().bad("error");
    output::complain(format!(
        "{error}: `pilotlight {part}` by itself is for Kubernetes, which is not supported yet: `pilotlight up DIR` runs the \
         activator and the controller together on one machine"
    ));
    ExitCode::from(2)
}
