//! One child from its start to its end.

use std::{os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{io::BufReader, process::Child};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    gpus::Cards,
    logs::{self, LogRing},
    process::{self, Listener},
};
use crate::platform::{Exit, ExitCause, Replica, Workload};

/// How long a log may stay open after its process ended: somebody else may hold the pipe.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts the child, keeps its log, ends it when `end` is cancelled, and reports its end in any case.
pub(super) async fn supervise(
    inner: Arc<Inner>,
    workload: Workload,
    replica: Replica,
    (listener, cards): (Listener, Option<Cards>),
    logs: Arc<LogRing>,
    end: CancellationToken,
) {
    let cause = run(&inner, &workload, &replica, (listener, cards.as_ref()), &logs, &end).await;
    let exit = Exit {
        endpoint: replica.endpoint.id,
        revision: replica.revision,
        cause,
    };
    tracing::debug!(replica = %exit.endpoint, cause = ?exit.cause, "runtime ended");
    // Its GPUs are free before anybody hears of its end and starts another.
    drop(cards);
    inner.ended(&workload.id, exit);
}

async fn run(
    inner: &Arc<Inner>,
    workload: &Workload,
    replica: &Replica,
    (listener, cards): (Listener, Option<&Cards>),
    logs: &Arc<LogRing>,
    end: &CancellationToken,
) -> ExitCause {
    let mut child = match start(inner, workload, listener, cards, end).await {
        Ok(Some(child)) => child,
        Ok(None) => return ExitCause::Ended,
        Err(cause) => return cause,
    };
    let words = tokio::spawn(last_words(
        child.stderr.take(),
        logs.clone(),
        replica.clone(),
        inner.config.log_line_bytes,
    ));
    let (status, ended) = tokio::select! {
        status = child.wait() => (status, false),
        () = end.cancelled() => (terminate(inner, &mut child).await, true),
    };
    let words = tokio::time::timeout(LAST_WORDS, words)
        .await
        .ok()
        .and_then(Result::ok)
        .flatten();
    match status {
        _ if ended => ExitCause::Ended,
        Ok(status) => ExitCause::Died {
            message: describe(status, words.as_deref(), &workload.runtime.path),
            by_signal: status.signal().is_some(),
        },
        Err(error) => ExitCause::Died {
            message: format!("its end could not be read: {error}"),
            by_signal: false,
        },
    }
}

/// Waits for a turn and spawns off the async threads. `None` where it was told to end before it began.
async fn start(
    inner: &Arc<Inner>,
    workload: &Workload,
    listener: Listener,
    cards: Option<&Cards>,
    end: &CancellationToken,
) -> Result<Option<Child>, ExitCause> {
    // The semaphore is never closed.
    let turn = inner.spawns.acquire().await;
    if end.is_cancelled() {
        return Ok(None);
    }
    let (held, spec) = (inner.clone(), workload.runtime.clone());
    let visible = cards.map(Cards::visible);
    let spawned =
        tokio::task::spawn_blocking(move || process::spawn(&held.config, &spec, visible, listener, &held.lifeline))
            .await;
    drop(turn);
    match spawned {
        Ok(Ok(child)) => Ok(Some(child)),
        Ok(Err(error)) => {
            let (reason, message) = process::refusal("starting a runtime process", &error);
            Err(ExitCause::Refused { reason, message })
        }
        // The runtime is shutting down.
        Err(_) => Ok(None),
    }
}

async fn last_words(
    pipe: Option<tokio::process::ChildStderr>,
    logs: Arc<LogRing>,
    replica: Replica,
    most_line: usize,
) -> Option<String> {
    logs::copy(BufReader::new(pipe?), &logs, &replica.endpoint.id, most_line).await
}

/// SIGTERM, then after the limit SIGKILL.
async fn terminate(inner: &Inner, child: &mut Child) -> std::io::Result<ExitStatus> {
    // The id is there only while the child isn't reaped, and only then does the number still mean this child.
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        // It may have ended by itself just now; the wait below tells.
        let _ = kill_process(pid, Signal::TERM);
    }
    tokio::select! {
        status = child.wait() => return status,
        () = tokio::time::sleep(inner.config.term_limit) => {}
        () = inner.kill.cancelled() => {}
    }
    child.start_kill()?;
    child.wait().await
}

/// The end in words for clients too: the model's path is cut to its name.
fn describe(status: ExitStatus, words: Option<&str>, model: &Path) -> String {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let path = model.to_string_lossy();
    // One that was killed from outside had no last words: its last line is about something else.
    let killed = [Signal::KILL, Signal::TERM].map(|signal| Some(signal.as_raw()));
    let words = words.filter(|_| !killed.contains(&status.signal()));
    match words.map(|words| words.replace(&*path, &name)) {
        Some(words) if status.code().is_some() => words,
        Some(words) => format!("the runtime ended by {status}; its last line: {words}"),
        None => format!("the runtime ended by {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_its_error_its_last_line_or_its_signal() {
        let model = Path::new("/secret/place/m.onnx");
        let told = |status, words| describe(ExitStatus::from_raw(status), words, model);
        assert_eq!(
            told(3 << 8, Some("/secret/place/m.onnx: no operator Foo")),
            "m.onnx: no operator Foo"
        );
        assert_eq!(told(3 << 8, None), "the runtime ended by exit status: 3");
        assert_eq!(told(9, Some("model ready")), "the runtime ended by signal: 9 (SIGKILL)");
        let aborted = told(6, Some("memory allocation failed"));
        assert!(
            aborted.ends_with("SIGABRT); its last line: memory allocation failed"),
            "{aborted}"
        );
    }
}
