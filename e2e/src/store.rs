//! An S3 server that checks signatures, with files in its bucket `models`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::python;

/// A running server. Dropping it ends the server.
pub struct Store {
    child: Child,
    told: Value,
    _folder: TempDir,
}

impl Store {
    /// Starts it with these objects: key and content.
    pub fn start(objects: &[(&str, Vec<u8>)]) -> Self {
        let folder = TempDir::with_prefix("pilotlight-s3-").expect("a temporary folder");
        for (key, content) in objects {
            let path = folder.path().join(key);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder is ours");
            fs::write(path, content).expect("the folder is ours");
        }
        let mut child = python::command("s3.py")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        stdout.read_line(&mut line).expect("the server writes text");
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("the S3 server said {line:?}: {error}"));
        Self {
            child,
            told,
            _folder: folder,
        }
    }

    /// The variables that lead to it, with credentials that it lets in.
    pub fn env(&self) -> Vec<(String, String)> {
        self.env_with(self.secret())
    }

    /// The same with another secret.
    pub fn env_with(&self, secret: &str) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.text("endpoint")),
            ("AWS_ACCESS_KEY_ID", self.text("key")),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("NO_PROXY", "127.0.0.1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The secret that it lets in.
    pub fn secret(&self) -> &str {
        self.text("secret")
    }

    /// The access key.
    pub fn key(&self) -> &str {
        self.text("key")
    }

    fn text(&self, name: &str) -> &str {
        self.told[name].as_str().expect("the server tells it")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packs one file into a tar.gz with the system's tools.
pub fn tar_gz(name: &str, content: &[u8]) -> Vec<u8> {
    let folder = TempDir::with_prefix("pilotlight-tar-").expect("a temporary folder");
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder is ours");
    fs::write(path, content).expect("the folder is ours");
    let packed = Command::new("tar")
        .arg("--create")
        .arg("--gzip")
        .arg("--directory")
        .arg(folder.path())
        .arg(name)
        .output();
    packed.expect("tar is there").stdout
}
