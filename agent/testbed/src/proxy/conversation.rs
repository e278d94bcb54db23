//! One connection of a client: its requests, one after another, each passed on to the server or met by a fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::message::{Body, Head};
use super::rule::{Fault, Shared};

/// Most bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// The fields of a request that make it conditional.
const CONDITIONS: [&str; 5] =
    ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "x-goog-if-generation-match"];

/// How a connection is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As usual.
    Close,
    /// So that the client sees an error.
    Reset,
}

/// What follows a request.
enum Next {
    Another,
    End(End),
}

/// Serves a client until its connection is to be ended.
pub(super) async fn converse(client: &mut TcpStream, server: SocketAddr, shared: &Shared) -> End {
    // A server that is not there does not answer; a client of it would have seen a reset at the best.
    let Ok(mut upstream) = TcpStream::connect(server).await else { return End::Reset };
    if client.set_nodelay(true).and(upstream.set_nodelay(true)).is_err() {
        return End::Reset;
    }
    let (client_source, client_sink) = client.split();
    let (server_source, server_sink) = upstream.split();
    let mut parties = Parties {
        client_source: BufReader::with_capacity(PIECE_BYTES, client_source),
        client_sink,
        server_source: BufReader::with_capacity(PIECE_BYTES, server_source),
        server_sink,
        shared,
    };
    loop {
        match parties.exchange().await {
            Ok(Next::Another) => {}
            Ok(Next::End(end)) => return end,
            // Whichever side broke off, the other one learns it.
            Err(_) => return End::Reset,
        }
    }
}

struct Parties<'a> {
    client_source: BufReader<ReadHalf<'a>>,
    client_sink: WriteHalf<'a>,
    server_source: BufReader<ReadHalf<'a>>,
    server_sink: WriteHalf<'a>,
    shared: &'a Shared,
}

impl Parties<'_> {
    /// One request and its answer.
    async fn exchange(&mut self) -> io::Result<Next> {
        let request = tokio::select! {
            request = Head::read(&mut self.client_source) => request?,
            // A server speaks only when spoken to: it has ended the connection.
            _ = self.server_source.fill_buf() => None,
        };
        let Some(mut request) = request else { return Ok(Next::End(End::Close)) };
        let shared = self.shared;
        let fault = shared.fault(request.method());
        match fault {
            Some(Fault::Unavailable) if shared.happens() => return self.refuse(&request).await,
            Some(Fault::ResetBefore) if shared.happens() => return Ok(Next::End(End::Reset)),
            Some(Fault::NoConditions) if request.has_any(&CONDITIONS) && shared.happens() => {
                request.remove(&CONDITIONS)
            }
            _ => {}
        }
        let (answer, was_read) = self.ask(&request, fault).await?;
        if fault == Some(Fault::AnswerLost) && shared.happens() {
            drain(answer.body_of_answer(request.method()), &mut self.server_source).await?;
            return Ok(Next::End(End::Reset));
        }
        let is_last = request.is_last() || answer.is_last() || !was_read;
        match self.answer(answer, request.method(), fault).await? {
            Next::Another if is_last => Ok(Next::End(End::Close)),
            next => Ok(next),
        }
    }

    /// Reads a request to its end, as a polite server does, and answers that it has no time.
    async fn refuse(&mut self, request: &Head) -> io::Result<Next> {
        drain(request.body_of_request(), &mut self.client_source).await?;
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        self.client_sink.write_all(answer).await?;
        Ok(Next::End(End::Close))
    }

    /// Passes a request on and reads the head of the answer, which may come before the request has ended: then the request
    /// was not read to its end.
    async fn ask(&mut self, request: &Head, fault: Option<Fault>) -> io::Result<(Head, bool)> {
        request.write(&mut self.server_sink).await?;
        let Parties { client_source, client_sink, server_source, server_sink, shared } = self;
        let mut sent = Pass { shared, fault, at: 0, to_server: true };
        let body = request.body_of_request();
        let pass = sent.body(body, client_source, server_sink);
        let answer = async {
            loop {
                let head = Head::read(server_source).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                // The server asks for the body, or says that it is still there.
                if !(100..200).contains(&head.status()) {
                    return io::Result::Ok(head);
                }
                head.write(client_sink).await?;
            }
        };
        tokio::pin!(pass, answer);
        tokio::select! {
            biased;
            // A server that has heard enough answers and reads no more; the answer says why.
            passed = &mut pass => {
                let was_read = passed? == Passed::Whole;
                Ok((answer.await?, was_read))
            }
            head = &mut answer => Ok((head?, false)),
        }
    }

    /// Passes an answer on.
    async fn answer(&mut self, mut head: Head, method: &str, fault: Option<Fault>) -> io::Result<Next> {
        let shared = self.shared;
        let mut body = head.body_of_answer(method);
        // Where the client is told a wrong length it must see the end of the connection.
        let mut is_last = body == Body::UntilClose;
        let said = head.get("content-length").and_then(|len| len.parse::<u64>().ok());
        match (fault, said) {
            (Some(Fault::WrongLength { error_bytes }), Some(len)) => {
                let wrong = len.saturating_add_signed(error_bytes);
                if len > 0 && wrong != len && shared.happens() {
                    head.set("content-length", &wrong.to_string());
                    is_last = true;
                    if body == Body::Length(len) {
                        body = Body::Length(len.min(wrong));
                    }
                }
            }
            (Some(Fault::LyingEtag), _) if head.get("etag").is_some() && shared.happens() => {
                head.set("etag", &format!("\"{:032x}\"", shared.counts().faults));
            }
            _ => {}
        }
        head.write(&mut self.client_sink).await?;
        let mut pass = Pass { shared, fault, at: 0, to_server: false };
        if pass.body(body, &mut self.server_source, &mut self.client_sink).await? == Passed::InPart {
            if matches!(fault, Some(Fault::StallAfter { .. })) {
                self.stall().await;
            }
            return Ok(Next::End(End::Reset));
        }
        Ok(if is_last { Next::End(End::Close) } else { Next::Another })
    }

    /// Waits until the rule changes or the client goes away.
    async fn stall(&mut self) {
        let mut changes = self.shared.changes();
        let mut byte = [0];
        tokio::select! {
            _ = changes.changed() => {}
            _ = self.client_source.read(&mut byte) => {}
        }
    }
}

