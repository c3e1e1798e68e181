//! The discrete Fourier transform of any length: Cooley and Tukey's for powers of two, Bluestein's for the rest.

use std::f64::consts::PI;

/// A complex number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) fn new(re: f64, im: f64) -> Self {
        Self { re, im }
    }

    pub(super) fn conj(self) -> Self {
        Self::new(self.re, -self.im)
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self::new(self.re * factor, self.im * factor)
    }

    fn plus(self, o: Self) -> Self {
        Self::new(self.re + o.re, self.im + o.im)
    }

    fn minus(self, o: Self) -> Self {
        Self::new(self.re - o.re, self.im - o.im)
    }

    fn by(self, o: Self) -> Self {
        Self::new(self.re * o.re - self.im * o.im, self.re * o.im + self.im * o.re)
    }

    /// The number on the unit circle at an angle.
    fn at(angle: f64) -> Self {
        Self::new(angle.cos(), angle.sin())
    }
}

/// Transforms in place; the inverse is divided by the length.
pub(super) fn transform(signal: &mut [Complex], inverse: bool) {
    let n = signal.len();
    if n < 2 {
        return;
    }
    // The inverse is the transform of the conjugate, conjugated.
    if inverse {
        for x in signal.iter_mut() {
            *x = x.conj();
        }
    }
    if n.is_power_of_two() {
        radix_two(signal);
    } else {
        bluestein(signal);
    }
    if inverse {
        for x in signal {
            *x = x.conj().times(1.0 / n as f64);
        }
    }
}

fn radix_two(signal: &mut [Complex]) {
    let n = signal.len();
    let bits = n.trailing_zeros();
    for k in 0..n {
        let mirrored = k.reverse_bits() >> (usize::BITS - bits);
        if k < mirrored {
            signal.swap(k, mirrored);
        }
    }
    let roots: Vec<_> = (0..n / 2)
        .map(|k| Complex::at(-2.0 * PI * k as f64 / n as f64))
        .collect();
    let mut half = 1;
    while half < n {
        let step = n / (2 * half);
        for block in signal.chunks_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let turned = b.by(roots[k * step]);
                (*a, *b) = (a.plus(turned), a.minus(turned));
            }
        }
        half *= 2;
    }
}

/// The transform as a convolution with a chirp, which runs through transforms whose length is a power of two.
fn bluestein(signal: &mut [Complex]) {
    let n = signal.len();
    let m = (2 * n - 1).next_power_of_two();
    // k² modulo 2n, so that the angle stays exact for long signals.
    let chirp: Vec<_> = (0..n)
        .map(|k| {
            let square = (k as u128 * k as u128) % (2 * n as u128);
            Complex::at(-PI * square as f64 / n as f64)
        })
        .collect();
    let mut a = vec![Complex::default(); m];
    let mut b = vec![Complex::default(); m];
    for k in 0..n {
        a[k] = signal[k].by(chirp[k]);
        b[k] = chirp[k].conj();
        if k > 0 {
            b[m - k] = b[k];
        }
    }
    radix_two(&mut a);
    radix_two(&mut b);
    a.iter_mut().zip(&b).for_each(|(x, y)| *x = x.by(*y));
    transform(&mut a, true);
    for k in 0..n {
        signal[k] = a[k].by(chirp[k]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gives_what_the_definition_gives() {
        for n in 1..40 {
            let signal: Vec<_> = (0..n)
                .map(|k| Complex::new((k as f64).sin(), (k * k % 7) as f64))
                .collect();
            let mut found = signal.clone();
            transform(&mut found, false);
            for (k, found) in found.iter().enumerate() {
                let wanted = signal.iter().enumerate().fold(Complex::default(), |sum, (j, x)| {
                    sum.plus(x.by(Complex::at(-2.0 * PI * (j * k % n) as f64 / n as f64)))
                });
                assert!(
                    (found.re - wanted.re).abs() + (found.im - wanted.im).abs() < 1e-9,
                    "{n}, {k}"
                );
            }
            transform(&mut found, true);
            let back = found.iter().zip(&signal);
            assert!(
                back.into_iter()
                    .all(|(a, b)| (a.re - b.re).abs() + (a.im - b.im).abs() < 1e-9),
                "{n}"
            );
        }
    }
}
