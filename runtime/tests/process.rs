//! The runtime as a process: what its parent sees. Real models, real sockets, real signals.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, kill_process};

/// The program around `pilotlight_runtime::command`.
fn program() -> Command {
    program_of("serve")
}

/// An example, which cargo builds along with the tests.
fn program_of(name: &str) -> Command {
    let mut path = std::env::current_exe().expect("a test knows itself");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    let mut command = Command::new(path);
    for variable in [
        "MAX_BATCH_SIZE",
        "MAX_WAIT_MS",
        "CONTAINER_CONCURRENCY",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDS_FIRST_FD",
    ] {
        command.env_remove(variable);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../manifests/examples")
        .join(name)
}

/// Ends the process with the test, however that ends.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts with an inherited listener as number 3 and, where given, a lifeline as number 4.
    fn start(mut command: Command, args: &[&str], lifeline: Option<OwnedFd>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound listener has an address");
        let mut mappings = vec![FdMapping {
            parent_fd: listener.into(),
            child_fd: 3,
        }];
        command.env("LISTEN_FDS", "1").args(["--listen-fd", "3"]).args(args);
        if let Some(lifeline) = lifeline {
            command.args(["--lifeline-fd", "4"]);
            mappings.push(FdMapping {
                parent_fd: lifeline,
                child_fd: 4,
            });
        }
        command.fd_mappings(mappings).expect("the numbers do not collide");
        Self {
            child: command.spawn().expect("the example is built"),
            address,
        }
    }

    fn iris(args: &[&str], lifeline: Option<OwnedFd>) -> Self {
        let model = format!("iris={}", example("iris.onnx").display());
        let running = Self::start(program(), &[&["--model", &model], args].concat(), lifeline);
        running.ready("iris");
        running
    }

    /// Waits until the model is ready.
    fn ready(&self, model: &str) {
        let line = format!("GET /v2/models/{model}/ready HTTP/1.1");
        // The socket listens already, so the first connection waits for the process instead of failing.
        for _ in 0..1000 {
            if self.send(&line, "").starts_with("HTTP/1.1 200") {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not ready in time");
    }

    /// The answer to one request on a connection of its own; empty where nothing answers.
    fn send(&self, line: &str, body: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.address) else {
            return String::new();
        };
        let head = format!(
            "{line}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = String::new();
        if stream.write_all((head + body).as_bytes()).is_ok() {
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child has a pid");
        kill_process(pid, signal).expect("the child is ours");
    }

    fn ended(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("a child can be waited for").code();
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut log)
            .expect("logs are text");
        (code, log)
    }
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the example is built")
}

fn last_line(output: &Output) -> String {
    BufReader::new(&output.stderr[..])
        .lines()
        .map_while(Result::ok)
        .last()
        .unwrap_or_default()
}

#[test]
fn the_example_of_the_front_page_is_answered_to_the_letter() {
    let iris = Running::iris(&[], None);
    let answer = iris.send(
        "POST /v1/models/iris:predict HTTP/1.1",
        r#"{"instances":[[6.8,2.8,4.8,1.4],[6.0,3.4,4.5,1.6]]}"#,
    );
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"predictions":[1,1]}"#),
        "{answer}"
    );
    let answer = iris.send("POST /predict HTTP/1.1", r#"{"features":[6.8,2.8,4.8,1.4]}"#);
    assert!(answer.contains(r#"{"prediction":1,"confidence":0."#), "{answer}");
    let answer = iris.send("GET /v2/models/iris/ready HTTP/1.1", "");
    assert!(answer.contains("x-pilotlight-startup: load="), "{answer}");
}

#[test]
fn a_model_of_ones_own_is_served_like_a_file() {
    let own = Running::start(program_of("own_model"), &["--model-control-mode", "explicit"], None);
    own.ready("perceptron");
    let predict = |own: &Running| {
        own.send(
            "POST /v1/models/perceptron:predict HTTP/1.1",
            r#"{"instances":[[1,0],[1,1],[0,1],[0,0]]}"#,
        )
    };
    let answer = predict(&own);
    assert!(
        answer.ends_with(r#"{"predictions":[[1.0],[0.0],[1.0],[0.0]]}"#),
        "{answer}"
    );
    let answer = own.send("GET /v2/models/perceptron HTTP/1.1", "");
    assert!(
        answer.contains(r#""platform":"burn_rust""#) && answer.contains(r#""shape":[-1,2]"#),
        "{answer}"
    );
    for verb in ["unload", "load"] {
        let answer = own.send(&format!("POST /v2/repository/models/perceptron/{verb} HTTP/1.1"), "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(predict(&own).starts_with("HTTP/1.1 200"), "loaded again");
}

#[test]
fn a_second_address_for_grpc_serves_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let second = listener.local_addr().expect("a bound listener has an address");
    drop(listener);
    let model = format!("iris={}", example("iris.onnx").display());
    let args = ["--model", &model, "--grpc-address", &second.to_string()];
    let mut iris = Running::start(program(), &args, None);
    iris.ready("iris");
    iris.address = second;
    let answer = iris.send("GET /v2/models/iris/ready HTTP/1.1", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn sigterm_ends_it_with_0() {
    let mut iris = Running::iris(&["--drain-delay-ms", "300"], None);
    iris.signal(Signal::TERM);
    let mut off = false;
    for _ in 0..200 {
        let answer = iris.send("GET /v2/models/iris/ready HTTP/1.1", "");
        if answer.starts_with("HTTP/1.1 503") {
            off = true;
            let answer = iris.send(
                "POST /v1/models/iris:predict HTTP/1.1",
                r#"{"instances":[[6.8,2.8,4.8,1.4]]}"#,
            );
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "still served during the drain delay: {answer}"
            );
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let (code, log) = iris.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(off, "readiness goes off first");
}

#[test]
fn after_the_drain_delay_requests_are_refused_with_a_mark_before_connections_are() {
    let mut iris = Running::iris(&["--drain-delay-ms", "500"], None);
    iris.signal(Signal::TERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = iris.send(
            "POST /v1/models/iris:predict HTTP/1.1",
            r#"{"instances":[[6.8,2.8,4.8,1.4]]}"#,
        );
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.contains("x-pilotlight-reason: draining"), "{answer}");
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(Instant::now() < deadline, "never refused");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, log) = iris.ended();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn the_end_of_the_lifeline_ends_it() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let mut iris = Running::iris(&[], Some(read));
    assert!(iris.child.try_wait().expect("a child can be asked").is_none());
    drop(write);
    let (code, log) = iris.ended();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_model_that_cannot_be_loaded_ends_it_with_3_and_the_reason_last() {
    let output = run(&["--http-address", "127.0.0.1:0", "--model", "m=/nowhere.onnx"]);
    assert_eq!(output.status.code(), Some(3));
    let line = last_line(&output);
    assert!(line.starts_with("error: ") && line.contains("/nowhere.onnx"), "{line}");
}

#[test]
fn bad_starts_end_it_with_2_and_name_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("a bound listener has an address").to_string();
    for (args, part) in [
        (&["--http-address", &address][..], "--http-address"),
        (&["--listen-fd", "3"], "LISTEN_FDS"),
        (&["--lifeline-fd", "99"], "--lifeline-fd 99"),
        (&["--max-latency-ms", "9000"], "--request-timeout-ms"),
    ] {
        let output = run(args);
        let line = last_line(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.starts_with("error: ") && line.contains(part), "{line}");
    }
}

#[test]
fn check_prints_one_line_and_tells_good_from_broken() {
    let good = run(&["--check", &example("iris.onnx").display().to_string()]);
    let line = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!((good.status.code(), line.lines().count()), (Some(0), 1), "{line}");
    assert!(
        line.starts_with('{') && line.contains("\"ok\":true") && line.contains("\"load_ms\":"),
        "{line}"
    );
    assert!(line.contains(r#""datatype":"FP32""#), "{line}");

    let mut broken = tempfile::NamedTempFile::new().expect("a temporary file");
    broken.write_all(b"\x08\x07garbage").expect("room for nine bytes");
    let bad = run(&["--check", &broken.path().display().to_string()]);
    let line = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!((bad.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains("\"ok\":false") && line.contains("\"error\":\""), "{line}");
}

#[test]
fn explain_prints_the_plan_and_the_time_of_every_step() {
    let good = run(&["--explain", &example("digits.onnx").display().to_string()]);
    let text = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!(good.status.code(), Some(0), "{text}");
    assert!(
        text.starts_with("load ") && text.contains("nodes after each pass: file "),
        "{text}"
    );
    assert!(text.contains(" by kernel") && text.contains("-> FP32["), "{text}");

    let bad = run(&["--explain", "nowhere.onnx"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(last_line(&bad).starts_with("error: "), "{}", last_line(&bad));
}

#[test]
fn a_preparation_made_by_one_process_is_taken_over_by_the_next() {
    let store = tempfile::tempdir().expect("a temporary folder");
    let folder = store.path().display().to_string();
    let model = example("digits.onnx").display().to_string();
    let sizes = ["--max-batch-size", "4", "--prepared-dir", &folder];
    let prepared = run(&[&["prepare", &model, "--device", "cpu"][..], &sizes].concat());
    let text = String::from_utf8_lossy(&prepared.stdout).into_owned();
    assert_eq!(
        prepared.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&prepared.stderr)
    );
    assert_eq!(
        text.lines().count(),
        4,
        "a line for 1, 2 and 4 rows and one at the end: {text}"
    );
    assert!(text.contains("\"prepared\":[1,2,4]"), "{text}");

    let model = format!("digits={model}");
    let args = ["--model", &model, "--device", "cpu", "--pad-batches", "true"];
    let running = Running::start(program(), &[&args[..], &sizes].concat(), None);
    running.ready("digits");
    let rows = vec![format!("[{}]", ["[0,0,0,0,0,0,0,0]"; 8].join(",")); 3];
    let body = format!(
        "{{\"instances\":[{}]}}",
        rows.iter().map(|r| format!("[{r}]")).collect::<Vec<_>>().join(",")
    );
    let answer = running.send("POST /v1/models/digits:predict HTTP/1.1", &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let metrics = running.send("GET /metrics HTTP/1.1", "");
    assert!(
        metrics.contains("ml_prepared_models{state=\"prepared\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("ml_prepared_runs_total{result=\"hit\"}"), "{metrics}");
    assert!(!metrics.contains("result=\"miss\"} 1"), "{metrics}");
}

#[test]
fn a_device_that_is_not_there_ends_it_with_2_and_what_is_missing() {
    // A check, which ends in any case: with CUDA built in and a GPU here it is fine.
    let output = run(&[
        "--device",
        "cuda",
        "--check",
        &example("iris.onnx").display().to_string(),
    ]);
    if output.status.code() != Some(0) {
        let line = last_line(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.starts_with("error: --device cuda:0: CUDA can't be used"), "{line}");
    }
    let output = run(&[
        "--device",
        "cpu",
        "--precision",
        "bf16",
        "--http-address",
        "127.0.0.1:0",
    ]);
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(
        line.contains("--precision bf16") && line.contains("--device cuda"),
        "{line}"
    );
}
