//! As much of an HTTP client as it takes to make a bucket and to see that a server answers: one request a connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(20);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// Names in lower case, values without the space around them.
    pub fields: Vec<(String, String)>,
    /// All bytes until the server closed the connection, or as many as it said.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the server did what it was asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a request and reads the answer.
///
/// # Errors
/// Those of the connection; one that ends before the answer does is `UnexpectedEof`.
pub fn request(
    server: SocketAddr,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut connection = TcpStream::connect(server)?;
    connection.set_read_timeout(Some(SILENCE))?;
    connection.set_write_timeout(Some(SILENCE))?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes())?;
    connection.write_all(body)?;
    let mut received = Vec::new();
    connection.read_to_end(&mut received)?;
    parse(&received, method)
}

fn parse(received: &[u8], method: &str) -> io::Result<Answer> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&received[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse().ok());
    let status = status.ok_or(ErrorKind::InvalidData)?;
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, fields, body: received[end + 4..].to_vec() };
    if method == "HEAD" {
        return Ok(answer);
    }
    if let Some(len) = answer.field("content-length").and_then(|len| len.parse::<usize>().ok()) {
        if answer.body.len() < len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer.body.truncate(len);
    }
    Ok(answer)
}
