//! What every long-running subcommand does with its process.

use std::io;

use tokio::signal::unix;
use tokio_util::sync::CancellationToken;

/// The first SIGINT or SIGTERM cancels the token; the second one ends the process, whose children end with it.
pub(crate) fn stop_on_signal() -> io::Result<CancellationToken> {
    let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    let token = CancellationToken::new();
    let signalled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        signalled.cancel();
        next().await;
        std::process::exit(130);
    });
    Ok(token)
}
