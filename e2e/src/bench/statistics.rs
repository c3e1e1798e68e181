//! Percentiles, and the lines that a machine reads.

/// The value below which the share `p` (0 to 1) of `values` lies: the nearest rank. Sorts them. NaN when there are none.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (p * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle value. Sorts them.
pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

/// Prints a figure on a line of its own: `name: value`.
pub fn figure(name: &str, value: f64) {
    println!("{name}: {value:.3}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), 50.0);
        assert_eq!(percentile(&mut values, 0.99), 99.0);
        assert_eq!(percentile(&mut values, 1.0), 100.0);
        assert_eq!(median(&mut [7.0]), 7.0);
        assert!(median(&mut []).is_nan());
    }
}
