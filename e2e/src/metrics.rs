//! Reads the text format of Prometheus.

/// The sum of all samples of `name` that carry every label of `labels`. 0 when there is none.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    text.lines().filter_map(|line| sample(line, name, labels)).sum()
}

/// The values of the label `label` over all samples of `name`, sorted, each once.
pub fn label_values(text: &str, name: &str, label: &str) -> Vec<String> {
    let mut values: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| Some(line.split_once(&format!("{label}=\""))?.1.split_once('"')?.0.to_owned()))
        .collect();
    values.sort();
    values.dedup();
    values
}

fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (set, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let wanted = labels
        .iter()
        .all(|(key, value)| set.contains(&format!("{key}=\"{value}\"")));
    wanted.then(|| value.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# TYPE a_sum counter\na_sum{phase=\"load\",x=\"1\"} 2.5\na_sum{phase=\"start\"} 1\na_sum_more 7\nb 3\n";

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        assert_eq!(sum(TEXT, "a_sum", &[]), 3.5);
        assert_eq!(sum(TEXT, "a_sum", &[("phase", "load")]), 2.5);
        assert_eq!(sum(TEXT, "b", &[]), 3.0);
        assert_eq!(sum(TEXT, "c", &[]), 0.0);
        assert_eq!(label_values(TEXT, "a_sum", "phase"), ["load", "start"]);
    }
}
