//! Times products over packed weights, attention and the passes of a transformer: `products [ROWS]`.

use std::time::Instant;

use pilotlight_kernels::{Attention, Finish, Function, Heads, Matrix, Sizes, layer_norm, map, permute};

fn median(mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..31)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[15]
}

fn main() {
    let rows: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(128);
    for (k, n) in [(384, 384), (384, 1536), (1536, 384), (2048, 1000), (4096, 4096)] {
        let Some(matrix) = Matrix::new(&vec![0.01; k * n], k, n, false) else {
            continue;
        };
        let x = vec![0.5; rows * k];
        let mut out = vec![0.0; rows * n];
        for function in [Function::Identity, Function::Gelu] {
            let ms = median(|| {
                matrix.run(
                    &x,
                    Finish {
                        function,
                        ..Finish::default()
                    },
                    &mut out,
                );
            });
            let work = 2e-6 * (rows * k * n) as f64;
            println!("{rows} x {k} x {n}, {function:?}: {ms:.3} ms, {:.1} GFLOP/s", work / ms);
        }
    }
    let (heads, depth) = (12, 32);
    let data = vec![0.1; rows * heads * depth];
    let mut out = vec![0.0; data.len()];
    let of = Heads {
        data: &data,
        batch: 0,
        head: depth,
        position: heads * depth,
    };
    let sizes = Sizes {
        batch: 1,
        heads,
        queries: rows,
        keys: rows,
        depth,
        values: depth,
    };
    let attention = Attention {
        sizes,
        query: of,
        key: of,
        value: of,
        scale: 0.2,
        mask: None,
    };
    println!("attention: {:.3} ms", median(|| attention.run(false, &mut out)));
    let scale = vec![1.0; 384];
    println!(
        "layer norm: {:.3} ms",
        median(|| layer_norm(&data, None, &scale, Some(&scale), 1e-5, &mut out))
    );
    println!("gelu: {:.3} ms", median(|| map(Function::Gelu, &mut out)));
    println!(
        "transpose: {:.3} ms",
        median(|| permute(&data, &[rows, heads, depth], &[1, 0, 2], &mut out))
    );
    println!(
        "turn: {:.3} ms",
        median(|| permute(&data, &[rows, heads * depth], &[1, 0], &mut out))
    );
}
