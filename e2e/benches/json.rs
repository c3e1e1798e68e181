//! JSON of one picture, `[1, 3, 224, 224]` of FP32: what it costs to read a request and to write an answer of it, here, with
//! serde_json, sonic-rs and simd-json into plain vectors, and in Python as KServe's server does it (json, then numpy).
//!
//! Each reader gives the same numbers in a flat vector; ours gives the whole checked tensor. They take turns, so that what the
//! machine does meanwhile hits all alike. Milliseconds, median.
//!
//! Then the whole: a request with the picture to `pilotlight runtime` and to KServe's Python server, each with a model that gives the
//! picture's mean, over one connection that waits for each answer.

use std::{
    hint::black_box,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use pilotlight_e2e::{
    bench::{Request as Post, figure, median, run},
    client, places, until,
};
use pilotlight_runtime::{
    Data, DataType, Dim, Signature, Tensor, TensorInfo,
    protocol::{read_v1, read_v2, write_v1, write_v2},
};
use serde::Deserialize;

const ROUNDS: usize = 60;
const SHAPE: [usize; 4] = [1, 3, 224, 224];

/// A V2 request as a typed reader without any knowledge of the model sees it.
#[derive(Deserialize)]
struct Request {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    data: Vec<f32>,
}

#[derive(Deserialize)]
struct Instances {
    instances: Vec<Vec<Vec<Vec<f32>>>>,
}

/// One way to do the work, and the times it took.
struct Way<'w> {
    name: &'static str,
    run: Box<dyn Fn() + 'w>,
    times: Vec<f64>,
}

fn way<'w, T>(name: &'static str, run: impl Fn() -> T + 'w) -> Way<'w> {
    Way {
        name,
        run: Box::new(move || drop(black_box(run()))),
        times: Vec::with_capacity(ROUNDS),
    }
}

#[tokio::main]
async fn main() {
    let signature = signature();
    // As a picture is: bytes scaled to 0..1 in single precision, written the way Python writes a list of an array.
    let values: Vec<f32> = (0..SHAPE.iter().product::<usize>())
        .map(|i| (i * 2_654_435_761 % 256) as f32 / 255.0)
        .collect();
    let tensor = Tensor::new(SHAPE.to_vec(), Data::F32(values.clone())).expect("as many as the shape has");
    println!("settings: FP32 {SHAPE:?}, {ROUNDS} rounds");
    for (digits, number) in [
        ("short", (|x: f32| format!("{x}")) as fn(f32) -> String),
        ("long", |x: f32| f64::from(x).to_string()),
    ] {
        let flat: Vec<String> = values.iter().map(|&x| number(x)).collect();
        let v2 = format!(
            r#"{{"inputs":[{{"name":"x","shape":{SHAPE:?},"datatype":"FP32","data":[{}]}}]}}"#,
            flat.join(",")
        );
        let v1 = format!(r#"{{"instances":{}}}"#, nested(&flat, &SHAPE));
        println!("numbers are {digits}: V2 {} bytes, V1 {} bytes", v2.len(), v1.len());
        read("v2", digits, &v2, &signature);
        read("v1", digits, &v1, &signature);
        if digits == "long" {
            whole(&v1, &v2).await;
        }
    }
    write(&signature, &tensor, &values);
}

/// A server that ends with the value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(mut command: Command, address: SocketAddr) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self {
            child: command.spawn().ok()?,
            address,
        };
        until("the server is ready", Duration::from_mins(1), async || {
            client::try_get(&format!("http://{address}/v2/models/m/ready")).await == Some(200)
        })
        .await;
        Some(server)
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound listener has an address")
}

/// A request and its answer, here and with KServe's server.
async fn whole(v1: &str, v2: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("mean.onnx");
    pilotlight_e2e::python::script("mean.py", &[&*model.display().to_string()], b"");
    let address = free();
    let mut command = Command::new(places::binary());
    command
        .arg("runtime")
        .arg("--model")
        .arg(format!("m={}", model.display()));
    command.args(["--http-address", &address.to_string()]);
    let ours = Server::start(command, address).await.expect("the runtime starts");
    let theirs = kserve().await;
    if theirs.is_none() {
        println!("KServe's server: e2e/python/kserve.sh could not install it, left out");
    }
    let servers = [("pilotlight", Some(&ours)), ("kserve", theirs.as_ref())];
    for (protocol, path, body) in [("v1", "/v1/models/m:predict", v1), ("v2", "/v2/models/m/infer", v2)] {
        let request = Post::post("bench", path, body);
        for (name, server) in servers {
            let Some(server) = server else { continue };
            let mut round = run(server.address, &request, 1, Duration::from_secs(6)).await;
            figure(
                &format!("whole_{protocol}_{name}_ms"),
                median(&mut round.latencies) * 1000.0,
            );
        }
    }
}

async fn kserve() -> Option<Server> {
    let output = Command::new(places::root().join("e2e/python/kserve.sh"))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let python = output.status.success().then(|| Path::new(text.trim()).to_owned())?;
    let address = free();
    let mut command = Command::new(python);
    command
        .arg(places::root().join("e2e/python/kserve_server.py"))
        .arg(address.port().to_string());
    Server::start(command, address).await
}

