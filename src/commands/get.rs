//! `pilotlight get [NAME]`: shows services, once or as they change.

use super::Failure;
use crate::{
    api::{Item, List},
    client::{Client, Error, Server},
    output::{self, Palette},
    table::{Changes, Columns, table},
};

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One service. Default: all of the namespace.
    name: Option<String>,
    /// Namespace. Default: `default` where a name is given, else all of them.
    #[arg(short, long)]
    namespace: Option<String>,
    /// All namespaces, with a column for them.
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// Form: the API's JSON, a table, or a table with more columns.
    #[arg(short, long, default_value = "table")]
    output: Form,
    /// Go on and show every change.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    server: Server,
}

/// How services are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Json,
    Table,
    Wide,
}

/// Which services are meant.
struct Selection {
    name: Option<String>,
    namespace: Option<String>,
}

impl Selection {
    fn of(args: &Args) -> Self {
        let default = || args.name.as_ref().map(|_| "default".to_owned());
        Self {
            name: args.name.clone(),
            namespace: args.namespace.clone().or_else(default),
        }
    }

    fn matches(&self, name: &str, namespace: &str) -> bool {
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }
}

/// Shows services. A name that is not there is an error, unless the watch is to wait for it.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    let selection = Selection::of(&args);
    match (args.watch, args.output, &args.name) {
        (true, ..) => watch(&client, &args, &selection).await,
        (false, Form::Json, Some(name)) => {
            let namespace = selection.namespace.as_deref().unwrap_or("default");
            print_json(&client.service(namespace, name).await?)
        }
        (false, Form::Json, None) => {
            let (_, mut value) = client.services().await?;
            retain(&mut value, &selection);
            print_json(&value)
        }
        (false, ..) => {
            let (List { mut items }, _) = client.services().await?;
            items.retain(|item| selection.matches(&item.name, &item.namespace));
            if let (true, Some(name)) = (items.is_empty(), &args.name) {
                let namespace = selection.namespace.as_deref().unwrap_or("default");
                return Err(Failure::Message(format!(
                    "inferenceservice/{name} not found in namespace {namespace}"
                )));
            }
            Ok(output::print(table(&items, columns(&args, &items), Palette::stdout()))?)
        }
    }
}

/// Namespaces are shown where they are asked for or where there is more than the default one.
fn columns(args: &Args, items: &[Item]) -> Columns {
    let several =
        args.namespace.is_none() && args.name.is_none() && items.iter().any(|item| item.namespace != "default");
    Columns {
        namespaces: args.all_namespaces || several,
        wide: args.output == Form::Wide,
    }
}

async fn watch(client: &Client, args: &Args, selection: &Selection) -> Result<(), Failure> {
    let mut lines = client.watch().await?;
    let mut changes: Option<Changes> = None;
    while let Some(line) = lines.next().await? {
        if args.output == Form::Json {
            let mut value: serde_json::Value = parse(&line, args)?;
            retain(&mut value, selection);
            output::print(format!("{value}\n"))?;
            continue;
        }
        let List { mut items } = parse(&line, args)?;
        items.retain(|item| selection.matches(&item.name, &item.namespace));
        let changes = changes.get_or_insert_with(|| Changes::new(columns(args, &items)));
        output::print(changes.next(&items, Palette::stdout()))?;
    }
    Err(Failure::Message(format!("{} has ended the watch", args.server.server)))
}

fn parse<T: serde::de::DeserializeOwned>(line: &str, args: &Args) -> Result<T, Failure> {
    serde_json::from_str(line).map_err(|error| {
        Error::Foreign {
            server: args.server.server.clone(),
            cause: error.to_string(),
        }
        .into()
    })
}

/// Keeps the selected items of a list in JSON.
fn retain(value: &mut serde_json::Value, selection: &Selection) {
    if let Some(items) = value.get_mut("items").and_then(serde_json::Value::as_array_mut) {
        let text = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
        items.retain(|item| selection.matches(&text(item, "name"), &text(item, "namespace")));
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    Ok(output::print(format!("{value:#}\n"))?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selection_keeps_what_is_meant() {
        let list = json!({"items": [
            {"name": "iris", "namespace": "default"},
            {"name": "iris", "namespace": "flowers"},
            {"name": "digits", "namespace": "default"},
        ]});
        let kept = |name: Option<&str>, namespace: Option<&str>| {
            let selection = Selection {
                name: name.map(str::to_owned),
                namespace: namespace.map(str::to_owned),
            };
            let mut list = list.clone();
            retain(&mut list, &selection);
            list["items"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(kept(None, None), 3);
        assert_eq!(kept(None, Some("default")), 2);
        assert_eq!(kept(Some("iris"), Some("default")), 1);
        assert_eq!(kept(Some("gone"), Some("default")), 0);
    }
}
