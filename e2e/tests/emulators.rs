//! Models in the stores of Google and Azure, as their emulators speak. `make clients` runs these: the emulators come with npm and Go.

#![cfg(feature = "clients")]

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use pilotlight_e2e::{LIMIT, Manifest, Settings, Up, client, places, python, until};
use serde_json::json;

/// A process that ends with the value.
struct Emulator {
    child: Child,
    address: SocketAddr,
}

impl Emulator {
    async fn start(program: &str, args: impl FnOnce(SocketAddr) -> Vec<String>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let child = Command::new(program)
            .args(args(address))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the emulator starts");
        let emulator = Self { child, address };
        until("the emulator listens", LIMIT, async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Azure's and Google's, in this order.
fn programs() -> [String; 2] {
    let output = Command::new(places::root().join("e2e/emulators.sh"))
        .output()
        .expect("the script is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.try_into().expect("it prints two paths")
}

fn texts<const N: usize>(all: [&str; N]) -> Vec<String> {
    all.map(str::to_owned).to_vec()
}

async fn is_served(uri: &str, env: Vec<(&str, String)>) {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value));
    let up = Up::start(Settings {
        manifests: vec![Manifest::new("iris", uri)],
        env: env.chain([("NO_PROXY".to_owned(), "127.0.0.1".to_owned())]).collect(),
        args: vec!["--cache-dir".to_owned(), cache.path().display().to_string()],
        ..Settings::default()
    })
    .await;
    up.deployed("iris").await;
    let reply = client::post(&up.predict_url("iris"), &client::flowers_v1()).await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "predictions": [1, 1] })),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_model_in_azures_store_is_served_from_zero() {
    let [azurite, _] = programs();
    let emulator = Emulator::start(&azurite, |address| {
        let port = address.port().to_string();
        let mut args = texts(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck"]);
        args.extend(texts(["--blobHost", "127.0.0.1", "--blobPort", &port]));
        args
    })
    .await;
    let endpoint = format!("http://{}", emulator.address);
    let model = fs::read(places::example("iris.onnx")).expect("the example is in the repository");
    let put = {
        let endpoint = endpoint.clone();
        move || python::script("azure.py", &[&*endpoint, "folder/iris.onnx"], &model)
    };
    tokio::task::spawn_blocking(put).await.expect("the script ran");
    let env = || {
        vec![
            ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
            ("AZURITE_BLOB_STORAGE_URL", endpoint.clone()),
        ]
    };
    is_served("az://models/folder/iris.onnx", env()).await;
    is_served("az://models/folder", env()).await;
}

#[tokio::test]
async fn a_model_in_googles_store_is_served_from_zero() {
    let [_, google] = programs();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("models/folder");
    fs::create_dir_all(&model).expect("the folder is ours");
    fs::copy(places::example("iris.onnx"), model.join("iris.onnx")).expect("a copy");
    let data = folder.path().display().to_string();
    let emulator = Emulator::start(&google, |address| {
        let port = address.port().to_string();
        let mut args = texts(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]);
        // The XML API, which the store is read by, is served to its own host only.
        args.extend(texts([
            "-port",
            &port,
            "-data",
            &data,
            "-public-host",
            &address.to_string(),
        ]));
        args
    })
    .await;
    let env = || {
        vec![
            ("STORAGE_EMULATOR_HOST", emulator.address.to_string()),
            ("GOOGLE_SKIP_SIGNATURE", "true".to_owned()),
        ]
    };
    is_served("gs://models/folder/iris.onnx", env()).await;
    is_served("gs://models/folder", env()).await;
}
