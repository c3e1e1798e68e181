//! Categories to numbers and back.

use std::collections::HashMap;
use std::hash::Hash;

use bytes::Bytes;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Element, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, DataType, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("CategoryMapper", 1, category_mapper),
    entry("LabelEncoder", 1, label_encoder_v1),
    entry("LabelEncoder", 2, label_encoder),
    entry("OneHotEncoder", 1, one_hot),
];

fn texts(list: Vec<String>) -> Vec<Bytes> {
    list.into_iter().map(Bytes::from).collect()
}

fn one_hot(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let ints = spec.ints("cats_int64s")?.filter(|l| !l.is_empty());
    let strings = spec.strings("cats_strings")?.filter(|l| !l.is_empty()).map(texts);
    let zeros = spec.flag("zeros", true)?;
    ensure!(
        ints.is_some() != strings.is_some(),
        "it needs categories either as integers or as strings"
    );
    fn hot<K>(
        keys: impl Iterator<Item = K>,
        position: impl Fn(&K) -> Option<usize>,
        n: usize,
        zeros: bool,
    ) -> OpResult<Vec<f32>> {
        let mut out = Vec::new();
        for key in keys {
            let start = out.len();
            out.resize(start + n, 0.0);
            match position(&key) {
                Some(k) => out[start + k] = 1.0,
                None => ensure!(zeros, "a value is none of the categories"),
            }
        }
        Ok(out)
    }
    let index: HashMap<i64, usize> = ints.iter().flatten().enumerate().map(|(k, &v)| (v, k)).collect();
    let names: HashMap<Bytes, usize> = strings
        .iter()
        .flatten()
        .enumerate()
        .map(|(k, v)| (v.clone(), k))
        .collect();
    let n = ints.map_or(0, |l| l.len()).max(strings.map_or(0, |l| l.len()));
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let out = match x.data() {
            Data::Bytes(v) => hot(v.iter(), |s| names.get(*s).copied(), n, zeros)?,
            Data::I64(v) => hot(v.iter(), |k| index.get(k).copied(), n, zeros)?,
            Data::I32(v) => hot(v.iter(), |&&k| index.get(&i64::from(k)).copied(), n, zeros)?,
            Data::F32(v) => hot(v.iter(), |&&k| index.get(&(k as i64)).copied(), n, zeros)?,
            Data::F64(v) => hot(v.iter(), |&&k| index.get(&(k as i64)).copied(), n, zeros)?,
            other => bail!("element type {} is not supported here", other.datatype()),
        };
        let mut dims = x.shape().to_vec();
        dims.push(n);
        Ok(vec![tensor(dims, Data::F32(out))?])
    }))
}

