//! What recurrent layers do with the sums of their gates, in one pass over each row.

use crate::math;
use crate::simd::{Isa, Level, Work, dispatch};

/// One step of an LSTM for every row of `hidden` numbers: `gates` has the sums of input, output, forget and cell gate of each
/// row behind each other; states are replaced.
///
/// # Panics
/// Where a length does not fit.
pub fn lstm_cell(gates: &[f32], hidden: usize, state: &mut [f32], cell: &mut [f32]) {
    assert!(
        hidden > 0 && state.len().is_multiple_of(hidden) && cell.len() == state.len() && gates.len() == 4 * state.len(),
        "a row's length"
    );
    dispatch(
        Level::detect(),
        Lstm {
            gates,
            hidden,
            state,
            cell,
        },
    );
}

struct Lstm<'a> {
    gates: &'a [f32],
    hidden: usize,
    state: &'a mut [f32],
    cell: &'a mut [f32],
}

impl Work for Lstm<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let h = self.hidden;
        let rows = self.state.chunks_exact_mut(h).zip(self.cell.chunks_exact_mut(h));
        for (gates, (state, cell)) in self.gates.chunks_exact(4 * h).zip(rows) {
            let (input, rest) = gates.split_at(h);
            let (output, rest) = rest.split_at(h);
            let (forget, new) = rest.split_at(h);
            let parts = input.iter().zip(output).zip(forget.iter().zip(new));
            for (((i, o), (f, n)), (state, cell)) in parts.zip(state.iter_mut().zip(cell)) {
                let kept = math::sigmoid::<I>(*f) * *cell;
                *cell = math::fma::<I>(math::sigmoid::<I>(*i), math::tanh::<I>(*n), kept);
                *state = math::sigmoid::<I>(*o) * math::tanh::<I>(*cell);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lstm_cell;
    use crate::testing::{near, noise};

    #[test]
    fn a_step_of_an_lstm_is_as_defined() {
        for (rows, h) in [(1, 1), (3, 17), (2, 128)] {
            let gates: Vec<f32> = noise(rows * 4 * h, 3).iter().map(|v| 4.0 * v).collect();
            let (mut state, mut cell) = (noise(rows * h, 5), noise(rows * h, 7));
            let before = cell.clone();
            lstm_cell(&gates, h, &mut state, &mut cell);
            let sigmoid = |x: f32| 1.0 / (1.0 + f64::from(-x).exp());
            let (mut states, mut cells) = (Vec::new(), Vec::new());
            for r in 0..rows {
                let gate = |g: usize, k: usize| gates[(4 * r + g) * h + k];
                for k in 0..h {
                    let c = sigmoid(gate(2, k)) * f64::from(before[r * h + k])
                        + sigmoid(gate(0, k)) * f64::from(gate(3, k)).tanh();
                    cells.push(c);
                    states.push(sigmoid(gate(1, k)) * c.tanh());
                }
            }
            assert!(
                near(&cell, &cells, 1e-6) && near(&state, &states, 1e-6),
                "{rows} rows of {h}"
            );
        }
    }
}
