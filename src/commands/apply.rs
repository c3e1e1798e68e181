//! `pilotlight apply -f FILE...`: creates services, or changes them.

use std::{path::PathBuf, time::Duration};

use pilotlight_manifests::{self as manifests, Fault};

use super::{
    Failure,
    files::{self, Manifests},
    settle::{Outcome, Sent, settle},
};
use crate::{
    api::Change,
    client::{Client, Error, Server},
    output::{self, Palette},
};

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Manifests: files, directories, or `-` for standard input.
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Seconds to wait for the models to be checked, so that one that can't be loaded is told here. 0: don't wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u32,
    #[command(flatten)]
    server: Server,
}

/// Reads all files before it sends any: with a fault in one of them nothing changes.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let palette = Palette::stderr();
    let texts = files::read(&args.file)?;
    let (mut faulty, mut full) = (false, Vec::new());
    let mut warnings = Vec::new();
    for text in &texts {
        let parsed = manifests::parse(&text.text, &text.file);
        faulty |= !parsed.faults.is_empty();
        tell(palette.bad("error"), &parsed.faults);
        tell(palette.caution("warning"), &parsed.warnings);
        warnings.extend(parsed.warnings);
        // Data of a model that lies beside manifests, and documents of nothing but warnings, are not sent.
        full.extend((!parsed.services.is_empty()).then_some(text));
    }
    if faulty {
        return Err(Failure::Told);
    }
    if full.is_empty() {
        return Err(Failure::Message(
            "there is no InferenceService in what was given".to_owned(),
        ));
    }
    let client = Client::new(&args.server)?;
    let mut sent = Vec::new();
    for text in full {
        sent.extend(apply(&client, text, &warnings, palette).await?);
    }
    if args.wait == 0 {
        return Ok(());
    }
    settled(&client, &sent, Duration::from_secs(args.wait.into()), palette).await
}

/// Waits for all of what was applied, and tells what can't serve.
async fn settled(client: &Client, sent: &[Sent], limit: Duration, palette: Palette) -> Result<(), Failure> {
    let mut failed = false;
    for sent in sent {
        let name = format!("inferenceservice/{}", sent.name);
        match settle(client, sent, limit).await? {
            Outcome::Settled => {}
            Outcome::Pending(what) => {
                let warning = palette.caution("warning");
                output::complain(format!("{warning}: {name}: after {} s: {what}", limit.as_secs()));
            }
            Outcome::Failed(why) => {
                failed = true;
                output::complain(format!("{}: {name}: {why}", palette.bad("error")));
            }
        }
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}

async fn apply(client: &Client, text: &Manifests, told: &[Fault], palette: Palette) -> Result<Vec<Sent>, Failure> {
    let absolute = manifests::absolute(&text.text, &text.base);
    let services = manifests::parse(&absolute, &text.file).services.into_iter();
    let sent = services.map(|service| Sent {
        namespace: service.namespace,
        name: service.name,
        object: service.object,
    });
    let sent: Vec<Sent> = sent.collect();
    let file = text.file.file_name().unwrap_or_default().to_string_lossy();
    match client.apply(absolute, &file, &text.base.display().to_string()).await {
        Ok(applied) => {
            let mut warnings = named(applied.warnings, text);
            warnings.retain(|warning| !told.contains(warning));
            tell(palette.caution("warning"), &warnings);
            for action in &applied.applied {
                output::print(line(action))?;
            }
            Ok(sent)
        }
        Err(Error::Refused { faults, .. }) if !faults.is_empty() => {
            tell(palette.bad("error"), &named(faults, text));
            Err(Failure::Told)
        }
        Err(error) => Err(error.into()),
    }
}

/// The server does not know what the user calls the file.
fn named(faults: Vec<Fault>, text: &Manifests) -> Vec<Fault> {
    let theirs = |fault: &Fault| {
        fault.file.file_name() == text.file.file_name() || fault.file == text.base || fault.file.as_os_str().is_empty()
    };
    let rename = |fault: Fault| {
        if theirs(&fault) {
            Fault {
                file: text.file.clone(),
                ..fault
            }
        } else {
            fault
        }
    };
    faults.into_iter().map(rename).collect()
}

fn tell(severity: String, faults: &[Fault]) {
    for fault in faults {
        output::complain(format!("{severity}: {fault}"));
    }
}

/// `inferenceservice/iris created`, with the namespace where it is not the default one.
fn line(action: &Change) -> String {
    let place = match action.namespace.as_str() {
        "" | "default" => String::new(),
        namespace => format!(" in {namespace}"),
    };
    format!(
        "{}/{} {}{place}\n",
        action.kind.to_lowercase(),
        action.name,
        action.action
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(namespace: &str) -> Change {
        Change {
            kind: "InferenceService".to_owned(),
            namespace: namespace.to_owned(),
            name: "iris".to_owned(),
            action: "created".to_owned(),
        }
    }

    #[test]
    fn a_line_says_what_was_done() {
        assert_eq!(line(&action("default")), "inferenceservice/iris created\n");
        assert_eq!(line(&action("flowers")), "inferenceservice/iris created in flowers\n");
    }

    #[test]
    fn faults_of_the_server_carry_the_users_name_of_the_file() {
        let text = Manifests {
            file: "a/iris.yaml".into(),
            base: "/srv/a".into(),
            text: String::new(),
        };
        let fault = |file: &str| Fault {
            file: file.into(),
            line: 1,
            field: String::new(),
            message: String::new(),
        };
        for (theirs, ours) in [
            ("iris.yaml", "a/iris.yaml"),
            ("/srv/a/iris.yaml", "a/iris.yaml"),
            ("/srv/a", "a/iris.yaml"),
            ("", "a/iris.yaml"),
            ("/etc/other.yaml", "/etc/other.yaml"),
        ] {
            assert_eq!(named(vec![fault(theirs)], &text), [fault(ours)], "{theirs}");
        }
    }
}