/// How the passing on of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Whole,
    /// By a fault, or because a server reads no more.
    InPart,
}

/// The passing on of one body.
struct Pass<'a> {
    shared: &'a Shared,
    fault: Option<Fault>,
    /// Bytes that were passed on.
    at: u64,
    to_server: bool,
}

impl Pass<'_> {
    /// Passes a body on, up to where the fault stops it.
    async fn body(
        &mut self,
        mut body: Body,
        source: &mut (impl AsyncBufRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Passed> {
        let mut piece = Vec::new();
        loop {
            let most = self.most();
            body.next(source, most.max(1), &mut piece).await?;
            if most == 0 && !piece.is_empty() {
                // There is more behind the place where the fault is to happen.
                if self.shared.happens() {
                    sink.flush().await?;
                    return Ok(Passed::InPart);
                }
                self.fault = None;
            }
            self.damage(&mut piece);
            self.keep_pace(sink, piece.len()).await?;
            let written = body.write(sink, &piece).await;
            if written.is_err() && self.to_server {
                return Ok(Passed::InPart);
            }
            written?;
            if piece.is_empty() {
                sink.flush().await?;
                return Ok(Passed::Whole);
            }
            self.count(piece.len() as u64);
        }
    }

    /// How many bytes may be passed on before the next look at the fault.
    fn most(&self) -> usize {
        match self.fault {
            Some(Fault::CutAfter { sent_bytes } | Fault::StallAfter { sent_bytes }) if !self.to_server => {
                usize::try_from(sent_bytes.saturating_sub(self.at)).unwrap_or(usize::MAX).min(PIECE_BYTES)
            }
            // A twentieth of a second's worth.
            Some(Fault::Slow { bytes_per_s }) => (bytes_per_s as usize / 20).clamp(1, PIECE_BYTES),
            _ => PIECE_BYTES,
        }
    }

    fn damage(&mut self, piece: &mut [u8]) {
        let at_byte = match self.fault {
            Some(Fault::FlippedBit { at_byte }) if !self.to_server => at_byte,
            Some(Fault::FlippedBitSent { at_byte }) if self.to_server => at_byte,
            _ => return,
        };
        let place = at_byte.checked_sub(self.at).and_then(|place| usize::try_from(place).ok());
        if let Some(byte) = place.and_then(|place| piece.get_mut(place))
            && self.shared.happens()
        {
            *byte ^= 1;
        }
    }

    fn count(&mut self, passed_bytes: u64) {
        self.at += passed_bytes;
        self.shared.count(|counts| {
            *(if self.to_server { &mut counts.sent_bytes } else { &mut counts.answered_bytes }) += passed_bytes;
        });
    }

    /// Waits as long as these bytes take, before they are sent.
    async fn keep_pace(&mut self, sink: &mut (impl AsyncWrite + Unpin), len_bytes: usize) -> io::Result<()> {
        let Some(Fault::Slow { bytes_per_s }) = self.fault else { return Ok(()) };
        if len_bytes > 0 && self.at == 0 && !self.shared.happens() {
            self.fault = None;
            return Ok(());
        }
        sink.flush().await?;
        tokio::time::sleep(Duration::from_secs_f64(len_bytes as f64 / f64::from(bytes_per_s.max(1)))).await;
        Ok(())
    }
}

/// Reads a body to its end for nobody.
async fn drain(mut body: Body, source: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut piece = Vec::new();
    loop {
        body.next(source, PIECE_BYTES, &mut piece).await?;
        if piece.is_empty() {
            return Ok(());
        }
    }
}