/// Version 1: class names to their positions, and back.
fn label_encoder_v1(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let classes = texts(spec.strings("classes_strings")?.unwrap_or_default());
    let (no_int, no_text) = (
        spec.int("default_int64", -1)?,
        Bytes::from(spec.string("default_string", "_Unused")?.to_owned()),
    );
    let index: HashMap<Bytes, i64> = classes.iter().enumerate().map(|(k, s)| (s.clone(), k as i64)).collect();
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let data = match x.data() {
            Data::Bytes(v) => Data::I64(v.iter().map(|s| index.get(s).copied().unwrap_or(no_int)).collect()),
            Data::I64(v) => {
                let name = |&k: &i64| {
                    usize::try_from(k)
                        .ok()
                        .and_then(|k| classes.get(k))
                        .unwrap_or(&no_text)
                        .clone()
                };
                Data::Bytes(v.iter().map(name).collect())
            }
            other => bail!("element type {} is not supported here", other.datatype()),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

/// Keys compare as bits, so that floats can be keys; all kinds of "not a number" are one key.
trait Key: Element {
    type Bits: Eq + Hash + Send + Sync;
    fn bits(&self) -> Self::Bits;
}

impl Key for i64 {
    type Bits = i64;
    fn bits(&self) -> i64 {
        *self
    }
}

impl Key for f32 {
    type Bits = u32;
    fn bits(&self) -> u32 {
        // Adding 0 makes -0 equal to 0.
        if self.is_nan() {
            f32::NAN.to_bits()
        } else {
            (*self + 0.0).to_bits()
        }
    }
}

impl Key for f64 {
    type Bits = u64;
    fn bits(&self) -> u64 {
        if self.is_nan() {
            f64::NAN.to_bits()
        } else {
            (*self + 0.0).to_bits()
        }
    }
}

impl Key for i32 {
    type Bits = i32;
    fn bits(&self) -> i32 {
        *self
    }
}

impl Key for i16 {
    type Bits = i16;
    fn bits(&self) -> i16 {
        *self
    }
}

impl Key for bool {
    type Bits = bool;
    fn bits(&self) -> bool {
        *self
    }
}

impl Key for Bytes {
    type Bits = Bytes;
    fn bits(&self) -> Bytes {
        self.clone()
    }
}

/// A list attribute in any of its spellings.
fn list(spec: &Spec<'_>, name: &str) -> OpResult<Option<Data>> {
    let found = [
        spec.strings(&format!("{name}_strings"))?.map(|l| Data::Bytes(texts(l))),
        spec.ints(&format!("{name}_int64s"))?.map(Data::I64),
        spec.floats(&format!("{name}_floats"))?.map(Data::F32),
        spec.tensor(&format!("{name}_tensor"))?.map(|t| t.into_parts().1),
    ];
    let mut found = found.into_iter().flatten().filter(|l| !l.is_empty());
    let first = found.next();
    ensure!(found.next().is_none(), "{name} are given twice");
    Ok(first)
}

fn default_value(spec: &Spec<'_>, to: DataType) -> OpResult<Data> {
    let text = Bytes::from(spec.string("default_string", "_Unused")?.to_owned());
    let (int, float) = (spec.int("default_int64", -1)?, spec.float("default_float", -0.0)?);
    let given = spec
        .tensor("default_tensor")?
        .map(|t| t.into_parts().1)
        .filter(|t| !t.is_empty());
    Ok(match (given, to) {
        (Some(t), _) => {
            ensure!(t.datatype() == to, "default_tensor is {} instead of {to}", t.datatype());
            t
        }
        (None, DataType::Bytes) => Data::Bytes(vec![text]),
        (None, DataType::F32) => Data::F32(vec![float]),
        (None, DataType::F64) => Data::F64(vec![f64::from(float)]),
        (None, DataType::I32) => Data::I32(vec![int as i32]),
        (None, DataType::I16) => Data::I16(vec![int as i16]),
        (None, _) => Data::I64(vec![int]),
    })
}

fn label_encoder(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (Some(keys), Some(values)) = (list(spec, "keys")?, list(spec, "values")?) else {
        bail!("keys or values are missing")
    };
    ensure!(
        keys.len() == values.len(),
        "{} keys and {} values",
        keys.len(),
        values.len()
    );
    let default = default_value(spec, values.datatype())?;
    match keys {
        Data::Bytes(k) => from_keys(&k, values, default),
        Data::I64(k) => from_keys(&k, values, default),
        Data::I32(k) => from_keys(&k, values, default),
        Data::I16(k) => from_keys(&k, values, default),
        Data::Bool(k) => from_keys(&k, values, default),
        Data::F32(k) => from_keys(&k, values, default),
        Data::F64(k) => from_keys(&k, values, default),
        other => bail!("keys of type {} are not supported", other.datatype()),
    }
}

fn from_keys<K: Key>(keys: &[K], values: Data, default: Data) -> OpResult<Kernel> {
    // The first of equal keys counts.
    let mut index: HashMap<K::Bits, usize> = HashMap::new();
    for (k, key) in keys.iter().enumerate() {
        index.entry(key.bits()).or_insert(k);
    }
    match (values, default) {
        (Data::Bytes(v), Data::Bytes(d)) => to_values::<K, _>(index, v, d),
        (Data::I64(v), Data::I64(d)) => to_values::<K, _>(index, v, d),
        (Data::I32(v), Data::I32(d)) => to_values::<K, _>(index, v, d),
        (Data::I16(v), Data::I16(d)) => to_values::<K, _>(index, v, d),
        (Data::F32(v), Data::F32(d)) => to_values::<K, _>(index, v, d),
        (Data::F64(v), Data::F64(d)) => to_values::<K, _>(index, v, d),
        (v, _) => bail!("values of type {} are not supported", v.datatype()),
    }
}

fn to_values<K: Key, V: Element>(index: HashMap<K::Bits, usize>, values: Vec<V>, default: Vec<V>) -> OpResult<Kernel> {
    ensure!(
        default.len() == 1,
        "the default has {} elements instead of 1",
        default.len()
    );
    Ok(Kernel::host(move |i: &Inputs<'_>| -> OpResult<Vec<Tensor>> {
        let x = i.get(0)?;
        let value = |key: &K| index.get(&key.bits()).map_or(&default[0], |&k| &values[k]).clone();
        Ok(vec![tensor(
            x.shape().to_vec(),
            V::wrap(typed::<K>(x)?.iter().map(value).collect()),
        )?])
    }))
}

/// Strings to numbers, or numbers to strings, by a table of pairs.
fn category_mapper(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (Some(names), Some(numbers)) = (spec.strings("cats_strings")?, spec.ints("cats_int64s")?) else {
        bail!("it has no table of strings and integers")
    };
    ensure!(
        names.len() == numbers.len(),
        "{} strings and {} integers in its table",
        names.len(),
        numbers.len()
    );
    let names: Vec<Bytes> = names.into_iter().map(Bytes::from).collect();
    let default = Bytes::copy_from_slice(spec.string("default_string", "_Unused")?.as_bytes());
    let other = spec.int("default_int64", -1)?;
    let to_number: HashMap<Bytes, i64> = names.iter().cloned().zip(numbers.iter().copied()).collect();
    let to_name: HashMap<i64, Bytes> = numbers.into_iter().zip(names).collect();
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let data = match x.data() {
            Data::Bytes(v) => Data::I64(v.iter().map(|s| to_number.get(s).copied().unwrap_or(other)).collect()),
            Data::I64(v) => {
                let name = |k| to_name.get(k).unwrap_or(&default).clone();
                Data::Bytes(v.iter().map(name).collect())
            }
            other => bail!("element type {} where a string or an INT64 is needed", other.datatype()),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, eval_at, f32s, ints, texts};

    #[test]
    fn categories_become_places_and_unknown_ones_none() {
        let one_hot = |zeros| {
            move |a: &mut crate::testing::Attributes| {
                a.strings("cats_strings", &["red", "blue"]);
                a.int("zeros", zeros);
            }
        };
        let x = texts(&[2], &["blue", "green"]);
        assert_eq!(
            eval("OneHotEncoder", one_hot(1), &[x.clone()]),
            f32s(&[2, 2], &[0.0, 1.0, 0.0, 0.0])
        );
        assert!(eval_at(15, "OneHotEncoder", one_hot(0), &[x], 1).is_err());
    }

    #[test]
    fn keys_of_any_type_map_to_values_of_any_type() {
        let out = eval(
            "LabelEncoder",
            |a| {
                a.floats("keys_floats", &[1.0, f32::NAN]);
                a.strings("values_strings", &["one", "none"]);
                a.string("default_string", "other");
            },
            &[f32s(&[3], &[f32::NAN, 1.0, 2.0])],
        );
        assert_eq!(out, texts(&[3], &["none", "one", "other"]));
        let out = eval(
            "LabelEncoder",
            |a| {
                a.strings("keys_strings", &["a"]);
                a.ints("values_int64s", &[7]);
            },
            &[texts(&[2], &["a", "b"])],
        );
        assert_eq!(out, ints(&[2], &[7, -1]));
    }
}