fn signature() -> Signature {
    let shape = std::iter::once(Dim::Symbol("N".to_owned())).chain(SHAPE[1..].iter().map(|&n| Dim::Fixed(n)));
    let info = |name: &str| TensorInfo {
        name: name.to_owned(),
        datatype: DataType::F32,
        shape: Some(shape.clone().collect()),
        labels: None,
    };
    Signature {
        inputs: vec![info("x")],
        outputs: vec![info("y")],
    }
}

fn nested(numbers: &[String], shape: &[usize]) -> String {
    match shape {
        [] => numbers[0].clone(),
        [_, rest @ ..] => {
            let width = rest.iter().product();
            let parts: Vec<String> = numbers.chunks(width).map(|part| nested(part, rest)).collect();
            format!("[{}]", parts.join(","))
        }
    }
}

fn read(protocol: &'static str, digits: &str, body: &str, signature: &Signature) {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let mut ways = if protocol == "v2" {
        vec![
            way("pilotlight", || read_v2(&bytes, None, signature).expect("it is right")),
            way("serde_json", || {
                serde_json::from_str::<Request>(body)
                    .expect("it is right")
                    .inputs
                    .remove(0)
                    .data
            }),
            way("sonic-rs", || {
                sonic_rs::from_str::<Request>(body)
                    .expect("it is right")
                    .inputs
                    .remove(0)
                    .data
            }),
            way("simd-json", || {
                // It reads in place.
                let mut copy = body.as_bytes().to_vec();
                simd_json::from_slice::<Request>(&mut copy)
                    .expect("it is right")
                    .inputs
                    .remove(0)
                    .data
            }),
        ]
    } else {
        let flat = |instances: Instances| -> Vec<f32> {
            instances.instances.into_iter().flatten().flatten().flatten().collect()
        };
        vec![
            way("pilotlight", || {
                read_v1(body.as_bytes(), signature).expect("it is right")
            }),
            way("serde_json", move || {
                flat(serde_json::from_str(body).expect("it is right"))
            }),
            way("sonic-rs", move || flat(sonic_rs::from_str(body).expect("it is right"))),
            way("simd-json", move || {
                let mut copy = body.as_bytes().to_vec();
                flat(simd_json::from_slice(&mut copy).expect("it is right"))
            }),
        ]
    };
    take_turns(&mut ways);
    for way in &mut ways {
        figure(
            &format!("read_{protocol}_{digits}_{}_ms", way.name),
            median(&mut way.times),
        );
    }
    let key = if protocol == "v2" {
        "d['inputs'][0]['data']"
    } else {
        "d['instances']"
    };
    in_python(
        &format!("read_{protocol}_{digits}_python_json_numpy_ms"),
        &format!("d = json.loads(body); numpy.array({key}, dtype=numpy.float32).reshape(1, 3, 224, 224)"),
        body,
    );
}

fn write(signature: &Signature, tensor: &Tensor, values: &[f32]) {
    let outputs = std::slice::from_ref(tensor);
    let mut ways = [
        way("v2_pilotlight", || {
            write_v2(signature, outputs).expect("floats have a form")
        }),
        way("v1_pilotlight", || write_v1(signature, outputs)),
        way("flat_serde_json", || {
            serde_json::to_vec(values).expect("floats have a form")
        }),
        way("flat_sonic-rs", || {
            sonic_rs::to_vec(values).expect("floats have a form")
        }),
        way("flat_simd-json", || {
            simd_json::to_vec(values).expect("floats have a form")
        }),
    ];
    take_turns(&mut ways);
    for way in &mut ways {
        figure(&format!("write_{}_ms", way.name), median(&mut way.times));
    }
    let body = String::from_utf8(serde_json::to_vec(values).expect("floats have a form")).expect("JSON is text");
    in_python(
        "write_flat_python_json_numpy_ms",
        "json.dumps({'predictions': a.tolist()}).encode()",
        &body,
    );
}

fn take_turns(ways: &mut [Way<'_>]) {
    for round in 0..ROUNDS + 3 {
        for way in &mut *ways {
            let start = Instant::now();
            (way.run)();
            // The first rounds warm up.
            if round >= 3 {
                way.times.push(start.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
}

/// Times a statement in the Python that the tests compare with; it prints nothing where that is not installed.
fn in_python(name: &str, statement: &str, body: &str) {
    let interpreter = places::root().join("e2e/.venv/bin/python");
    if !interpreter.exists() {
        println!("{name}: no e2e/.venv, left out");
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), body).expect("a temporary file is writable");
    let program = format!(
        "import json, statistics, sys, time, numpy\n\
         body = open(sys.argv[1], 'rb').read()\n\
         a = numpy.array(json.loads(body), dtype=numpy.float32) if body[:1] == b'[' else None\n\
         times = []\n\
         for _ in range({ROUNDS}):\n\
         \x20   start = time.perf_counter()\n\
         \x20   {statement}\n\
         \x20   times.append((time.perf_counter() - start) * 1000)\n\
         print(statistics.median(times))"
    );
    let output = Command::new(interpreter)
        .args(["-c", &program])
        .arg(file.path())
        .current_dir(places::root())
        .output()
        .expect("Python starts");
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(value) => figure(name, value),
        Err(_) => println!("{name}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
