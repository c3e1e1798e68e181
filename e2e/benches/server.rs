//! The server beside the bare executor: rows in a second as a share of what the executor alone does at its best batch, and the
//! latency at 70 % of that rate. Beside it MLServer and mosec, serving the same file through onnxruntime on as many threads, with
//! batching up to the same size; a path without them (`e2e/python/peers.sh` failed) says so.
//!
//! `bench-server MODEL.onnx ROW [THREADS] [SECONDS]`: the model has one input of FP32, whose row has the shape ROW, such as
//! `3,224,224`. A round takes SECONDS, which has to hold several batches. Without arguments: the digits of the examples, 3 seconds.
//! One row a request: V2 in binary, in JSON and by gRPC. MLServer is asked in JSON, which is what it takes by HTTP. Those that are
//! compared are asked in turn, a round each, so that what the machine does meanwhile hits both alike. The load generator shares
//! the processors with what it measures; of the bare executor it asks nothing, so the share counts the generator's cost as the
//! server's. `client_share_of_bare` bounds what any server could reach: the generator, with binary bodies, against a server
//! that does nothing.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use pilotlight_e2e::{
    bench::{Request, Round, ask, ask_at, figure, grpc, median, percentile, run, run_at},
    places,
};
use pilotlight_runtime::{Data, LoadOptions, Tensor, model::load_onnx};

const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const ROUNDS: usize = 3;
const LOAD: f64 = 0.7;
/// More than wait at a time at 70 % load.
const CONNECTIONS: usize = 128;
/// How long a server may take until it answers.
const START: Duration = Duration::from_mins(1);
/// How long the others wait for a batch to fill; we start at once whatever waits.
const WAIT: Duration = Duration::from_millis(1);

struct Settings {
    model: PathBuf,
    row: Vec<usize>,
    threads: usize,
    round: Duration,
}

fn settings() -> Settings {
    let mut arguments = std::env::args().skip(1);
    let model = arguments
        .next()
        .map_or_else(|| places::example("digits.onnx"), PathBuf::from)
        // Servers run in folders of their own.
        .canonicalize()
        .expect("the model is there");
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
        round: Duration::from_secs(
            arguments
                .next()
                .map_or(3, |seconds| seconds.parse().expect("SECONDS is a number")),
        ),
    }
}

#[tokio::main]
async fn main() {
    let settings = settings();
    println!(
        "settings: model {}, row {:?} of FP32, one a request, {} threads for the model, {ROUNDS} rounds of {:?}",
        settings.model.display(),
        settings.row,
        settings.threads,
        settings.round
    );
    let (best, bare) = bare(&settings);
    println!(
        "settings: batches up to {best} rows everywhere; pilotlight --max-latency-ms 0; MLServer parallel_workers 0, max_batch_time {WAIT:?}; mosec \
         max_wait_time {WAIT:?}; {} connections for throughput, {LOAD} of it as load",
        connections(best)
    );
    let asked = Asked::of(&settings);
    let nothing = nothing().await;
    let rate = run(nothing, &asked.binary, connections(best), settings.round)
        .await
        .rate;
    figure("client_share_of_bare", rate / bare);

    let ours = pilotlight(&settings, best);
    ready("pilotlight", ours.address, &asked.binary).await;
    let sides = vec![
        Side::new("pilotlight_binary", ours.address, Form::Http(asked.binary.clone())),
        Side::new("pilotlight_json", ours.address, Form::Http(asked.json.clone())),
        Side::new("pilotlight_grpc", ours.address, Form::Grpc),
    ];
    measure(sides, &settings, &asked, best, bare).await;
    let Some(python) = peers() else {
        println!("MLServer, mosec: e2e/python/peers.sh could not install them, left out");
        return;
    };
    // One at a time, so that nothing but the two that are compared is there.
    for (name, start, request, beside, same) in [
        (
            "mlserver_json",
            mlserver as fn(&Path, &Settings, usize) -> Option<Running>,
            &asked.json,
            "pilotlight_json_beside_mlserver",
            &asked.json,
        ),
        (
            "mosec_raw",
            mosec,
            &asked.raw,
            "pilotlight_binary_beside_mosec",
            &asked.binary,
        ),
    ] {
        let Some(server) = start(&python, &settings, best) else {
            println!("{name}: did not start, left out");
            continue;
        };
        ready(name, server.address, request).await;
        let sides = vec![
            Side::new(beside, ours.address, Form::Http(same.clone())),
            Side::new(name, server.address, Form::Http(request.clone())),
        ];
        measure(sides, &settings, &asked, best, bare).await;
    }
}

