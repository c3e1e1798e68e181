//! The check of a model at deployment: a short-lived child loads it and runs it once, bounded in time and memory, so that a
//! broken one is reported then and not at the first request, and can't take anything else down.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Semaphore,
    time::Instant,
};

use crate::{
    config::{CheckConfig, LocalConfig},
    error::Error,
    local::{LIFELINE_FD, Lifeline, command, map},
};

/// Output of a check that is read; it prints one line.
const MOST_OUTPUT: u64 = 1 << 20;

/// How long loading and running the model took, or what is wrong with it.
pub type Verdict = Result<Duration, String>;

/// Says whether a model can be served.
pub trait Check: Send + Sync + 'static {
    /// Checks the file, whose content has this digest. Dropping the future gives the check up.
    fn check(&self, path: &Path, digest: &str) -> BoxFuture<'static, Verdict>;
}

/// Checks models in child processes. Waits for its turn; content that was checked before is answered from memory.
#[derive(Clone)]
pub struct Checker {
    inner: Arc<Inner>,
}

struct Inner {
    config: CheckConfig,
    local: LocalConfig,
    lifeline: Lifeline,
    turns: Semaphore,
    known: Mutex<VecDeque<(String, Verdict)>>,
}

/// The line that a check prints.
#[derive(Debug, Deserialize)]
struct Outcome {
    ok: bool,
    error: Option<String>,
}

impl Checker {
    /// Checks with the executable and environment of the local platform.
    pub fn new(config: CheckConfig, local: LocalConfig) -> Result<Self, Error> {
        let turns = Semaphore::new(config.concurrency.max(1));
        let lifeline = Lifeline::new()?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                local,
                lifeline,
                turns,
                known: Mutex::default(),
            }),
        })
    }

    async fn verdict(&self, path: &Path, digest: &str) -> Verdict {
        if let Some(known) = self.known(digest) {
            return known;
        }
        // The semaphore is never closed.
        let _turn = self.inner.turns.acquire().await;
        if let Some(known) = self.known(digest) {
            return known;
        }
        let started = Instant::now();
        let result = tokio::time::timeout(self.inner.config.timeout, self.run(path)).await;
        let (verdict, keep) = match result {
            Ok(Ok(Ok(()))) => (Ok(started.elapsed()), true),
            Ok(Ok(Err(found))) => (Err(found), true),
            // These may pass by themselves: the machine was busy or full.
            Ok(Err(failed)) => (Err(failed), false),
            Err(_) => (
                Err(format!(
                    "loading took longer than {} s",
                    self.inner.config.timeout.as_secs()
                )),
                false,
            ),
        };
        if keep {
            self.keep(digest, verdict.clone());
        }
        verdict
    }

    fn known(&self, digest: &str) -> Option<Verdict> {
        self.inner
            .known
            .lock()
            .iter()
            .find(|(known, _)| known == digest)
            .map(|(_, verdict)| verdict.clone())
    }

    fn keep(&self, digest: &str, verdict: Verdict) {
        let mut known = self.inner.known.lock();
        known.push_back((digest.to_owned(), verdict));
        while known.len() > self.inner.config.cached {
            known.pop_front();
        }
    }

    /// What the child found; the outer error is one of running it.
    async fn run(&self, path: &Path) -> Result<Result<(), String>, String> {
        let mut child = self.spawn(path.to_owned()).await?;
        limit_memory(child.id(), self.inner.config.memory_bytes);
        let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
        let (stdout, stderr) = tokio::join!(stdout, stderr);
        let status = child
            .wait()
            .await
            .map_err(|error| format!("waiting for the check: {error}"))?;
        let line = stdout
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Outcome>(line).ok());
        match line {
            Some(Outcome { ok: true, .. }) => Ok(Ok(())),
            Some(Outcome { error, .. }) => Ok(Err(error.unwrap_or_else(|| "the model can't be loaded".to_owned()))),
            None => Ok(Err(without_line(status, &stderr))),
        }
    }

    async fn spawn(&self, path: PathBuf) -> Result<tokio::process::Child, String> {
        let inner = self.inner.clone();
        let spawned = tokio::task::spawn_blocking(move || {
            let mut command = command(&inner.local);
            command.arg("runtime").arg("--check").arg(&path).stdout(Stdio::piped());
            // Whether it can be loaded shows on the CPU too, and GPUs belong to replicas.
            command.args(["--device", "cpu"]);
            let lifeline = inner.lifeline.reader()?;
            command.arg("--lifeline-fd").arg(LIFELINE_FD.to_string());
            map(&mut command, vec![(lifeline, LIFELINE_FD)])?;
            tokio::process::Command::from(command).kill_on_drop(true).spawn()
        });
        let program = || self.inner.local.executable.display();
        match spawned.await {
            Ok(Ok(child)) => Ok(child),
            Ok(Err(error)) => Err(format!("starting {}: {error}", program())),
            Err(_) => Err(format!("starting {} was cut off", program())),
        }
    }
}

impl Check for Checker {
    fn check(&self, path: &Path, digest: &str) -> BoxFuture<'static, Verdict> {
        let (checker, path, digest) = (self.clone(), path.to_owned(), digest.to_owned());
        async move { checker.verdict(&path, &digest).await }.boxed()
    }
}

/// Caps the child's address space. One that already ended needs none, so the outcome doesn't matter.
fn limit_memory(pid: Option<u32>, bytes: u64) {
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if pid.is_some() {
        let _ = prlimit(
            pid,
            Resource::As,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        );
    }
}

/// All that comes, up to a bound.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // A pipe that breaks ends the text; the status tells the rest.
        let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The check died before it could say what it found.
fn without_line(status: std::process::ExitStatus, stderr: &str) -> String {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    let error = last.map(|line| line.strip_prefix("error: ").unwrap_or(line).trim());
    match error {
        Some(error) => format!("the check ended with {status}: {error}"),
        None => format!("the check ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker(change: impl FnOnce(&mut CheckConfig)) -> Checker {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fake-runtime.sh");
        let mut config = CheckConfig::default();
        change(&mut config);
        Checker::new(config, LocalConfig::with_executable(script)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn content_that_was_checked_is_not_checked_again() {
        let directory = tempfile::tempdir().unwrap();
        let (checker, path) = (checker(|_| {}), directory.path().join("m.onnx"));
        for _ in 0..3 {
            assert!(checker.check(&path, "digest").await.is_ok());
        }
        let counted = || {
            std::fs::read_to_string(directory.path().join("m.onnx.checks"))
                .unwrap()
                .lines()
                .count()
        };
        assert_eq!(counted(), 1);
        assert!(checker.check(&path, "other").await.is_ok());
        assert_eq!(counted(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_broken_model_is_named() {
        let verdict = checker(|_| {}).check(Path::new("/m/bad.onnx"), "d").await;
        assert_eq!(verdict, Err("operator Foo is not supported".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_check_that_dies_is_a_broken_model() {
        let error = checker(|_| {})
            .check(Path::new("/m/crash.onnx"), "d")
            .await
            .unwrap_err();
        assert!(
            error.contains("signal: 9") && error.ends_with("out of memory"),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_check_that_hangs_ends_with_its_time() {
        let checker = checker(|config| config.timeout = Duration::from_millis(200));
        let error = checker.check(Path::new("/m/hang.onnx"), "d").await.unwrap_err();
        assert_eq!(error, "loading took longer than 0 s");
        assert_eq!(checker.known("d"), None, "it may pass by itself");
    }
}
