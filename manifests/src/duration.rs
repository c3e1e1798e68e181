//! Go's durations, which Knative's annotations are written in: `90s`, `1m30s`, `1.5h`, `300ms`.

use std::time::Duration;

/// Reads a duration of 0 or more; a bare `0` needs no unit. `None` for everything else.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| {
            let tail = after.strip_prefix(unit);
            tail.is_some_and(|tail| tail.is_empty() || tail.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        })?;
        seconds += number * factor;
        rest = &after[unit.len()..];
    }
    let duration = (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())??;
    // Sums of binary fractions: 1m0.1s is 60.1 s and not 60.099999999.
    Some(Duration::from_micros((duration.as_secs_f64() * 1e6).round() as u64))
}

const UNITS: [(&str, f64); 7] = [
    ("h", 3600.0),
    ("ms", 1e-3),
    ("m", 60.0),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ns", 1e-9),
    ("s", 1.0),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("6s", Some(6_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("300ms", Some(300)),
            (".5s", Some(500)),
            ("1m0.1s", Some(60_100)),
            ("60", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1 s", None),
            ("1s ", None),
            ("1e3s", None),
        ] {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9.hmsuµn+-]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_seconds_survive(seconds in 0u64..1_000_000) {
            prop_assert_eq!(parse(&format!("{seconds}s")), Some(Duration::from_secs(seconds)));
        }
    }
}
