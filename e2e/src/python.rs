//! onnxruntime and magika, asked through the scripts in `e2e/python`.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::places;

/// onnxruntime's answer to a V2 request: `{"outputs": [{name, shape, data}]}`.
pub fn onnxruntime(model: &Path, request: &Value) -> Value {
    let answer = script("reference.py", &[model], request.to_string().as_bytes());
    serde_json::from_slice(&answer).expect("the script writes JSON")
}

/// A script of `e2e/python`, to be run in its environment. Panics where that is missing.
pub fn command(name: &str) -> Command {
    let folder = places::root().join("e2e");
    let python = folder.join(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run e2e/python/setup.sh",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(folder.join("python").join(name));
    command
}

/// Runs a script of `e2e/python` with arguments and standard input; returns its standard output. Panics, with what it said,
/// when it fails or when the environment is missing.
pub fn script(name: &str, args: &[impl AsRef<OsStr>], input: &[u8]) -> Vec<u8> {
    let mut child = command(name)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    // The scripts read all of their input before they write.
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input).expect("the script reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("the script ends");
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
