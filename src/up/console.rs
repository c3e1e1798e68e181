//! What `up` shows: one line with the addresses, then state changes as they happen. Colours only on a terminal.

use std::{
    env,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    sync::Arc,
};

use pilotlight_controller::Change;
use tokio::sync::broadcast::{Receiver, error::RecvError};

const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The first line on stdout; scripts wait for it and read the real ports from it.
pub(super) fn serving(scheme: &str, http: SocketAddr, admin: SocketAddr) {
    say(&format!("serving {scheme}://{http} admin http://{admin}"));
}

/// A signal came.
pub(super) fn stopping() {
    say("stopping: finishing what is in flight; once more to end at once");
}

/// Prints changes until the controller is gone.
pub(super) async fn print(mut changes: Receiver<Arc<Change>>) {
    let coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    loop {
        match changes.recv().await {
            Ok(change) => say(&line(&change.to_string(), change.what.is_problem(), coloured)),
            Err(RecvError::Lagged(missed)) => say(&format!("({missed} changes not shown)")),
            Err(RecvError::Closed) => return,
        }
    }
}

fn line(text: &str, problem: bool, coloured: bool) -> String {
    match (coloured, problem, text.split_once(": ")) {
        (false, ..) => text.to_owned(),
        (true, true, _) => format!("{RED}{text}{PLAIN}"),
        (true, false, Some((service, what))) => format!("{service}{DIM}: {what}{PLAIN}"),
        (true, false, None) => text.to_owned(),
    }
}

/// Writes a line out at once. Whoever read our output may be gone; serving goes on without.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").is_ok() {
        out.flush().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_where_nobody_sees_them() {
        assert_eq!(line("default/iris: asleep", true, false), "default/iris: asleep");
    }

    #[test]
    fn problems_stand_out_on_a_terminal() {
        assert_eq!(
            line("default/iris: died", true, true),
            "\x1b[31mdefault/iris: died\x1b[0m"
        );
        assert_eq!(
            line("default/iris: asleep", false, true),
            "default/iris\x1b[2m: asleep\x1b[0m"
        );
    }
}
