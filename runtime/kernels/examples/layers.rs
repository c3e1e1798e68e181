//! Times the convolutions of a `ResNet50`, layer by layer: `layers [BATCH]`.

use std::time::Instant;

use pilotlight_kernels::{Conv, Geometry};

fn main() {
    let batch: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    // Channels, filters, kernel, stride, input size, how often.
    let layers = [
        (3, 64, 7, 2, 224, 1),
        (64, 64, 1, 1, 56, 1),
        (256, 64, 1, 1, 56, 2),
        (64, 64, 3, 1, 56, 3),
        (64, 256, 1, 1, 56, 4),
        (256, 128, 1, 2, 56, 1),
        (512, 128, 1, 1, 28, 3),
        (128, 128, 3, 1, 28, 4),
        (128, 512, 1, 1, 28, 4),
        (256, 512, 1, 2, 56, 1),
        (512, 256, 1, 2, 28, 1),
        (1024, 256, 1, 1, 14, 5),
        (256, 256, 3, 1, 14, 6),
        (256, 1024, 1, 1, 14, 6),
        (512, 1024, 1, 2, 28, 1),
        (1024, 512, 1, 2, 14, 1),
        (2048, 512, 1, 1, 7, 2),
        (512, 512, 3, 1, 7, 3),
        (512, 2048, 1, 1, 7, 3),
        (1024, 2048, 1, 2, 14, 1),
    ];
    let mut total = 0.0;
    for (channels, filters, k, stride, size, count) in layers {
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
        let weights = vec![0.01; filters * channels * k * k];
        let Some(conv) = Conv::new(&weights, [filters, channels, k, k], 1) else {
            continue;
        };
        let x = vec![0.5; batch * channels * size * size];
        let mut out = vec![0.0; batch * filters * output * output];
        let mut times: Vec<f64> = (0..15)
            .map(|_| {
                let start = Instant::now();
                conv.run(&x, None, geometry, Some((0.0, f32::INFINITY)), false, &mut out);
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        let work = 2e-6 * (batch * filters * output * output * channels * k * k) as f64;
        total += times[7] * f64::from(count);
        println!(
            "{channels:4} -> {filters:4}, {k}x{k}/{stride} of {size:3}: {:7.3} ms, {:6.1} GFLOP/s, {count} times",
            times[7],
            work / times[7]
        );
    }
    println!("all: {total:.1} ms");
}
