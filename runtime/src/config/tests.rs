use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use super::*;

#[derive(Debug, Parser)]
#[command(name = "runtime")]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn parse(args: &[&str]) -> Result<Args, String> {
    let command = Cli::command();
    command
        .try_get_matches_from([&["runtime"], args].concat())
        .and_then(|m| Cli::from_arg_matches(&m))
        .map(|cli| cli.args)
        .map_err(|e| e.to_string())
}

#[test]
fn readme_table_names_every_flag_variable_and_default() {
    let readme = include_str!("../../README.md");
    let documented: Vec<[String; 3]> = readme
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| {
            let cell = |i: usize| line.split('|').nth(i).unwrap_or_default().trim().replace('`', "");
            [cell(1), cell(2), cell(3)]
        })
        .collect();
    let command = Cli::command();
    let actual: Vec<[String; 3]> = command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
        .map(|arg| {
            let value = arg.get_value_names().map(|v| v[0].to_string()).unwrap_or_default();
            let default = arg
                .get_default_values()
                .first()
                .map(|v| v.to_string_lossy().into_owned());
            [
                format!("--{} {value}", arg.get_long().unwrap_or_default()),
                arg.get_env()
                    .map(|e| e.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                default.unwrap_or_default(),
            ]
        })
        .collect();
    assert_eq!(documented, actual);
}

#[test]
fn defaults_are_valid() {
    let args = parse(&["--model", "iris=a/b=c.onnx"]).unwrap();
    assert_eq!(
        args.models[0],
        ModelArg {
            name: "iris".into(),
            path: "a/b=c.onnx".into()
        }
    );
    let config = args.config().unwrap();
    assert_eq!(config.max_batch_size, 32);
    assert_eq!(config.max_latency, Duration::ZERO);
    assert_eq!(config.request_timeout, Duration::from_secs(5));
    assert_eq!((config.priority_levels, config.default_priority), (1, 1));
    let args = parse(&["--priority-levels", "3", "--preferred-batch-sizes", "4,8"]).unwrap();
    let config = args.config().unwrap();
    assert_eq!((config.default_priority, config.preferred_batch_sizes), (3, vec![4, 8]));
}

#[test]
fn invalid_values_name_the_flag_and_the_remedy() {
    for (args, flag, remedy) in [
        (&["--max-batch-size", "0"][..], "--max-batch-size", "from 1 to 65536"),
        (&["--max-latency-ms=-5"], "--max-latency-ms", "from 0 to 600000"),
        (&["--queue-size", "many"], "--queue-size", "from 1 to 1000000"),
        (&["--max-body-bytes", "0"], "--max-body-bytes", "at least 1"),
        (&["--model", "iris"], "--model", "NAME=PATH"),
        (&["--model", "a/b=x.onnx"], "--model", "A-Z a-z 0-9"),
        (&["--http-address", "8080"], "--http-address", "invalid socket address"),
        (&["--device", "tpu"], "--device", "cpu"),
        (&["--device", "cuda:x"], "--device", "cuda:1"),
        (&["--precision", "fp16"], "--precision", "f16"),
    ] {
        let error = parse(args).unwrap_err();
        assert!(error.contains(flag) && error.contains(remedy), "{args:?}: {error}");
    }
}

#[test]
fn contradictions_are_refused() {
    let args = parse(&["--max-latency-ms", "5000"]).unwrap();
    assert!(
        args.config()
            .unwrap_err()
            .to_string()
            .contains("--request-timeout-ms 5000")
    );
    let args = parse(&["--default-priority", "2"]).unwrap();
    assert!(args.config().unwrap_err().to_string().contains("--priority-levels 1"));
    let args = parse(&["--preferred-batch-sizes", "64"]).unwrap();
    assert!(args.config().unwrap_err().to_string().contains("--max-batch-size 32"));
    let args = parse(&["--model", "a=1.onnx", "--model", "a=2.onnx"]).unwrap();
    assert_eq!(args.config().unwrap_err(), ConfigError::SameName("a".into()));
}
