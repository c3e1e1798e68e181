//! The last lines that a workload's replicas wrote, bounded in bytes, and whoever follows them.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use pilotlight_activator::EndpointId;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    sync::broadcast,
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use crate::platform::LogLine;

/// Lines kept for a follower that lags.
const FOLLOWER_LINES: usize = 256;

/// Lines of one workload.
pub(super) struct LogRing {
    lines: Mutex<Lines>,
    most_bytes: usize,
    followers: broadcast::Sender<LogLine>,
}

#[derive(Default)]
struct Lines {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl LogRing {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            lines: Mutex::default(),
            most_bytes,
            followers: broadcast::Sender::new(FOLLOWER_LINES),
        }
    }

    /// Adds a line; the oldest ones go past the bound.
    pub(super) fn push(&self, line: LogLine) {
        let mut state = self.lines.lock();
        state.bytes += line.text.len();
        state.lines.push_back(line.clone());
        while state.bytes > self.most_bytes {
            let Some(oldest) = state.lines.pop_front() else { break };
            state.bytes -= oldest.text.len();
        }
        // Under the lock, so that a reader who subscribes between neither misses nor repeats a line. Nobody follows: fine.
        let _ = self.followers.send(line);
    }

    /// The last `tail` lines and, with `follow`, those that come.
    pub(super) fn read(&self, tail: usize, follow: bool) -> impl Stream<Item = LogLine> + Send + use<> {
        let state = self.lines.lock();
        let skip = state.lines.len().saturating_sub(tail);
        let kept: Vec<_> = state.lines.iter().skip(skip).cloned().collect();
        let later = follow.then(|| BroadcastStream::new(self.followers.subscribe()));
        stream::iter(kept).chain(stream::iter(later).flatten().map(|line| line.unwrap_or_else(missed)))
    }
}

fn missed(error: BroadcastStreamRecvError) -> LogLine {
    let BroadcastStreamRecvError::Lagged(lines) = error;
    LogLine {
        endpoint: EndpointId::new("-"),
        text: format!("({lines} lines were missed)"),
    }
}

/// Copies lines into the ring until the pipe ends. Answers the last error: the last line that starts with `error: `, or
/// else the last line that isn't empty.
pub(super) async fn copy(
    mut pipe: impl AsyncBufRead + Unpin,
    ring: &LogRing,
    endpoint: &EndpointId,
    most_line: usize,
) -> Option<String> {
    let (mut error, mut last) = (None, None);
    while let Some(text) = next_line(&mut pipe, most_line).await {
        if let Some(message) = text.strip_prefix("error: ") {
            error = Some(message.trim().to_owned());
        } else if !text.trim().is_empty() {
            last = Some(text.trim().to_owned());
        }
        tracing::debug!(target: "pilotlight::runtime", replica = %endpoint, "{text}");
        ring.push(LogLine {
            endpoint: endpoint.clone(),
            text,
        });
    }
    error.or(last)
}

/// One line, cut at `most` bytes; `None` at the end or when the pipe breaks.
async fn next_line(pipe: &mut (impl AsyncBufRead + Unpin), most: usize) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let chunk = pipe.fill_buf().await.ok()?;
        if chunk.is_empty() {
            return (!line.is_empty()).then(|| text(&line));
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&part[..part.len().min(most.saturating_sub(line.len()))]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        pipe.consume(used);
        if end.is_some() {
            return Some(text(&line));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            endpoint: EndpointId::new("a"),
            text: text.to_owned(),
        }
    }

    async fn texts(stream: impl Stream<Item = LogLine>) -> Vec<String> {
        stream.map(|line| line.text).collect().await
    }

    #[tokio::test]
    async fn the_ring_is_bounded_in_bytes() {
        let ring = LogRing::new(10);
        for number in 0..100 {
            ring.push(line(&format!("{number:04}")));
        }
        assert_eq!(texts(ring.read(50, false)).await, ["0098", "0099"]);
        assert_eq!(texts(ring.read(1, false)).await, ["0099"]);
    }

    #[tokio::test]
    async fn a_follower_gets_the_tail_and_what_comes_until_the_workload_is_gone() {
        let ring = LogRing::new(1000);
        ring.push(line("before"));
        let follower = ring.read(10, true);
        ring.push(line("after"));
        drop(ring);
        assert_eq!(texts(follower).await, ["before", "after"]);
    }

    #[tokio::test]
    async fn the_last_error_line_is_the_reason() {
        let ring = LogRing::new(1000);
        let log = "starting\nerror: first\nerror: no such operator: Foo\r\nbye\n\n";
        let reason = copy(log.as_bytes(), &ring, &EndpointId::new("a"), 100).await;
        assert_eq!(reason.as_deref(), Some("no such operator: Foo"));
        let reason = copy("panicked\n".as_bytes(), &ring, &EndpointId::new("a"), 100).await;
        assert_eq!(reason.as_deref(), Some("panicked"));
    }

    #[tokio::test]
    async fn a_long_line_is_cut() {
        let ring = LogRing::new(1000);
        let log = format!("{}\nnext", "x".repeat(500));
        copy(log.as_bytes(), &ring, &EndpointId::new("a"), 20).await;
        assert_eq!(texts(ring.read(10, false)).await, ["x".repeat(20), "next".to_owned()]);
    }
}
