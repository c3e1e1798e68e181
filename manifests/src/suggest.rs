//! "Did you mean": the known name nearest to a mistyped one.

/// The candidate that `found` is most likely meant to be; `None` where none is near. Case, `-` and `_` don't count as
/// differences, so `max_batch_size` finds `maxBatchSize`.
pub(crate) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = folded(found);
    let allowed = (found.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&found, &folded(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Names as a message lists them: `a`, `b` and `c`.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

fn folded(name: &str) -> Vec<char> {
    // Past this length nothing that we know could be meant, and the matrix below stays small.
    name.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .take(100)
        .collect()
}

/// Edits between two names, two swapped neighbours being one (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitute = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitute.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let fields = ["predictor", "minReplicas", "maxReplicas", "maxBatchSize"];
        for (found, meant) in [
            ("predicter", Some("predictor")),
            ("MinReplica", Some("minReplicas")),
            ("max_batch_size", Some("maxBatchSize")),
            ("prdeictor", Some("predictor")),
            ("explainer", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, fields), meant, "{found}");
        }
    }

    #[test]
    fn lists_read_like_english() {
        assert_eq!(list(["a"]), "`a`");
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
