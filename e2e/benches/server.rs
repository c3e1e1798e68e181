//! The server beside the bare executor: rows in a second as a share of what the executor alone does at its best batch, and the
//! latency at 70 % of that rate. Beside it MLServer and mosec, serving the same file through onnxruntime on as many threads, with
//! batching up to the same size; a path without them (`e2e/python/peers.sh` failed) says so.
//!
//! `bench-server MODEL.onnx ROW [THREADS]`: the model has one input of FP32, whose row has the shape ROW, such as `3,224,224`.
//! Without arguments: the digits of the examples. One row a request: binary V2, and V2 in JSON, which is what MLServer takes by
//! HTTP. The load generator shares the processors with what it measures; of the bare executor it asks nothing, so the share counts
//! the generator's cost as the server's. `client_share_of_bare` bounds what any server could reach: the generator against a server
//! that does nothing.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pilotlight_e2e::{
    bench::{Request, figure, median, percentile, run, run_at},
    places,
};
use pilotlight_runtime::{Data, LoadOptions, Tensor, model::load_onnx};

const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const LOAD: f64 = 0.7;
/// More than wait at a time at 70 % load.
const CONNECTIONS: usize = 128;
/// How long the others wait for a batch to fill; we start at once whatever waits.
const WAIT: Duration = Duration::from_millis(1);

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
    let row = arguments.next().unwrap_or_else(|| "1,8,8".to_owned());
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
        "settings: model {}, row {:?} of FP32, one a request, {} threads for the model, {ROUNDS} rounds of {ROUND:?}",
        settings.model.display(),
        settings.row,
        settings.threads
    );
    let (best, bare) = bare(&settings);
    println!(
        "settings: batches up to {best} rows everywhere; pilotlight --max-latency-ms 0; MLServer parallel_workers 0, max_batch_time {WAIT:?}; mosec \
         max_wait_time {WAIT:?}; {} connections for throughput, {LOAD} of it as load",
        connections(best)
    );
    let requests = Requests::of(&settings);
    let nothing = nothing().await;
    let rate = run(nothing, &requests.binary, connections(best), ROUND).await.rate;
    figure("client_share_of_bare", rate / bare);

    let server = pilotlight(&settings, best);
    ready(server.address, &requests.binary).await;
    measure("pilotlight_binary", server.address, &requests.binary, best, bare).await;
    measure("pilotlight_json", server.address, &requests.json, best, bare).await;
    drop(server);
    let Some(python) = peers() else {
        println!("MLServer, mosec: e2e/python/peers.sh could not install them, left out");
        return;
    };
    match mlserver(&python, &settings, best) {
        Some(server) => {
            ready(server.address, &requests.json).await;
            measure("mlserver_json", server.address, &requests.json, best, bare).await;
        }
        None => println!("MLServer: did not start, left out"),
    }
    match mosec(&python, &settings, best) {
        Some(server) => {
            ready(server.address, &requests.raw).await;
            measure("mosec_raw", server.address, &requests.raw, best, bare).await;
        }
        None => println!("mosec: did not start, left out"),
    }
}

fn connections(best: usize) -> usize {
    // Enough that the next batch is there when one is done.
    4 * best
}

/// The same row in the forms that the servers take.
struct Requests {
    binary: Request,
    json: Request,
    raw: Request,
}

impl Requests {
    fn of(settings: &Settings) -> Self {
        let row: usize = settings.row.iter().product();
        let values: Vec<f32> = (0..row).map(|i| (i % 17) as f32 / 17.0).collect();
        let tensor: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (input, shape) = input(settings);
        let json = format!(
            r#"{{"inputs":[{{"name":"{input}","shape":{shape:?},"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
            tensor.len()
        );
        let length = json.len().to_string();
        let headers = [
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", &*length),
        ];
        let body = [json.as_bytes(), &tensor].concat();
        let whole =
            format!(r#"{{"inputs":[{{"name":"{input}","shape":{shape:?},"datatype":"FP32","data":{values:?}}}]}}"#);
        Self {
            binary: Request::bytes("bench", "/v2/models/m/infer", &headers, &body),
            json: Request::post("bench", "/v2/models/m/infer", &whole),
            raw: Request::bytes("bench", "/inference", &[], &tensor),
        }
    }
}

/// The executor alone: its best batch and the rows in a second at that.
fn bare(settings: &Settings) -> (usize, f64) {
    let options = LoadOptions {
        threads: Some(settings.threads),
        ..LoadOptions::default()
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
    let model = load_onnx(&settings.model, &LoadOptions::default()).expect("the model loads");
    let shape = std::iter::once(1).chain(settings.row.iter().copied()).collect();
    (model.signature().inputs[0].name.clone(), shape)
}

/// Resolves once the server answers that very request; until then it may listen and have nothing to answer with.
async fn ready(address: SocketAddr, request: &Request) {
    let ask = async || {
        let asked = tokio::spawn({
            let request = request.clone();
            async move { run(address, &request, 1, Duration::from_millis(1)).await }
        });
        asked.await.is_ok()
    };
    // What it answers before is told by a panic of the generator, which is of no interest here.
    std::panic::set_hook(Box::new(|_| {}));
    pilotlight_e2e::until("the server answers", Duration::from_mins(1), ask).await;
    let _ = std::panic::take_hook();
}

async fn measure(name: &str, address: SocketAddr, request: &Request, best: usize, bare: f64) {
    run(address, request, connections(best), ROUND / 3).await;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(run(address, request, connections(best), ROUND).await.rate);
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
        // Politely, since those of Python have processes of their own to end.
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..50 {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
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
        // mosec ends its whole group.
        .process_group(0)
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
    start(&mut command, address).expect("the runtime starts")
}

fn named(model: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("m=");
    argument.push(model);
    argument
}

/// The Python that has the others.
fn peers() -> Option<PathBuf> {
    let output = Command::new(places::root().join("e2e/python/peers.sh")).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().into())
}

fn mlserver(python: &Path, settings: &Settings, best: usize) -> Option<Running> {
    let address = free();
    let mut command = Command::new(python);
    command
        .arg(places::root().join("e2e/python/mlserver_onnx.py"))
        .arg(&settings.model)
        .arg(address.port().to_string())
        .arg(settings.threads.to_string())
        .arg(best.to_string())
        .arg(WAIT.as_secs_f64().to_string())
        // It leaves folders where it runs.
        .current_dir(std::env::temp_dir());
    start(&mut command, address)
}

fn mosec(python: &Path, settings: &Settings, best: usize) -> Option<Running> {
    let address = free();
    let row: Vec<String> = settings.row.iter().map(ToString::to_string).collect();
    let mut command = Command::new(python);
    command.arg(places::root().join("e2e/python/mosec_server.py"));
    command.args(["--port", &address.port().to_string(), "--address", "127.0.0.1"]);
    command.args(["--timeout", "60000", "--log-level", "error"]);
    command.env("MODEL", &settings.model).env("ROW", row.join(","));
    command.env("THREADS", settings.threads.to_string());
    command
        .env("BATCH", best.to_string())
        .env("WAIT_MS", WAIT.as_millis().to_string());
    start(&mut command, address)
}

/// A server that answers everything with two bytes: what the generator alone costs.
async fn nothing() -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
                // A request is whole when its length is there; the generator waits for the answer before the next.
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..read]);
                    if is_whole(&seen) {
                        seen.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    request.len() >= end + 4 + length
}
