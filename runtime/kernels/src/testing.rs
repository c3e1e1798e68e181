//! What the tests of several kernels need.

/// Numbers between -1 and 1 without a pattern that a wrong stride could hide in.
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        f32::from((state >> 16) as u16) / 32768.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Whether all numbers agree, relative to the larger of theirs and 1.
pub(crate) fn near(found: &[f32], wanted: &[f64], tolerance: f64) -> bool {
    found.len() == wanted.len()
        && found
            .iter()
            .zip(wanted)
            .all(|(&f, &w)| (f64::from(f) - w).abs() <= tolerance * w.abs().max(1.0))
}
