//! Values of flags: what is accepted, and what a refusal says.

use std::path::PathBuf;
use std::str::FromStr;

/// `SYMBOL=SIZE` of `--dim`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimArg {
    /// The symbol in the model's declared shapes.
    pub symbol: String,
    /// What is taken for it.
    pub size: usize,
}

impl FromStr for DimArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once('=').and_then(|(s, n)| Some((s, n.parse().ok()?)));
        let (symbol, size) = parsed.ok_or("expected SYMBOL=SIZE, for example batch=8")?;
        Ok(Self {
            symbol: symbol.to_owned(),
            size,
        })
    }
}

/// `NAME=PATH` of `--model`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelArg {
    /// The name in the URLs.
    pub name: String,
    /// The ONNX file, or the URI to fetch it from.
    pub path: PathBuf,
}

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text
            .split_once('=')
            .ok_or("expected NAME=PATH, for example iris=models/iris.onnx")?;
        check_name(name)?;
        if path.is_empty() {
            return Err("the path behind = is empty".to_owned());
        }
        if pilotlight_storage::Uri::is_remote(path) {
            let wrong = |error: pilotlight_storage::Error| error.to_string();
            path.parse::<pilotlight_storage::Uri>().map_err(wrong)?;
        }
        Ok(Self {
            name: name.to_owned(),
            path: path.into(),
        })
    }
}

/// Names stand in paths as they are, so they may hold only what needs no escape there.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 253 || !name.chars().all(fine) {
        return Err(format!(
            "model name {name:?}: use 1 to 253 of the characters A-Z a-z 0-9 - _ ."
        ));
    }
    Ok(())
}

/// Parses a number within bounds. clap names the flag (its variable where the value came from there); this the remedy.
pub(super) fn bounded(
    least: usize,
    most: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<usize>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ if most == usize::MAX => Err(format!("give a whole number of at least {least}")),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}

pub(super) fn bounded32(least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    let parse = bounded64(u64::from(least), u64::from(most));
    move |text| parse(text).map(|n| n as u32)
}

pub(super) fn bounded64(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<u64>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}
