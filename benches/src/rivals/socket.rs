//! A stream with one receive buffer: all that a minimal client of a text protocol needs.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::BenchResult;

/// A connection over a UNIX socket.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> std::io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(socket)?, buffer: vec![0; 64 << 10], start: 0, end: 0 })
    }

    /// Sends all parts in as few system calls as the socket allows, copying none of them first.
    pub(crate) fn send(&mut self, parts: &mut [IoSlice<'_>]) -> BenchResult<()> {
        // The kernel takes at most this many parts in one call.
        const MOST_PARTS: usize = 1024;
        let mut left = parts;
        while !left.is_empty() {
            let most = left.len().min(MOST_PARTS);
            let sent = self.stream.write_vectored(&left[..most])?;
            if sent == 0 {
                return Err("the server closed the connection".into());
            }
            IoSlice::advance_slices(&mut left, sent);
        }
        Ok(())
    }

    /// Reads at least one byte more into the buffer.
    fn receive(&mut self) -> BenchResult<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err("the server closed the connection".into()),
            got => {
                self.end += got;
                Ok(())
            }
        }
    }

    /// Reads a line and hands it, without its `\r\n`, to `use_line`.
    pub(crate) fn line<T>(&mut self, use_line: impl FnOnce(&[u8]) -> BenchResult<T>) -> BenchResult<T> {
        let mut searched = self.start;
        loop {
            if let Some(at) = self.buffer[searched..self.end].iter().position(|byte| *byte == b'\n') {
                let line_end = searched + at;
                let line =
                    self.buffer[self.start..line_end].strip_suffix(b"\r").unwrap_or(&self.buffer[self.start..line_end]);
                let result = use_line(line);
                self.start = line_end + 1;
                return result;
            }
            let seen = self.end - self.start;
            self.receive()?;
            searched = self.start + seen;
        }
    }

    /// Reads exactly as many bytes as `into` holds: what is buffered first, the rest straight into place.
    pub(crate) fn bytes(&mut self, into: &mut [u8]) -> BenchResult<()> {
        let buffered = into.len().min(self.end - self.start);
        into[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        self.stream.read_exact(&mut into[buffered..])?;
        Ok(())
    }
}

/// Parses the decimal number at the end of a protocol line.
pub(crate) fn decimal(digits: &[u8]) -> BenchResult<usize> {
    Ok(std::str::from_utf8(digits)?.parse()?)
}
