//! Kubernetes quantities: `2`, `0.5`, `500m`, `2Gi`, `1e3`.

/// Reads a quantity of 0 or more as a number. The error says nothing: the caller knows the field.
pub(crate) fn parse(text: &str) -> Result<f64, NotAQuantity> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| NotAQuantity)?;
    let value = number * factor(&text[digits..]).ok_or(NotAQuantity)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(NotAQuantity)
    }
}

/// The text is no quantity of 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAQuantity;

fn factor(suffix: &str) -> Option<f64> {
    let known = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => return exponent(suffix),
    };
    Some(known)
}

/// `e3`, `E-2`.
fn exponent(suffix: &str) -> Option<f64> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    (-18..=18).contains(&power).then(|| 10f64.powi(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, value) in [
            ("0", Some(0.0)),
            ("1", Some(1.0)),
            ("0.5", Some(0.5)),
            ("500m", Some(0.5)),
            ("4Mi", Some(4_194_304.0)),
            ("2Gi", Some(2_147_483_648.0)),
            ("1k", Some(1_000.0)),
            ("1e3", Some(1_000.0)),
            ("1E", Some(1e18)),
            ("", None),
            ("-1", None),
            ("1K", None),
            ("4 Mi", None),
            ("Mi", None),
            ("1.2.3", None),
            ("1e", None),
        ] {
            assert_eq!(parse(text).ok(), value, "{text:?}");
        }
    }
}
