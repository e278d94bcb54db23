//! Requests and replies over one socket that all threads of a session share.
//!
//! A request has a number, and its reply carries the number back. Nobody reads the socket for the others all the time:
//! whoever waits and finds nobody reading becomes the reader. It hands over what is for others, and when it has what it
//! waited for it wakes another waiter, who reads on. So a thread that is alone pays for one send and one receive.
//!
//! A payload in staging stays with its request until the reply to that request has come, even when the caller has long
//! given up: the agent may still be going to read it.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use larder_protocol::fork;
use larder_protocol::message::{self, Answer, Envelope, NO_TIMEOUT, Refusal, Reply, Request};
use larder_protocol::ring::Pushed;
use larder_protocol::socket::{self, MESSAGE_LEN_MAX};
use larder_protocol::view::StagingRange;

use crate::Error;
use crate::deadline::{Deadline, Passed};
use crate::fault::Fault;
use crate::rings::{Rings, Seen};

/// How long a message may take that nobody waits for.
const TELL_AT_MOST: Duration = Duration::from_secs(1);

/// A reply with what came beside it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The socket of a session.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    /// The process that made the channel.
    process: u64,
    numbers: AtomicU64,
    state: Mutex<State>,
    /// Whether `state.over` is set, for those who only want to know that.
    over: AtomicBool,
    /// Only the thread that reads uses it.
    buffer: Mutex<Vec<u8>>,
    /// The way through shared memory, where the agent may spin.
    rings: OnceLock<Rings>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether a thread is reading the socket.
    reading: bool,
    over: Option<Over>,
    requests: HashMap<u64, Progress>,
    parked: HashMap<u64, Parked>,
}

/// Why the channel carries nothing any more.
#[derive(Debug)]
enum Over {
    Ended,
    Failed(Error),
}

impl Over {
    fn broken(message: String) -> Over {
        Over::Failed(Error::Agent(message))
    }
}

#[derive(Debug)]
enum Progress {
    /// No reply yet. The payload stays where it is until then.
    UnderWay(Option<StagingRange>),
    Answered(Response),
    /// Nobody waits any more, but the agent may still read the payload.
    Abandoned(#[expect(dead_code, reason = "held, and dropped when the reply comes")] StagingRange),
}

#[derive(Debug)]
struct Parked {
    thread: Thread,
    wants_room: bool,
}

impl State {
    fn deliver(&mut self, answer: Answer, descriptors: Vec<OwnedFd>) {
        // A reply that nobody waits for is dropped here, and its descriptors are closed.
        let room = match self.requests.remove(&answer.id) {
            Some(Progress::UnderWay(payload)) => {
                let response = Response { reply: answer.reply, descriptors };
                self.requests.insert(answer.id, Progress::Answered(response));
                if let Some(parked) = self.parked.get(&answer.id) {
                    parked.thread.unpark();
                }
                payload.is_some()
            }
            Some(Progress::Abandoned(_)) => true,
            Some(Progress::Answered(_)) | None => false,
        };
        if room {
            self.tell_of_room();
        }
    }

    fn tell_of_room(&self) {
        self.parked.values().filter(|parked| parked.wants_room).for_each(|parked| parked.thread.unpark());
    }

    /// Makes sure that somebody reads on, if anybody waits.
    fn pass_on(&self) {
        if !self.reading
            && let Some(parked) = self.parked.values().next()
        {
            parked.thread.unpark();
        }
    }

