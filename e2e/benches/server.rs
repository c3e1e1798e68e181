//! The server beside the bare executor: rows in a second as a share of what the executor alone does at its best batch, and the
//! latency at 70 % of that rate. Beside it mosec, serving the same file through onnxruntime, where `e2e/.venv` has it.
//!
//! `bench-server MODEL.onnx ROW [THREADS]`: the model has one input of FP32, whose row has the shape ROW, such as `3,224,224`.
//! Without arguments: the digits of the examples. One row a request, in binary. The load generator shares the processors with what it
//! measures; of the bare executor it asks nothing, so the share counts the generator's cost as the server's.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pilotlight_e2e::{
    bench::{Request, figure, median, percentile, run, run_at},
    places,
};
use pilotlight_runtime::{Data, Tensor, model::load_onnx};

const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const ROUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
const LOAD: f64 = 0.7;
/// More than wait at a time at 70 % load.
const CONNECTIONS: usize = 256;

struct Settings {
    model: PathBuf,
    row: Vec<usize>,
    threads: usize,
}

fn settings() -> Settings {
    let mut arguments = std::env::args().skip(1);
    let model = arguments
        .next()
        .map_or_else(|| places::example("digits.onnx"), PathBuf::from);
    let row = arguments.next().unwrap_or_else(|| "64".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Settings {
        model,
        row: row
            .split(',')
            .map(|size| size.parse().expect("ROW is sizes with commas"))
            .collect(),
        threads: arguments
            .next()
            .map_or(cores, |threads| threads.parse().expect("THREADS is a number")),
    }
}

#[tokio::main]
async fn main() {
    let settings = settings();
    println!(
        "settings: model {}, row {:?} of FP32 in binary, {} threads, {ROUNDS} rounds of {ROUND:?}",
        settings.model.display(),
        settings.row,
        settings.threads
    );
    let (best, bare) = bare(&settings);
    println!(
        "settings: batches up to {best} rows, {} connections for throughput, {LOAD} of it as load",
        4 * best
    );
    let row: usize = settings.row.iter().product();
    let tensor: Vec<u8> = (0..row).flat_map(|i| ((i % 17) as f32 / 17.0).to_le_bytes()).collect();
    let (input, shape) = input(&settings);
    let json = format!(
        r#"{{"inputs":[{{"name":"{input}","shape":{shape:?},"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        tensor.len()
    );
    let length = json.len().to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", &*length),
    ];
    let infer = Request::bytes(
        "bench",
        "/v2/models/m/infer",
        &headers,
        &[json.as_bytes(), &tensor].concat(),
    );
    let server = pilotlight(&settings, best);
    measure("pilotlight", server.address, &infer, best, bare).await;
    drop(server);
    if let Some(server) = mosec(&settings, best) {
        let infer = Request::bytes("bench", "/inference", &[], &tensor);
        measure("mosec", server.address, &infer, best, bare).await;
    }
}

/// The executor alone: its best batch and the rows in a second at that.
fn bare(settings: &Settings) -> (usize, f64) {
    let options = pilotlight_runtime::LoadOptions {
        threads: Some(settings.threads),
        ..pilotlight_runtime::LoadOptions::default()
    };
    let model = load_onnx(&settings.model, &options).expect("the model loads");
    let mut best = (1, 0.0);
    for batch in BATCHES {
        let shape: Vec<usize> = std::iter::once(batch).chain(settings.row.iter().copied()).collect();
        let tensor = Tensor::new(shape.clone(), Data::F32(vec![0.5; shape.iter().product()])).expect("a full tensor");
        let run = || model.run(vec![tensor.clone()]).expect("the model runs");
        run();
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < ROUND / 2 || times.len() < 3 {
            let start = Instant::now();
            run();
            times.push(start.elapsed().as_secs_f64());
        }
        let rate = batch as f64 / median(&mut times);
        figure(&format!("bare_rows_per_second_at_{batch}"), rate);
        // A larger batch has to be worth its latency.
        if rate > best.1 * 1.03 {
            best = (batch, rate);
        }
    }
    best
}

/// The input's name and the shape of one row.
fn input(settings: &Settings) -> (String, Vec<usize>) {
    let model = load_onnx(&settings.model, &pilotlight_runtime::LoadOptions::default()).expect("the model loads");
    let shape = std::iter::once(1).chain(settings.row.iter().copied()).collect();
    (model.signature().inputs[0].name.clone(), shape)
}

async fn measure(name: &str, address: SocketAddr, request: &Request, best: usize, bare: f64) {
    run(address, request, 4 * best, ROUND / 4).await;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(run(address, request, 4 * best, ROUND).await.rate);
    }
    let rate = median(&mut rates);
    figure(&format!("{name}_rows_per_second"), rate);
    figure(&format!("{name}_share_of_bare"), rate / bare);
    let mut latencies = Vec::new();
    for _ in 0..ROUNDS {
        latencies.extend(
            run_at(address, request, LOAD * rate, CONNECTIONS, ROUND)
                .await
                .latencies,
        );
    }
    for (p, label) in [(0.5, "p50"), (0.99, "p99")] {
        figure(
            &format!("{name}_{label}_ms_at_load"),
            percentile(&mut latencies, p) * 1000.0,
        );
    }
}

/// A server process that ends with the value.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound listener has an address")
}

fn start(command: &mut Command, address: SocketAddr) -> Option<Running> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut running = Running { child, address };
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() {
            return Some(running);
        }
        if running.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

fn pilotlight(settings: &Settings, best: usize) -> Running {
    let address = free();
    let mut command = Command::new(places::binary());
    command.arg("runtime").arg("--model").arg(named(&settings.model));
    command.args(["--http-address", &address.to_string()]);
    command.args([
        "--max-batch-size",
        &best.to_string(),
        "--threads",
        &settings.threads.to_string(),
    ]);
    command.args(["--request-timeout-ms", "60000"]);
    let running = start(&mut command, address).expect("the runtime starts");
    // It listens before its model is loaded.
    std::thread::sleep(Duration::from_secs(2));
    running
}

fn named(model: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("m=");
    argument.push(model);
    argument
}

fn mosec(settings: &Settings, best: usize) -> Option<Running> {
    let python = places::root().join("e2e/.venv/bin/python");
    let has = Command::new(&python)
        .args(["-c", "import mosec, onnxruntime"])
        .stderr(Stdio::null())
        .status();
    if !has.is_ok_and(|status| status.success()) {
        println!("mosec: not in e2e/.venv, left out");
        return None;
    }
    let address = free();
    let row: Vec<String> = settings.row.iter().map(ToString::to_string).collect();
    let mut command = Command::new(python);
    command.arg(places::root().join("e2e/python/mosec_server.py"));
    command.args([
        "--port",
        &address.port().to_string(),
        "--address",
        "127.0.0.1",
        "--timeout",
        "60000",
    ]);
    command.env("MODEL", &settings.model).env("ROW", row.join(","));
    command.env("THREADS", settings.threads.to_string());
    command.env("BATCH", best.to_string()).env("WAIT_MS", "1");
    let running = start(&mut command, address);
    if running.is_none() {
        println!("mosec: did not start, left out");
    }
    // It listens before its worker is there.
    std::thread::sleep(Duration::from_secs(5));
    running
}
