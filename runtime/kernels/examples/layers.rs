//! Times the convolutions of a network, layer by layer: `layers [resnet|mobile|digits] [BATCH]`.

use std::time::Instant;

use pilotlight_kernels::{Conv, Geometry, Pool, PoolKind};

/// Runs of each layer; the median counts.
const RUNS: usize = 31;

/// Channels, filters, kernel, stride, input size, how often; as many groups as channels where `depthwise`.
type Layer = (usize, usize, usize, usize, usize, u32, bool);

const RESNET: [Layer; 20] = [
    (3, 64, 7, 2, 224, 1, false),
    (64, 64, 1, 1, 56, 1, false),
    (256, 64, 1, 1, 56, 2, false),
    (64, 64, 3, 1, 56, 3, false),
    (64, 256, 1, 1, 56, 4, false),
    (256, 128, 1, 2, 56, 1, false),
    (512, 128, 1, 1, 28, 3, false),
    (128, 128, 3, 1, 28, 4, false),
    (128, 512, 1, 1, 28, 4, false),
    (256, 512, 1, 2, 56, 1, false),
    (512, 256, 1, 2, 28, 1, false),
    (1024, 256, 1, 1, 14, 5, false),
    (256, 256, 3, 1, 14, 6, false),
    (256, 1024, 1, 1, 14, 6, false),
    (512, 1024, 1, 2, 28, 1, false),
    (1024, 512, 1, 2, 14, 1, false),
    (2048, 512, 1, 1, 7, 2, false),
    (512, 512, 3, 1, 7, 3, false),
    (512, 2048, 1, 1, 7, 3, false),
    (1024, 2048, 1, 2, 14, 1, false),
];

const MOBILE: [Layer; 30] = [
    (3, 32, 3, 2, 224, 1, false),
    (32, 32, 3, 1, 112, 1, true),
    (32, 16, 1, 1, 112, 1, false),
    (16, 96, 1, 1, 112, 1, false),
    (96, 96, 3, 2, 112, 1, true),
    (96, 24, 1, 1, 56, 1, false),
    (24, 144, 1, 1, 56, 2, false),
    (144, 144, 3, 1, 56, 1, true),
    (144, 24, 1, 1, 56, 1, false),
    (144, 144, 3, 2, 56, 1, true),
    (144, 32, 1, 1, 28, 1, false),
    (32, 192, 1, 1, 28, 3, false),
    (192, 192, 3, 1, 28, 2, true),
    (192, 32, 1, 1, 28, 2, false),
    (192, 192, 3, 2, 28, 1, true),
    (192, 64, 1, 1, 14, 1, false),
    (64, 384, 1, 1, 14, 4, false),
    (384, 384, 3, 1, 14, 4, true),
    (384, 64, 1, 1, 14, 3, false),
    (384, 96, 1, 1, 14, 1, false),
    (96, 576, 1, 1, 14, 3, false),
    (576, 576, 3, 1, 14, 2, true),
    (576, 96, 1, 1, 14, 2, false),
    (576, 576, 3, 2, 14, 1, true),
    (576, 160, 1, 1, 7, 1, false),
    (160, 960, 1, 1, 7, 3, false),
    (960, 960, 3, 1, 7, 3, true),
    (960, 160, 1, 1, 7, 2, false),
    (960, 320, 1, 1, 7, 1, false),
    (320, 1280, 1, 1, 7, 1, false),
];

const DIGITS: [Layer; 2] = [(1, 16, 3, 1, 8, 1, false), (16, 32, 3, 1, 8, 1, false)];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let batch: usize = arguments.get(2).and_then(|a| a.parse().ok()).unwrap_or(1);
    let layers = match arguments.get(1).map(String::as_str) {
        Some("mobile") => &MOBILE[..],
        Some("digits") => &DIGITS[..],
        _ => &RESNET[..],
    };
    let mut total = 0.0;
    for &(channels, filters, k, stride, size, count, depthwise) in layers {
        let groups = if depthwise { channels } else { 1 };
        let pad = k / 2;
        let output = (size + 2 * pad - k) / stride + 1;
        let geometry = Geometry {
            input: [size; 2],
            output: [output; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            begin: [pad; 2],
            end: [pad; 2],
        };
        let weights = vec![0.01; filters * channels / groups * k * k];
        let Some(conv) = Conv::new(&weights, [filters, channels / groups, k, k], groups) else {
            continue;
        };
        let x = vec![0.5; batch * channels * size * size];
        let mut out = vec![0.0; batch * filters * output * output];
        let mut times: Vec<f64> = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                conv.run(&x, None, geometry, Some((0.0, f32::INFINITY)), false, &mut out);
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        let work = 2e-6 * (batch * filters * output * output * channels / groups * k * k) as f64;
        total += times[RUNS / 2] * f64::from(count);
        println!(
            "{channels:4} -> {filters:4}, {k}x{k}/{stride} of {size:3}: {:8.4} ms, {:6.1} GFLOP/s, {count} times",
            times[RUNS / 2],
            work / times[RUNS / 2]
        );
    }
    println!("all: {total:.2} ms");
    pools(batch);
}

/// The pools of a `ResNet50` and of the digits.
fn pools(batch: usize) {
    for (channels, k, stride, size, pad) in [(64, 3, 2, 112, 1), (32, 2, 2, 8, 0)] {
        let output = (size + 2 * pad - k) / stride + 1;
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: [k; 2],
            geometry: Geometry {
                input: [size; 2],
                output: [output; 2],
                stride: [stride; 2],
                dilation: [1; 2],
                begin: [pad; 2],
                end: [pad; 2],
            },
        };
        let x = vec![0.5; batch * channels * size * size];
        let mut out = vec![0.0; batch * channels * output * output];
        let mut times: Vec<f64> = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                pool.run(&x, &mut out);
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        println!("pool {k}x{k}/{stride} of {size}: {:8.4} ms", times[RUNS / 2]);
    }
}