    fn fault(&self) -> Option<Fault> {
        self.over.as_ref().map(|over| match over {
            Over::Ended => Fault::Lost,
            Over::Failed(error) => Fault::Final(error.clone()),
        })
    }
}

impl Channel {
    /// Takes over a connected socket. Forks must be watched already.
    pub(crate) fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            process: fork::process(),
            numbers: AtomicU64::new(1),
            state: Mutex::default(),
            over: AtomicBool::new(false),
            buffer: Mutex::default(),
            rings: OnceLock::new(),
        }
    }

    /// Whether this process is a child of the one that made the channel: it must leave the socket alone.
    pub(crate) fn is_inherited(&self) -> bool {
        fork::process() != self.process
    }

    /// Whether nothing goes through any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.is_inherited()
    }

    /// Gives the channel up: the two sides no longer agree about what was sent.
    pub(crate) fn abandon(&self) {
        self.end(&mut self.lock(), Over::Ended);
    }

    fn end(&self, state: &mut State, over: Over) {
        state.over.get_or_insert(over);
        self.over.store(true, Ordering::Release);
        // Whoever is reading without a deadline learns of it by the end of the stream.
        if let Ok(socket) = self.socket.try_clone() {
            let _ = UnixStream::from(socket).shutdown(Shutdown::Both);
        }
        state.parked.values().for_each(|parked| parked.thread.unpark());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(&self, request: Request, deadline: Deadline) -> Result<Response, Fault> {
        self.begin(request, None, deadline)?.wait(deadline)
    }

    /// Sends a request with a descriptor beside it, and waits for its reply.
    pub(crate) fn call_with(
        &self,
        request: Request,
        descriptor: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<Response, Fault> {
        // Said before, since the agent looks for descriptors beside no other message.
        self.tell(Request::FileFollows);
        self.begin_with(request, None, &[descriptor], deadline)?.wait(deadline)
    }

    /// Sends a request whose payload, if it has one, lies in staging. Returns at once.
    pub(crate) fn begin(
        &self,
        request: Request,
        payload: Option<StagingRange>,
        deadline: Deadline,
    ) -> Result<Ticket<'_>, Fault> {
        self.begin_with(request, payload, &[], deadline)
    }

    fn begin_with(
        &self,
        request: Request,
        payload: Option<StagingRange>,
        descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<Ticket<'_>, Fault> {
        if self.is_inherited() {
            return Err(Fault::Lost);
        }
        let timeout_ms = match deadline.timeout_ms() {
            0 if payload.is_none() => return Err(Fault::Final(Error::Deadline)),
            // What is in staging is always sent, so that staging comes free by a reply, which is what others wait for.
            left => left.max(1),
        };
        let number = self.number();
        {
            let mut state = self.lock();
            if let Some(fault) = state.fault() {
                return Err(fault);
            }
            state.requests.insert(number, Progress::UnderWay(payload));
        }
        let ticket = Ticket { channel: self, number };
        if let Err(fault) = self.send(&Envelope { id: number, timeout_ms, request }, descriptors, deadline) {
            // Never sent, so no reply will free its payload.
            self.lock().requests.remove(&number);
            return Err(fault);
        }
        Ok(ticket)
    }

    /// Sends a request whose answer, if there is one, nobody needs.
    pub(crate) fn tell(&self, request: Request) {
        if !self.is_inherited() {
            // A channel that is over has told the agent more than this would.
            let envelope = Envelope { id: self.number(), timeout_ms: NO_TIMEOUT, request };
            let _ = self.send(&envelope, &[], Deadline::after(Some(TELL_AT_MOST)));
        }
    }

    fn send(&self, envelope: &Envelope, descriptors: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), Fault> {
        let message = message::encode_request(envelope);
        if let Some(rings) = self.rings.get().filter(|_| Rings::takes(&envelope.request)) {
            match rings.push(&message) {
                Pushed::Seen => return Ok(()),
                Pushed::Wake => {
                    let doorbell = Envelope { id: 0, timeout_ms: NO_TIMEOUT, request: Request::Doorbell };
                    return self.send(&doorbell, &[], deadline);
                }
                Pushed::No => {}
            }
        }
        loop {
            match socket::send_now(&self.socket, &message, descriptors) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The agent reads no further for now: it is stopped, or has much to do.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.left()?;
                    socket::wait_writable(&self.socket, left).map_err(Error::from)?;
                }
                // The agent is gone. What it said last may still be there to read, so whoever waits finds the end.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Ok(());
                }
                Err(error) => {
                    let mut state = self.lock();
                    self.end(&mut state, Over::broken(format!("a request could not be sent: {error}")));
                    return Err(state.fault().unwrap_or(Fault::Lost));
                }
            }
        }
    }

    /// Waits until `take` yields something; it is asked again whenever a payload has left staging.
    pub(crate) fn wait_for_room<T>(&self, deadline: Deadline, mut take: impl FnMut() -> Option<T>) -> Result<T, Fault> {
        self.wait_until(self.number(), true, deadline, |_| take())
    }

    /// A range of staging was given back without a message.
    pub(crate) fn tell_of_room(&self) {
        self.lock().tell_of_room();
    }

    fn wait_until<T>(
        &self,
        number: u64,
        wants_room: bool,
        deadline: Deadline,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Fault> {
        if self.is_inherited() {
            return Err(Fault::Lost);
        }
        let mut state = self.lock();
        let outcome = loop {
            if let Some(found) = ready(&mut state) {
                break Ok(found);
            }
            if let Some(fault) = state.fault() {
                break Err(fault);
            }
            let left = match deadline.left() {
                Ok(left) => left,
                Err(passed) => break Err(passed.into()),
            };
            if state.reading {
                state.parked.insert(number, Parked { thread: thread::current(), wants_room });
                drop(state);
                match left {
                    None => thread::park(),
                    Some(left) => thread::park_timeout(left),
                }
                state = self.lock();
                state.parked.remove(&number);
            } else {
                state.reading = true;
                drop(state);
                let received = self.receive(deadline);
                state = self.lock();
                state.reading = false;
                match received {
                    Ok((answer, descriptors)) => state.deliver(answer, descriptors),
                    Err(Unread::Passed) => {}
                    Err(Unread::Over(over)) => self.end(&mut state, over),
                }
            }
        };
        state.pass_on();
        outcome
    }

    /// The next message from the ring or the socket; `None` when the time ran out or something else is to be looked at.
    fn next_message(&self, left: Option<Duration>, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
        let rings = self.rings.get();
        if let Some(rings) = rings
            && let Seen::Message(len, descriptors) = rings.look(&self.socket, buffer)?
        {
            return Ok(Some((len, descriptors)));
        }
        // Without a deadline the receive itself waits, which saves a system call.
        let readable = left.is_none() || socket::wait_readable(&self.socket, left)?;
        let message = if readable { socket::receive(&self.socket, buffer).map(Some) } else { Ok(None) };
        if let Some(rings) = rings {
            rings.awake();
        }
        message
    }

    /// From now on requests that may go through shared memory do.
    pub(crate) fn use_rings(&self, rings: Rings) {
        let _ = self.rings.set(rings);
    }

    /// Receives one message. Only the thread that set `reading` calls it.
    fn receive(&self, deadline: Deadline) -> Result<(Answer, Vec<OwnedFd>), Unread> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(MESSAGE_LEN_MAX, 0);
        let mut was_reset = false;
        loop {
            let left = deadline.left()?;
            match self.next_message(left, &mut buffer) {
                Ok(None) => {}
                Ok(Some((0, _))) => return Err(Unread::Over(Over::Ended)),
                Ok(Some((len, descriptors))) => {
                    if !descriptors.is_empty() {
                        self.tell(Request::Received { count: 1 });
                    }
                    return match message::decode_reply(&buffer[..len]) {
                        // An answer to nothing in particular: the agent turns the whole session down.
                        Ok(Answer { id: 0, reply: Reply::Refused(refusal) }) => {
                            Err(Unread::Over(Over::Failed(refusal.into())))
                        }
                        Ok(answer) => Ok((answer, descriptors)),
                        Err(error) => {
                            Err(Unread::Over(Over::broken(format!("a reply of the agent is broken: {error}"))))
                        }
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Told once, before what the agent said last.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !was_reset => was_reset = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why no message was received.
enum Unread {
    Passed,
    Over(Over),
}

impl From<Passed> for Unread {
    fn from(_: Passed) -> Unread {
        Unread::Passed
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Unread {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Unread::Over(Over::Ended),
            _ => Unread::Over(Over::broken(format!("no reply could be received: {error}"))),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.is_inherited() {
            // Another thread of the parent may have held staging's lock at the moment of the fork, and it will never
            // let go of it here.
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(std::mem::take(&mut state.requests));
        }
    }
}

/// A request under way. Dropping it gives up waiting, not the request.
#[derive(Debug)]
pub(crate) struct Ticket<'c> {
    channel: &'c Channel,
    number: u64,
}

impl Ticket<'_> {
    /// The request's number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the reply.
    pub(crate) fn wait(self, deadline: Deadline) -> Result<Response, Fault> {
        let response = self.channel.wait_until(self.number, false, deadline, |state| self.answered(state))?;
        match response.reply {
            Reply::Refused(refusal) => Err(Fault::Refused(refusal)),
            _ => Ok(response),
        }
    }

    /// The refusal, if it has come already.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.answered(&mut self.channel.lock())?.reply {
            Reply::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn answered(&self, state: &mut State) -> Option<Response> {
        let progress = state.requests.remove(&self.number)?;
        match progress {
            Progress::Answered(response) => Some(response),
            other => {
                state.requests.insert(self.number, other);
                None
            }
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        if let Some(Progress::UnderWay(Some(payload))) = state.requests.remove(&self.number) {
            state.requests.insert(self.number, Progress::Abandoned(payload));
        }
    }
}

#[cfg(test)]
mod tests;
