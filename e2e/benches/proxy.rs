//! What the activator costs: requests in a second and latencies through it, against the same runtime asked directly and
//! through `HAProxy` in front of that runtime. The three take turns, so that what the machine does meanwhile hits all alike.

use std::{net::SocketAddr, time::Duration};

use pilotlight_e2e::{
    Ask, Manifest, Up,
    bench::{HaProxy, Request, figure, median, percentile, run},
    client, places, processes,
};

const CONNECTIONS: usize = 32;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 6;

/// One way to the runtime, and what was measured on it.
struct Way {
    name: &'static str,
    address: SocketAddr,
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            rates: Vec::new(),
            latencies: Vec::new(),
        }
    }

    fn rate(&self) -> f64 {
        median(&mut self.rates.clone())
    }
}

#[tokio::main]
async fn main() {
    // Enough replicas would hide the proxy behind the model; one, always awake, is what all three ways lead to.
    let manifest = Manifest::new("iris", places::example("iris.onnx")).min(1).max(1);
    let up = Up::with([manifest]).await;
    Ask::flowers(up.predict_url("iris"))
        .send()
        .await
        .expect("the right answer");
    let runtime = up.runtimes().pop().expect("one replica");
    let backend = processes::listens_on(runtime.pid).expect("it is ready");
    let haproxy = HaProxy::start(backend).await;
    if haproxy.is_none() {
        println!("haproxy is not installed: its part is left out");
    }

    let host = "iris.default.example.com";
    let predict = Request::post(host, "/v1/models/iris:predict", &client::flowers_v1().to_string());
    // Metadata costs the runtime next to nothing, so that the proxy shows; it is counted and routed like inference.
    let metadata = Request::get(host, "/v2/models/iris");
    for (what, request) in [("predict", predict), ("metadata", metadata)] {
        let mut ways = vec![Way::new("pilotlight", up.http()), Way::new("direct", backend)];
        ways.extend(haproxy.as_ref().map(|haproxy| Way::new("haproxy", haproxy.address())));
        measure(&mut ways, &request).await;
        report(what, &mut ways);
    }
}

async fn measure(ways: &mut [Way], request: &Request) {
    for way in &*ways {
        run(way.address, request, CONNECTIONS, Duration::from_millis(500)).await;
    }
    for _ in 0..ROUNDS {
        for way in &mut *ways {
            let round = run(way.address, request, CONNECTIONS, ROUND).await;
            way.rates.push(round.rate);
            way.latencies.extend(round.latencies);
        }
    }
}

fn report(what: &str, ways: &mut [Way]) {
    println!(
        "{what}, {CONNECTIONS} connections, median of {ROUNDS} rounds of {} s",
        ROUND.as_secs()
    );
    println!("{:<12}{:>10}{:>12}{:>12}", "", "req/s", "p50 ms", "p99 ms");
    for way in &mut *ways {
        let (p50, p99) = (
            percentile(&mut way.latencies, 0.5) * 1e3,
            percentile(&mut way.latencies, 0.99) * 1e3,
        );
        println!("{:<12}{:>10.0}{p50:>12.3}{p99:>12.3}", way.name, way.rate());
        figure(&format!("{what}-{}-rps", way.name), way.rate());
        figure(&format!("{what}-{}-p50-ms", way.name), p50);
        figure(&format!("{what}-{}-p99-ms", way.name), p99);
    }
    let (ours, others) = ways.split_first().expect("our own way is first");
    for other in others {
        let name = match what {
            "predict" => format!("ratio-to-{}", other.name),
            _ => format!("{what}-ratio-to-{}", other.name),
        };
        figure(&name, ours.rate() / other.rate());
    }
}
