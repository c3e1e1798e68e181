//! `pilotlight delete NAME` or `-f FILE...`: deletes services that were applied.

use std::path::PathBuf;

use pilotlight_manifests as manifests;
use reqwest::StatusCode;

use super::{Failure, files};
use crate::{
    client::{Client, Error, Server},
    output::{self, Palette},
};

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// Namespace of the name.
    #[arg(short, long, default_value = "default", conflicts_with = "file")]
    namespace: String,
    /// Delete the services of these manifests: files, directories, or `-` for standard input.
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1..)]
    file: Vec<PathBuf>,
    /// A service that is not there is no error.
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    server: Server,
}

/// Deletes each service; one that can't be deleted is told and does not keep the others.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    let mut failed = false;
    for (namespace, name) in keys(&args)? {
        match client.delete(&namespace, &name).await {
            Ok(()) => output::print(format!("inferenceservice/{name} deleted\n"))?,
            Err(Error::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) if args.ignore_not_found => {}
            Err(Error::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }) => {
                failed = true;
                complain(format!("inferenceservice/{name} not found in namespace {namespace}"));
            }
            Err(error @ Error::Refused { .. }) => {
                failed = true;
                complain(error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}

fn complain(message: String) {
    output::complain(format!("{}: {message}", Palette::stderr().bad("error")));
}

/// Namespace and name of what is to go. With a fault in a file nothing goes: it may be in the name.
fn keys(args: &Args) -> Result<Vec<(String, String)>, Failure> {
    if let Some(name) = &args.name {
        return Ok(vec![(args.namespace.clone(), name.clone())]);
    }
    let mut keys = Vec::new();
    for files::Manifests { file, text, .. } in files::read(&args.file)? {
        let parsed = manifests::parse(&text, &file);
        if !parsed.faults.is_empty() {
            parsed.faults.iter().for_each(|fault| complain(fault.to_string()));
            return Err(Failure::Told);
        }
        keys.extend(
            parsed
                .services
                .into_iter()
                .map(|service| (service.namespace, service.name)),
        );
    }
    Ok(keys)
}