/// Asks the sides in turn, a round each, first as fast as they answer, then at a share of that, and prints what came of it.
async fn measure(mut sides: Vec<Side>, settings: &Settings, asked: &Asked, best: usize, bare: f64) {
    for round in 0..=ROUNDS {
        for side in &mut sides {
            let rate = side.run(asked, connections(best), settings.round).await.rate;
            // The first one warms it up.
            if round > 0 {
                side.rates.push(rate);
            }
        }
    }
    for _ in 0..ROUNDS {
        for side in &mut sides {
            let rate = LOAD * median(&mut side.rates);
            side.latencies
                .extend(side.run_at(asked, rate, settings.round).await.latencies);
        }
    }
    for side in &mut sides {
        side.tell(bare);
    }
}

/// How a server is asked.
enum Form {
    Http(Request),
    Grpc,
}

/// A server in one of its protocols, and what was measured of it.
struct Side {
    name: &'static str,
    address: SocketAddr,
    form: Form,
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

impl Side {
    fn new(name: &'static str, address: SocketAddr, form: Form) -> Self {
        Self {
            name,
            address,
            form,
            rates: Vec::new(),
            latencies: Vec::new(),
        }
    }

    async fn run(&self, asked: &Asked, connections: usize, length: Duration) -> Round {
        match &self.form {
            Form::Http(request) => run(self.address, request, connections, length).await,
            Form::Grpc => ask(asked.calls(self.address, connections).await, length).await,
        }
    }

    async fn run_at(&self, asked: &Asked, rate: f64, length: Duration) -> Round {
        match &self.form {
            Form::Http(request) => run_at(self.address, request, rate, CONNECTIONS, length).await,
            Form::Grpc => ask_at(asked.calls(self.address, CONNECTIONS).await, rate, length).await,
        }
    }

    fn tell(&mut self, bare: f64) {
        let name = self.name;
        let rate = median(&mut self.rates);
        figure(&format!("{name}_rows_per_second"), rate);
        figure(&format!("{name}_share_of_bare"), rate / bare);
        for (p, label) in [(0.5, "p50"), (0.99, "p99")] {
            let milliseconds = percentile(&mut self.latencies, p) * 1000.0;
            figure(&format!("{name}_{label}_ms_at_load"), milliseconds);
        }
    }
}

fn connections(best: usize) -> usize {
    // Enough that the next batch is there when one is done.
    4 * best
}

/// The same row in the forms that the servers take.
struct Asked {
    input: String,
    shape: Vec<usize>,
    tensor: Vec<u8>,
    binary: Request,
    json: Request,
    raw: Request,
}

impl Asked {
    async fn calls(&self, address: SocketAddr, count: usize) -> Vec<grpc::Calls> {
        grpc::clients(address, &self.input, &self.shape, &self.tensor, count).await
    }

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
            input,
            shape,
            tensor,
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
        while start.elapsed() < settings.round / 2 || times.len() < 3 {
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
async fn ready(name: &str, address: SocketAddr, request: &Request) {
    let hook = std::panic::take_hook();
    // What it answers before is told by a panic of the generator, which is of no interest here, unless it is the last.
    std::panic::set_hook(Box::new(|_| {}));
    let start = Instant::now();
    loop {
        let request = request.clone();
        let asked = tokio::spawn(async move { run(address, &request, 1, Duration::from_millis(1)).await });
        match asked.await {
            Ok(_) => break,
            Err(panic) if start.elapsed() > START => {
                std::panic::set_hook(hook);
                panic!("{name} does not answer: {panic}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    std::panic::set_hook(hook);
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

/// A port that is free, as are the two behind it, which MLServer takes. Not one of those that connections are given: among the
/// thousands that the generator opens, one could have it before the server does.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    loop {
        let port = NEXT.fetch_add(3, Ordering::Relaxed);
        let listeners: Vec<_> = (port..port + 3)
            .map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        if listeners.len() == 3 {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

fn start(command: &mut Command, address: SocketAddr) -> Option<Running> {
    let log = std::env::temp_dir().join(format!("bench-server-{}.log", address.port()));
    let log = std::fs::File::create(log).expect("the folder of temporary files is writable");
    let same = log.try_clone().expect("a file has more than one handle");
    let child = command
        .stdin(Stdio::null())
        .stdout(same)
        .stderr(log)
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
