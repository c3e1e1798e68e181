//! More clients, unchanged, against a runtime alone and through the activator from a model that sleeps: KServe's, grpcurl, curl.
//! `make clients` runs these; their tools are large, so the other tests do without them.

#![cfg(feature = "clients")]

use std::{
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
};

use pilotlight_e2e::{LIMIT, Manifest, Up, client, places, python, until};
use serde_json::{Value, json};

/// A `pilotlight runtime` of its own; killed when it is dropped.
struct Runtime {
    child: std::process::Child,
    address: SocketAddr,
}

impl Runtime {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let model = format!("iris={}", places::example("iris.onnx").display());
        let child = Command::new(places::binary())
            .args(["runtime", "--model", &model, "--http-address", &address.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let runtime = Self { child, address };
        until("the runtime is ready", LIMIT, async || {
            client::try_get(&format!("http://{address}/v2/health/ready")).await == Some(200)
        })
        .await;
        runtime
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn sleeping() -> Up {
    Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await
}

/// The last line that a script of this repository prints: where a tool is.
fn tool(script: &str) -> String {
    let output = Command::new(places::root().join(script))
        .output()
        .expect("the script is there");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().expect("it prints a path").to_owned()
}

async fn output(program: String, args: Vec<String>) -> Output {
    let mut command = tokio::process::Command::new(program);
    command.args(args).kill_on_drop(true);
    tokio::time::timeout(LIMIT, command.output())
        .await
        .expect("it ends")
        .expect("it starts")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn kserve(address: SocketAddr) {
    let script = places::root()
        .join("e2e/python/kserve_clients.py")
        .display()
        .to_string();
    let args = vec![script, address.to_string(), "iris".to_owned()];
    assert_eq!(said(&output(tool("e2e/python/kserve.sh"), args).await), "ok\n");
}

#[tokio::test]
async fn kserves_clients_get_from_a_runtime_what_they_get_from_kserve() {
    kserve(Runtime::start().await.address).await;
}

#[tokio::test]
async fn kserves_clients_get_from_a_sleeping_model_what_they_get_from_kserve() {
    kserve(sleeping().await.http()).await;
}

#[tokio::test]
async fn tritons_clients_get_from_a_runtime_what_they_get_from_triton() {
    let runtime = Runtime::start().await;
    let address = runtime.address.to_string();
    let script = move || python::script("clients.py", &[&*address, "iris"], b"");
    let said = tokio::task::spawn_blocking(script).await.expect("the script ran");
    assert_eq!(String::from_utf8_lossy(&said), "ok\n");
}

/// The services that reflection shows, and an inference, by grpcurl without any proto file.
async fn grpcurl(address: SocketAddr, more: &[&str]) {
    let grpcurl = tool("e2e/grpcurl.sh");
    let ask = async |args: &[&str]| {
        let all = ["-plaintext"].iter().chain(more).chain(args);
        said(&output(grpcurl.clone(), all.map(|arg| (*arg).to_owned()).collect()).await)
    };
    let address = address.to_string();
    let services = ask(&[&address, "list"]).await;
    assert!(services.contains("inference.GRPCInferenceService"), "{services}");
    let request = json!({
        "model_name": "iris",
        "inputs": [{
            "name": "input", "datatype": "FP32", "shape": [1, 4],
            "contents": { "fp32_contents": [6.8, 2.8, 4.8, 1.4] },
        }],
    });
    let answer = ask(&[
        "-d",
        &request.to_string(),
        &address,
        "inference.GRPCInferenceService/ModelInfer",
    ])
    .await;
    let answer: Value = serde_json::from_str(&answer).expect("grpcurl prints JSON");
    assert_eq!(answer["model_name"], "iris", "{answer}");
}

#[tokio::test]
async fn grpcurl_finds_its_way_by_reflection_in_a_runtime() {
    grpcurl(Runtime::start().await.address, &[]).await;
}

#[tokio::test]
async fn grpcurl_finds_its_way_by_reflection_to_a_sleeping_model() {
    grpcurl(sleeping().await.http(), &["-authority", "iris.default.example.com"]).await;
}

async fn curl(address: SocketAddr) {
    let url = format!("http://{address}/v1/models/iris:predict");
    let data = r#"{"instances": [[6.8, 2.8, 4.8, 1.4]]}"#;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let args = ["--silent", "--fail", version, "--data", data, &url];
        let answer = said(&output("curl".to_owned(), args.map(str::to_owned).to_vec()).await);
        assert_eq!(answer.trim_end(), r#"{"predictions":[1]}"#, "{version}");
    }
}

#[tokio::test]
async fn curl_speaks_both_versions_of_http_with_a_runtime() {
    curl(Runtime::start().await.address).await;
}

#[tokio::test]
async fn curl_speaks_both_versions_of_http_with_a_sleeping_model() {
    curl(sleeping().await.http()).await;
}
