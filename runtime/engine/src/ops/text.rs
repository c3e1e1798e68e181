//! Strings: joining, splitting, normalising, counting n-grams.

use std::collections::HashMap;

use bytes::Bytes;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, typed};
use crate::kernel::{Kernel, i64s, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("RegexFullMatch", 20, full_match),
    entry("StringConcat", 20, string_concat),
    entry("StringNormalizer", 10, string_normalizer),
    entry("StringSplit", 20, string_split),
    entry("TfIdfVectorizer", 9, tf_idf),
];

fn text(b: &Bytes) -> OpResult<&str> {
    match std::str::from_utf8(b) {
        Ok(s) => Ok(s),
        Err(_) => bail!("a string is not UTF-8"),
    }
}

/// Memory that a compiled pattern may take; counted repetitions multiply.
const MAX_PATTERN: usize = 1 << 24;

/// Patterns are RE2's, whose syntax the crate's is but for few constructs; both match in linear time.
fn full_match(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let pattern = spec.string("pattern", "")?;
    let whole = regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(MAX_PATTERN)
        .build();
    let whole = match whole {
        Ok(whole) => whole,
        Err(e) => bail!("pattern {pattern:?}: {e}"),
    };
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let found = typed::<Bytes>(x)?.iter().map(|b| Ok(whole.is_match(text(b)?)));
        let found = found.collect::<OpResult<Vec<_>>>()?;
        Ok(vec![tensor(x.shape().to_vec(), Data::Bool(found))?])
    }))
}

fn string_concat(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::host(|i| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        let (x, y) = (
            typed::<Bytes>(a)?.iter().collect::<Vec<_>>(),
            typed::<Bytes>(b)?.iter().collect::<Vec<_>>(),
        );
        let join = |x: &Bytes, y: &Bytes| Bytes::from([&x[..], &y[..]].concat());
        let (dims, v) = host::zip((&x, a.shape()), (&y, b.shape()), join)?;
        Ok(vec![tensor(dims, Data::Bytes(v))?])
    }))
}

fn string_normalizer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let change = spec.string("case_change_action", "NONE")?.to_owned();
    ensure!(
        ["NONE", "LOWER", "UPPER"].contains(&change.as_str()),
        "attribute \"case_change_action\" is {change:?}"
    );
    let sensitive = spec.flag("is_case_sensitive", false)?;
    let stop = spec.strings("stopwords")?.unwrap_or_default();
    spec.ignore(&["locale"]);
    let stop: Vec<String> = stop
        .into_iter()
        .map(|s| if sensitive { s } else { s.to_lowercase() })
        .collect();
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let mut kept = Vec::new();
        for b in typed::<Bytes>(x)? {
            let s = text(b)?;
            let key = if sensitive { s.to_owned() } else { s.to_lowercase() };
            if !stop.contains(&key) {
                kept.push(match change.as_str() {
                    "LOWER" => Bytes::from(s.to_lowercase()),
                    "UPPER" => Bytes::from(s.to_uppercase()),
                    _ => b.clone(),
                });
            }
        }
        if kept.is_empty() {
            kept.push(Bytes::new());
        }
        let n = kept.len();
        let dims = match x.shape() {
            [_] => vec![n],
            [1, _] => vec![1, n],
            other => bail!("input of shape {other:?}"),
        };
        Ok(vec![tensor(dims, Data::Bytes(kept))?])
    }))
}

