//! A small HTTP/1.1 server that follows a script: one closure, which says for each request what bytes to send and what
//! to do then.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// What stands between the method and the version.
    pub(super) target: String,
    headers: Vec<(String, String)>,
}

/// What happens when a reply has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next request is read.
    Go,
    Close,
    /// Nothing, until the other side closes.
    Stall,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) then: Then,
}

/// A running server. Its threads end with the process.
#[derive(Clone, Debug)]
pub(super) struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Requests being answered at once, now and at most.
    pub(super) busy_max: Arc<AtomicUsize>,
}

/// An object that is served as the standard says.
#[derive(Clone, Debug)]
pub(super) struct Honest {
    pub(super) bytes: Vec<u8>,
    pub(super) etag: Option<&'static str>,
    pub(super) modified: Option<&'static str>,
}

impl Asked {
    /// A request for the whole, without conditions.
    pub(super) fn plain() -> Asked {
        Asked { target: "/".to_owned(), headers: Vec::new() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The range that is asked for: the first byte, and the one behind the last.
    pub(super) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
    }
}

impl Reply {
    pub(super) fn new(status: u16, body: &[u8]) -> Reply {
        let headers = vec![("Content-Length".to_owned(), body.len().to_string())];
        Reply { status, headers, body: body.to_vec(), then: Then::Go }
    }

    pub(super) fn redirect(status: u16, to: &str) -> Reply {
        Reply::new(status, b"").with("Location", to)
    }

    /// With a header, in the place of one of that name.
    pub(super) fn with(self, name: &str, value: &str) -> Reply {
        let mut reply = self.without(name);
        reply.headers.push((name.to_owned(), value.to_owned()));
        reply
    }

    pub(super) fn without(mut self, name: &str) -> Reply {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    /// Sends no more than the first `len` bytes of what the headers announce.
    pub(super) fn cut(mut self, len: usize, then: Then) -> Reply {
        self.body.truncate(len);
        self.then = then;
        self
    }
}

impl Server {
    pub(super) fn start(script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, asked: Arc::default(), busy_max: Arc::default() };
        let (asked, busy_max, busy) = (Arc::clone(&server.asked), Arc::clone(&server.busy_max), Arc::default());
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
                let (busy_max, busy) = (Arc::clone(&busy_max), Arc::<AtomicUsize>::clone(&busy));
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some(request) = read_request(&mut reader) {
                        busy_max.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let number = {
                            let mut asked = asked.lock().unwrap();
                            asked.push(request.clone());
                            asked.len() - 1
                        };
                        let reply = script(&request, number);
                        // Before the last byte is sent: the next request may begin as soon as that has come.
                        let went = reply.body.split_last().map_or_else(
                            || {
                                busy.fetch_sub(1, Ordering::SeqCst);
                                send(&stream, &reply, &[])
                            },
                            |(last, body)| {
                                let sent = send(&stream, &reply, body);
                                busy.fetch_sub(1, Ordering::SeqCst);
                                sent.and_then(|()| (&stream).write_all(&[*last]))
                            },
                        );
                        if went.is_err() || reply.then == Then::Close {
                            return;
                        }
                        if reply.then == Then::Stall {
                            let _ = (&stream).read(&mut [0; 1]);
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    /// A server of one object, at every path.
    pub(super) fn of(object: Honest) -> Server {
        Server::start(move |asked, _| object.reply(asked))
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The same server by a name.
    pub(super) fn url_by_name(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let target = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Some(Asked { target, headers }) };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn send(mut stream: &TcpStream, reply: &Reply, body: &[u8]) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())
}

impl Honest {
    pub(super) fn new(bytes: Vec<u8>) -> Honest {
        Honest { bytes, etag: Some("\"one\""), modified: Some("Tue, 15 Nov 1994 12:45:26 GMT") }
    }

    pub(super) fn reply(&self, asked: &Asked) -> Reply {
        let is_mine = |name: &str, mine: Option<&str>| asked.header(name).map(|theirs| Some(theirs) == mine);
        if is_mine("if-match", self.etag) == Some(false) || is_mine("if-unmodified-since", self.modified) == Some(false)
        {
            return self.marked(Reply::new(412, b""));
        }
        let is_same = is_mine("if-none-match", self.etag).or_else(|| is_mine("if-modified-since", self.modified));
        if is_same == Some(true) {
            return self.marked(Reply::new(304, b"")).without("Content-Length");
        }
        let len = self.bytes.len();
        self.marked(match asked.range() {
            None => Reply::new(200, &self.bytes),
            Some((first, _)) if first >= len => Reply::new(416, b"").with("Content-Range", &format!("bytes */{len}")),
            Some((first, end)) => {
                let end = end.min(len);
                let range = format!("bytes {first}-{}/{len}", end - 1);
                Reply::new(206, &self.bytes[first..end]).with("Content-Range", &range)
            }
        })
    }

    /// As a server that knows no ranges answers.
    pub(super) fn whole(&self, asked: &Asked) -> Reply {
        let mut asked = asked.clone();
        asked.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("range"));
        self.reply(&asked)
    }

    fn marked(&self, reply: Reply) -> Reply {
        let mut reply = reply;
        for (name, value) in [("ETag", self.etag), ("Last-Modified", self.modified)] {
            if let Some(value) = value {
                reply = reply.with(name, value);
            }
        }
        reply
    }
}
