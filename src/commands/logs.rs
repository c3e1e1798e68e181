//! `pilotlight logs NAME`: what the replicas of a service write to standard error.

use super::Failure;
use crate::{
    client::{Client, Server},
    output,
};

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service.
    name: String,
    /// Namespace of the service.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Go on with what is logged from now.
    #[arg(short, long)]
    follow: bool,
    /// The last N lines. Default: all that are kept.
    #[arg(short, long, value_name = "N")]
    tail: Option<u64>,
    #[command(flatten)]
    server: Server,
}

/// Prints the lines as they come, each with the id of its replica.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    let mut response = client.logs(&args.namespace, &args.name, args.tail, args.follow).await?;
    while let Some(chunk) = response.chunk().await.map_err(|error| client.broken(&error))? {
        output::print(chunk)?;
    }
    Ok(())
}