fn string_split(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let delimiter = spec.string("delimiter", "")?.to_owned();
    let most = spec.opt_int("maxsplit")?.and_then(|n| usize::try_from(n).ok());
    fn parts<'a>(s: &'a str, delimiter: &str, most: Option<usize>) -> Vec<&'a str> {
        if !delimiter.is_empty() {
            return match most {
                Some(n) => s.splitn(n + 1, delimiter).collect(),
                None => s.split(delimiter).collect(),
            };
        }
        let (mut out, mut rest) = (Vec::new(), s.trim());
        while !rest.is_empty() {
            match rest.split_once(char::is_whitespace) {
                Some((word, tail)) if most.is_none_or(|n| out.len() < n) => {
                    out.push(word);
                    rest = tail.trim_start();
                }
                _ => {
                    out.push(rest);
                    break;
                }
            }
        }
        out
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let rows = typed::<Bytes>(x)?.iter().map(|b| Ok(parts(text(b)?, &delimiter, most)));
        let rows = rows.collect::<OpResult<Vec<_>>>()?;
        // numpy's empty string splits into nothing.
        let rows: Vec<Vec<&str>> = rows
            .into_iter()
            .map(|r| if r == [""] { Vec::new() } else { r })
            .collect();
        let widest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let counts = rows.iter().map(|r| r.len() as i64).collect();
        let cell = |r: &Vec<&str>, k: usize| Bytes::from(r.get(k).copied().unwrap_or_default().to_owned());
        let cells = rows.iter().flat_map(|r| (0..widest).map(move |k| cell(r, k))).collect();
        let mut dims = x.shape().to_vec();
        dims.push(widest);
        Ok(vec![
            tensor(dims, Data::Bytes(cells))?,
            tensor(x.shape().to_vec(), Data::I64(counts))?,
        ])
    }))
}

/// Counts of n-grams, weighted.
struct Vocabulary<K> {
    /// n-grams to output columns.
    grams: HashMap<Vec<K>, usize>,
    weights: Vec<f32>,
    lengths: std::ops::RangeInclusive<usize>,
    skips: usize,
    columns: usize,
    mode: Weighting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weighting {
    Count,
    Presence,
    WeightedCount,
}

fn tf_idf(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let mode = match spec.string("mode", "TF")? {
        "TF" => Weighting::Count,
        "IDF" => Weighting::Presence,
        "TFIDF" => Weighting::WeightedCount,
        other => bail!("attribute \"mode\" is {other:?}"),
    };
    let size = |name: &str, default| -> OpResult<usize> { Ok(usize::try_from(spec.int(name, default)?).unwrap_or(0)) };
    let (shortest, longest) = (size("min_gram_length", 1)?, size("max_gram_length", 1)?);
    let skips = size("max_skip_count", 0)?;
    ensure!(
        shortest >= 1 && shortest <= longest && longest <= 64 && skips <= 64,
        "n-grams of {shortest} to {longest}"
    );
    let counts = spec.sizes("ngram_counts", 0)?.unwrap_or_default();
    let columns = spec.sizes("ngram_indexes", 0)?.unwrap_or_default();
    let weights = spec.floats("weights")?.unwrap_or_default();
    let (ints, strings) = (spec.ints("pool_int64s")?, spec.strings("pool_strings")?);
    ensure!(
        weights.is_empty() || weights.len() == columns.len(),
        "{} weights for {} n-grams",
        weights.len(),
        columns.len()
    );
    let width = columns.iter().max().map_or(0, |m| m + 1);
    ensure!(width <= 1 << 24, "an n-gram's column is {width}");
    let lengths = shortest..=longest;
    let rest = Rest {
        counts,
        columns,
        weights,
        lengths,
        skips,
        width,
        mode,
    };
    match (ints, strings) {
        (Some(pool), None) => {
            let vocabulary = rest.vocabulary(&pool)?;
            Ok(Kernel::host(move |i| {
                let x = i.get(0)?;
                vocabulary.count(x, &i64s(x)?)
            }))
        }
        (None, Some(pool)) => {
            let vocabulary = rest.vocabulary(&pool.into_iter().map(Bytes::from).collect::<Vec<_>>())?;
            Ok(Kernel::host(move |i| {
                let x = i.get(0)?;
                vocabulary.count(x, typed::<Bytes>(x)?)
            }))
        }
        _ => bail!("it needs a pool either of integers or of strings"),
    }
}

/// The attributes besides the pool.
struct Rest {
    counts: Vec<usize>,
    columns: Vec<usize>,
    weights: Vec<f32>,
    lengths: std::ops::RangeInclusive<usize>,
    skips: usize,
    width: usize,
    mode: Weighting,
}

impl Rest {
    /// The pool lists all 1-grams, then all 2-grams, and so on; `ngram_counts` says where each kind starts.
    fn vocabulary<K: Clone + Eq + std::hash::Hash>(self, pool: &[K]) -> OpResult<Vocabulary<K>> {
        let mut grams = HashMap::new();
        let mut weights = vec![1.0; self.width];
        let mut next = 0;
        for (k, &start) in self.counts.iter().enumerate() {
            let end = self.counts.get(k + 1).copied().unwrap_or(pool.len());
            ensure!(
                start <= end && end <= pool.len() && (end - start).is_multiple_of(k + 1),
                "the pool does not fit its counts"
            );
            for gram in pool[start..end].chunks_exact(k + 1) {
                let Some(&column) = self.columns.get(next) else {
                    bail!("more n-grams than columns")
                };
                if let Some(&w) = self.weights.get(next) {
                    weights[column] = w;
                }
                grams.insert(gram.to_vec(), column);
                next += 1;
            }
        }
        Ok(Vocabulary {
            grams,
            weights,
            lengths: self.lengths,
            skips: self.skips,
            columns: self.width,
            mode: self.mode,
        })
    }
}

impl<K: Clone + Eq + std::hash::Hash> Vocabulary<K> {
    fn count(&self, x: &Tensor, tokens: &[K]) -> OpResult<Vec<Tensor>> {
        let (n, c) = match *x.shape() {
            [c] => (None, c),
            [n, c] => (Some(n), c),
            _ => bail!("input of shape {:?}", x.shape()),
        };
        let mut out = Vec::with_capacity(crate::shape::elements(&[n.unwrap_or(1), self.columns])?);
        for row in 0..n.unwrap_or(1) {
            out.extend(self.row(&tokens[row * c..(row + 1) * c]));
        }
        let mut dims: Vec<usize> = n.into_iter().collect();
        dims.push(self.columns);
        Ok(vec![tensor(dims, Data::F32(out))?])
    }

