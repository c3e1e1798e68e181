//! `up` behind TLS and tokens, as `curl` and the command line see it.

use std::{fs, path::Path, process::Output};

use pilotlight_e2e::{LIMIT, Manifest, Settings, Up, places, python};

/// A self-signed certificate for localhost and its key.
fn certificate(folder: &Path) -> [String; 2] {
    let files = ["server.pem", "server.key"].map(|name| folder.join(name).display().to_string());
    python::script("certificate.py", &files, b"");
    files
}

async fn curl(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new("curl");
    command
        .args(["--silent", "--max-time", "30"])
        .args(args)
        .kill_on_drop(true);
    tokio::time::timeout(LIMIT, command.output())
        .await
        .expect("curl ends")
        .expect("curl is there")
}

/// `up` with TLS and one token; the folder has the files.
async fn secured(folder: &Path) -> (Up, [String; 2]) {
    let [certificate, key] = certificate(folder);
    let tokens = folder.join("tokens");
    fs::write(&tokens, "a-token-of-the-test\n").expect("the folder is ours");
    let tokens = tokens.display().to_string();
    let args = ["--tls-cert", &certificate, "--tls-key", &key, "--token-file", &tokens];
    let up = Up::start(Settings {
        manifests: vec![Manifest::new("iris", places::example("iris.onnx"))],
        args: args.map(str::to_owned).to_vec(),
        ..Settings::default()
    })
    .await;
    (up, [certificate, tokens])
}

#[tokio::test]
async fn predict_speaks_tls_and_shows_its_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (up, [certificate, tokens]) = secured(folder.path()).await;
    let ask = ["predict", "iris", "--data", r#"{"instances": [[6.8, 2.8, 4.8, 1.4]]}"#];
    let known = ["--ca", &certificate, "--token-file", &tokens];
    let answer = up.cli(&[&ask[..], &known].concat()).await;
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout).trim_end(),
        r#"{"predictions":[1]}"#,
        "{answer:?}"
    );
    let stranger = up.cli(&[&ask[..], &known[..2]].concat()).await;
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(!stranger.status.success() && said.contains("unauthenticated"), "{said}");
    let unknown = up.cli(&[&ask[..], &known[2..]].concat()).await;
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn curl_gets_in_with_the_certificate_and_a_token_and_not_without() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (up, [certificate, _]) = secured(folder.path()).await;
    let url = format!("https://{}/v1/models/iris:predict", up.http());
    let ask = [
        "--cacert",
        &certificate,
        "--data",
        r#"{"instances": [[6.8, 2.8, 4.8, 1.4]]}"#,
        &url,
    ];
    let token = ["--header", "Authorization: Bearer a-token-of-the-test"];
    for version in ["--http1.1", "--http2"] {
        let answer = curl(&[&[version][..], &token, &ask].concat()).await;
        assert_eq!(
            String::from_utf8_lossy(&answer.stdout).trim_end(),
            r#"{"predictions":[1]}"#,
            "{version}: {answer:?}"
        );
    }
    let status = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %header{www-authenticate}",
    ];
    let answer = curl(&[&status[..], &ask].concat()).await;
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "401 Bearer realm=\"pilotlight\""
    );
    // Another authority than the certificate's.
    assert!(!curl(&[&token[..], &ask[2..]].concat()).await.status.success());
}
