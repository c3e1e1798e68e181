//! `kubectl` as a user runs it.

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Duration, Instant, sleep},
};

/// How long an API server may be away.
const AWAY: Duration = Duration::from_mins(1);

/// What kubectl says where the API server took nothing of the request.
const IS_AWAY: [&str; 5] = [
    "connection refused",
    "TLS handshake timeout",
    "the server is currently unable to handle the request",
    "apiserver not ready",
    "too many requests",
];

/// The command with a cluster's configuration.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    config: OsString,
}

impl Kubectl {
    pub(super) fn new(program: PathBuf, config: OsString) -> Self {
        Self { program, config }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs it with arguments, separated by spaces, and with standard input. The error is what it said.
    pub async fn run(&self, args: &str, input: &str) -> Result<String, String> {
        let mut child = tokio::process::Command::from(self.command(args))
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // What it does not read it does not need.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await;
        read(args, output.map_err(|error| error.to_string())?)
    }

    /// The same without a runtime.
    pub(super) fn now(&self, args: &str, input: &str) -> Result<String, String> {
        let mut child = self
            .command(args)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output();
        read(args, output.map_err(|error| error.to_string())?)
    }

    /// Runs it, again for as long as the API server is not there to be asked; panics, with what it said, where it fails.
    pub async fn must(&self, args: &str) -> String {
        let said = self.patiently(args, "").await;
        said.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Applies documents. Panics where they are refused.
    pub async fn apply(&self, documents: &str) {
        let said = self.patiently("apply -f -", documents).await;
        said.unwrap_or_else(|error| panic!("{error}\n{documents}"));
    }

    /// [`Self::run`], again while the API server is away or too busy.
    async fn patiently(&self, args: &str, input: &str) -> Result<String, String> {
        let start = Instant::now();
        loop {
            match self.run(args, input).await {
                Err(error) if is_away(&error) && start.elapsed() < AWAY => sleep(Duration::from_millis(500)).await,
                said => return said,
            }
        }
    }

    /// `get` with a JSONPath; empty where the object or the field is missing.
    pub async fn get(&self, what: &str, path: &str) -> String {
        let args = format!("get {what} --ignore-not-found -o jsonpath={path}");
        self.must(&args).await
    }

    /// `get` as JSON: the object, or a list of them.
    pub async fn json(&self, what: &str) -> Value {
        let text = self.must(&format!("get {what} -o json")).await;
        serde_json::from_str(&text).expect("kubectl writes JSON")
    }

    /// `kubectl proxy`: the API server without credentials on a port of loopback, until the process is dropped.
    pub fn proxy(&self, port: u16) -> tokio::process::Child {
        let mut command = tokio::process::Command::from(self.command(&format!("proxy --port={port}")));
        command.kill_on_drop(true).spawn().expect("kubectl starts")
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args.split_whitespace())
            .env("KUBECONFIG", &self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

fn is_away(error: &str) -> bool {
    IS_AWAY.iter().any(|said| error.contains(said))
}

fn read(args: &str, output: Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "kubectl {args}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}