    fn row(&self, tokens: &[K]) -> Vec<f32> {
        let mut counts = vec![0f32; self.columns];
        for n in self.lengths.clone() {
            // A single token has no gaps.
            let widest = if n == 1 { 1 } else { self.skips + 1 };
            for step in 1..=widest {
                for start in 0..tokens.len() {
                    let gram: Vec<K> = (0..n).map_while(|k| tokens.get(start + k * step).cloned()).collect();
                    if gram.len() < n {
                        break;
                    }
                    if let Some(&column) = self.grams.get(&gram) {
                        counts[column] += 1.0;
                    }
                }
            }
        }
        for (count, &w) in counts.iter_mut().zip(&self.weights) {
            *count = match self.mode {
                Weighting::Count => *count,
                Weighting::Presence => {
                    if *count > 0.0 {
                        w
                    } else {
                        0.0
                    }
                }
                Weighting::WeightedCount => *count * w,
            };
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, f32s, texts};

    #[test]
    fn strings_join_split_and_normalise() {
        let out = crate::testing::eval_at(
            20,
            "StringConcat",
            |_| {},
            &[texts(&[2], &["a", "b"]), texts(&[1], &["!"])],
            1,
        );
        assert_eq!(out.unwrap()[0], texts(&[2], &["a!", "b!"]));
        let out = crate::testing::eval_at(20, "StringSplit", |_| {}, &[texts(&[2], &["a  b", ""])], 2).unwrap();
        assert_eq!(out[0], texts(&[2, 2], &["a", "b", "", ""]));
        let normal = eval(
            "StringNormalizer",
            |a| {
                a.string("case_change_action", "LOWER");
                a.strings("stopwords", &["the"]);
            },
            &[texts(&[3], &["The", "Cat", "SAT"])],
        );
        assert_eq!(normal, texts(&[2], &["cat", "sat"]));
    }

    #[test]
    fn n_grams_are_counted_by_column() {
        let out = eval(
            "TfIdfVectorizer",
            |a| {
                a.string("mode", "TF");
                a.int("min_gram_length", 1);
                a.int("max_gram_length", 2);
                a.int("max_skip_count", 0);
                a.ints("ngram_counts", &[0, 2]);
                a.ints("ngram_indexes", &[0, 1, 2]);
                a.strings("pool_strings", &["a", "b", "a", "b"]);
            },
            &[texts(&[4], &["a", "b", "a", "c"])],
        );
        assert_eq!(out, f32s(&[3], &[2.0, 1.0, 1.0]));
    }
}
