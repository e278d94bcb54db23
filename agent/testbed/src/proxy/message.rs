//! Requests and answers of HTTP/1.1, as far as one must understand them to know where they end.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A longer head is no head.
const HEAD_BYTES_MAX: u64 = 256 << 10;

/// The first line and the fields of a message.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) first: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads one. `None` where the connection ended before it.
    pub(super) async fn read(source: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
        let mut limited = source.take(HEAD_BYTES_MAX);
        let Some(first) = read_line(&mut limited).await? else { return Ok(None) };
        let mut head = Head { first, fields: Vec::new() };
        loop {
            let line = read_line(&mut limited).await?.ok_or(ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').ok_or(ErrorKind::InvalidData)?;
            head.fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    pub(super) async fn write(&self, sink: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.fields {
            text += &format!("{name}: {value}\r\n");
        }
        sink.write_all((text + "\r\n").as_bytes()).await
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Gives a field another value. One that there is not is not added.
    pub(super) fn set(&mut self, name: &str, new: &str) {
        for (_, value) in self.fields.iter_mut().filter(|(found, _)| found.eq_ignore_ascii_case(name)) {
            new.clone_into(value);
        }
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some())
    }

    pub(super) fn remove(&mut self, names: &[&str]) {
        self.fields.retain(|(found, _)| !names.iter().any(|name| found.eq_ignore_ascii_case(name)));
    }

    /// The method of a request.
    pub(super) fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Whether the connection ends with this message.
    pub(super) fn is_last(&self) -> bool {
        let says = |what: &str| self.get("connection").is_some_and(|value| value.to_ascii_lowercase().contains(what));
        says("close") || self.first.contains("HTTP/1.0") && !says("keep-alive")
    }

    pub(super) fn body_of_request(&self) -> Body {
        self.framed().unwrap_or(Body::Length(0))
    }

    pub(super) fn body_of_answer(&self, method: &str) -> Body {
        match self.status() {
            204 | 304 => Body::Length(0),
            _ if method == "HEAD" => Body::Length(0),
            _ => self.framed().unwrap_or(Body::UntilClose),
        }
    }

    fn framed(&self) -> Option<Body> {
        if self.get("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            return Some(Body::Chunked { left: 0 });
        }
        self.get("content-length").and_then(|len| len.parse().ok()).map(Body::Length)
    }
}

/// A line without its end. `None` where there is nothing at all.
async fn read_line(source: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if source.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    line.pop_if(|byte| *byte == b'\r');
    String::from_utf8(line).map(Some).map_err(|_| ErrorKind::InvalidData.into())
}

/// What is left of a body, and how its end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks; of the one that was begun so much.
    Chunked { left: u64 },
    /// All that was chunks has been read.
    Ended,
    /// All until the connection ends.
    UntilClose,
}

impl Body {
    /// Reads the next bytes, at most so many, into `piece`. It is empty at the end.
    pub(super) async fn next(
        &mut self,
        source: &mut (impl AsyncBufRead + Unpin),
        most: usize,
        piece: &mut Vec<u8>,
    ) -> io::Result<()> {
        piece.clear();
        let left = match self {
            Body::Length(left) => *left,
            Body::Ended => 0,
            Body::UntilClose => u64::MAX,
            Body::Chunked { left } => {
                if *left == 0 {
                    *left = chunk_len(source).await?;
                }
                *left
            }
        };
        if left == 0 {
            if matches!(self, Body::Chunked { .. }) {
                while read_line(source).await?.is_some_and(|trailer| !trailer.is_empty()) {}
                *self = Body::Ended;
            }
            return Ok(());
        }
        let found = source.fill_buf().await?;
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(found.len()).min(most);
        piece.extend_from_slice(&found[..taken]);
        source.consume(taken);
        match self {
            Body::UntilClose | Body::Ended => return Ok(()),
            _ if taken == 0 => return Err(ErrorKind::UnexpectedEof.into()),
            Body::Length(left) => *left -= taken as u64,
            Body::Chunked { left } => {
                *left -= taken as u64;
                if *left == 0 {
                    read_line(source).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes bytes, or the end of the body, as the head says that they come.
    pub(super) async fn write(self, sink: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> io::Result<()> {
        if !matches!(self, Body::Chunked { .. } | Body::Ended) {
            return sink.write_all(piece).await;
        }
        sink.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        sink.write_all(piece).await?;
        sink.write_all(b"\r\n").await
    }
}

async fn chunk_len(source: &mut (impl AsyncBufRead + Unpin)) -> io::Result<u64> {
    let line = read_line(source).await?.ok_or(ErrorKind::UnexpectedEof)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(|_| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn all(mut body: Body, mut source: &[u8]) -> io::Result<(Vec<u8>, usize)> {
        let (mut whole, mut piece) = (Vec::new(), Vec::new());
        loop {
            body.next(&mut source, 3, &mut piece).await?;
            if piece.is_empty() {
                return Ok((whole, source.len()));
            }
            whole.extend_from_slice(&piece);
        }
    }

    #[test]
    fn a_head_comes_out_as_it_went_in_but_for_what_was_changed() {
        run(async {
            let text = b"GET /a?b HTTP/1.1\r\nHost: x\r\nETag:\"1\" \r\nif-match: y\r\n\r\nrest";
            let mut source = &text[..];
            let mut head = Head::read(&mut source).await.unwrap().unwrap();
            assert_eq!((head.method(), head.get("etag"), source), ("GET", Some("\"1\""), &b"rest"[..]));
            head.set("etag", "\"2\"");
            assert!(head.has_any(&["If-Match", "Range"]) && !head.has_any(&["Range"]));
            head.remove(&["If-Match"]);
            let mut written = Vec::new();
            head.write(&mut written).await.unwrap();
            assert_eq!(written, b"GET /a?b HTTP/1.1\r\nHost: x\r\nETag: \"2\"\r\n\r\n");
            assert!(Head::read(&mut &b""[..]).await.unwrap().is_none());
            for broken in [&b"GET"[..], b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
                assert!(Head::read(&mut &broken[..]).await.is_err());
            }
        });
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        run(async {
            assert_eq!(all(Body::Length(5), b"12345next").await.unwrap(), (b"12345".to_vec(), 4));
            let chunked = b"4;x=y\r\n1234\r\n1\r\n5\r\n0\r\nTrailer: t\r\n\r\nnext";
            assert_eq!(all(Body::Chunked { left: 0 }, chunked).await.unwrap(), (b"12345".to_vec(), 4));
            assert_eq!(all(Body::UntilClose, b"12345").await.unwrap(), (b"12345".to_vec(), 0));
            assert_eq!(all(Body::Length(9), b"12345").await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert_eq!(all(Body::Chunked { left: 0 }, b"q\r\n").await.unwrap_err().kind(), ErrorKind::InvalidData);
        });
    }

    #[test]
    fn answers_without_a_body_are_known() {
        run(async {
            let head = async |status: &str| {
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: 7\r\n\r\n");
                Head::read(&mut text.as_bytes()).await.unwrap().unwrap()
            };
            assert_eq!(head("200 OK").await.body_of_answer("GET"), Body::Length(7));
            assert_eq!(head("200 OK").await.body_of_answer("HEAD"), Body::Length(0));
            assert_eq!(head("304 Not Modified").await.body_of_answer("GET"), Body::Length(0));
            let open = Head::read(&mut &b"HTTP/1.0 200 OK\r\n\r\n"[..]).await.unwrap().unwrap();
            assert_eq!((open.body_of_answer("GET"), open.is_last()), (Body::UntilClose, true));
        });
    }
}
