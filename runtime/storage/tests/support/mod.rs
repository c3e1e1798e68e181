//! An HTTP server on loopback with one object at every path, and with all bad manners.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// What the server does wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// Closes the connection after this many bytes of a body,
    pub(crate) cut_after: Option<usize>,
    /// so many times.
    pub(crate) cuts: usize,
    /// Sends nothing more after this many bytes of a body.
    pub(crate) stall_after: Option<usize>,
    /// Answers to `bytes=0-0` are whole, whatever else.
    pub(crate) spare_looks: bool,
    /// The next answers have these statuses and no content.
    pub(crate) statuses: Vec<u16>,
    /// Ignores `Range`.
    pub(crate) no_ranges: bool,
    /// Sends no `Content-Length`: the end of the connection is the end.
    pub(crate) no_length: bool,
    /// Sends no `ETag`.
    pub(crate) no_etag: bool,
    /// After so many answers the content is this.
    pub(crate) change_after: Option<(usize, Vec<u8>)>,
    /// A header line without which the answer is 401.
    pub(crate) wants: Option<String>,
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    version: u32,
    behaviour: Behaviour,
    ranges: Vec<Option<(usize, usize)>>,
}

/// The server; ends with the test's runtime.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
    served: Arc<Notify>,
}

impl Server {
    pub(crate) async fn start(content: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            content,
            ..State::default()
        }));
        let served = Arc::new(Notify::new());
        let (shared, notify) = (state.clone(), served.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), notify.clone()));
            }
        });
        Self { address, state, served }
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn put(&self, content: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.content = content;
        state.version += 1;
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    /// The ranges of all requests so far.
    pub(crate) fn ranges(&self) -> Vec<Option<(usize, usize)>> {
        self.state.lock().unwrap().ranges.clone()
    }

    /// Resolves when an answer stalls.
    pub(crate) async fn served(&self) {
        self.served.notified().await;
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, served: Arc<Notify>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let answer = answer(&head, &mut state.lock().unwrap());
        if stream.write_all(answer.head.as_bytes()).await.is_err() || stream.write_all(&answer.body).await.is_err() {
            return;
        }
        if answer.stalls {
            served.notify_one();
            std::future::pending::<()>().await;
        }
        if answer.closes {
            return;
        }
    }
}

struct Answer {
    head: String,
    body: Vec<u8>,
    closes: bool,
    stalls: bool,
}

fn answer(head: &str, state: &mut State) -> Answer {
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
    };
    let range = field("range").and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()? + 1))
    });
    let whole_look = range == Some((0, 1)) && state.behaviour.spare_looks;
    state.ranges.push(range);
    if let Some((after, content)) = state.behaviour.change_after.clone()
        && state.ranges.len() > after
    {
        state.behaviour.change_after = None;
        state.content = content;
        state.version += 1;
    }
    let refuse = |status: u16| Answer {
        head: format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n"),
        body: Vec::new(),
        closes: false,
        stalls: false,
    };
    if !state.behaviour.statuses.is_empty() {
        return refuse(state.behaviour.statuses.remove(0));
    }
    if state
        .behaviour
        .wants
        .as_ref()
        .is_some_and(|line| !head.contains(&line.to_ascii_lowercase()))
    {
        return refuse(401);
    }
    let tag = format!("\"v{}\"", state.version);
    let stale = field("if-range").is_some_and(|wanted| wanted != tag);
    let range = range.filter(|_| !state.behaviour.no_ranges && !stale);
    let total = state.content.len();
    let (start, end) = range.map_or((0, total), |(start, end)| (start.min(total), end.min(total)));
    let mut body = state.content[start..end].to_vec();
    let mut head = match range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial\r\ncontent-range: bytes {start}-{}/{total}\r\n",
            end - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let mut closes = false;
    if state.behaviour.no_length {
        head += "connection: close\r\n";
        closes = true;
    } else {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    if !state.behaviour.no_etag {
        let _ = write!(head, "etag: {tag}\r\n");
    }
    head += "\r\n";
    let mut stalls = false;
    if !whole_look {
        if let Some(after) = state
            .behaviour
            .cut_after
            .filter(|after| state.behaviour.cuts > 0 && body.len() > *after)
        {
            state.behaviour.cuts -= 1;
            body.truncate(after);
            closes = true;
        }
        if let Some(after) = state.behaviour.stall_after.filter(|after| body.len() > *after) {
            body.truncate(after);
            stalls = true;
        }
    }
    Answer {
        head,
        body,
        closes,
        stalls,
    }
}
