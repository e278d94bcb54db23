//! The control socket: whole messages (`SOCK_SEQPACKET`), descriptors beside them, and who is at the other end.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recv, recvmsg, sendmsg, socket, sockopt,
};

/// Longest message in bytes, either way.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Most descriptors beside one message.
pub const DESCRIPTORS_MAX: usize = 4;
/// Descriptors that the kernel lets anybody send with one message (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;

/// Who is at the other end, as the kernel vouches for it at the time of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: i32,
}

/// Makes a listening socket at `path`, which must not exist.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags(true), None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(1024)?)?;
    Ok(fd)
}

/// Takes the next waiting connection of a non-blocking listener; the result is non-blocking too.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), flags(true))?;
    // SAFETY: `accept4` just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects to the socket at `path`; the result blocks.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags(false), None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn flags(nonblocking: bool) -> SockFlag {
    let extra = if nonblocking { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    SockFlag::SOCK_CLOEXEC | extra
}

/// Who is at the other end.
pub fn peer(fd: impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
}

/// A descriptor of the process at the other end, which becomes readable when that process ends.
pub fn peer_pidfd(fd: impl AsFd) -> io::Result<OwnedFd> {
    match getsockopt(&fd, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(pidfd),
        // Before Linux 6.5 only the number is to be had. It may have been given to another process since the connection
        // was made; the end of file on the socket, the other trigger, then comes at once.
        Err(_) => pidfd_open(peer(fd)?.pid),
    }
}

/// A descriptor of this process, to see whether the kernel has pidfds.
pub(crate) fn pidfd_of_self() -> io::Result<OwnedFd> {
    pidfd_open(nix::unistd::getpid().as_raw())
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::other("descriptor out of range"))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one message with its descriptors, whole or not at all.
pub fn send(fd: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(fd, message, descriptors, MsgFlags::MSG_NOSIGNAL)
}

fn send_with(fd: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>], how: MsgFlags) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let with = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &with };
    let sent = sendmsg::<()>(fd.as_fd().as_raw_fd(), &[IoSlice::new(message)], control, how, None)?;
    if sent == message.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "message cut short")) }
}

/// As [`send`], but an error of kind `WouldBlock` when the other side has to read first, on a blocking socket too.
pub fn send_now(fd: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let how = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    if !descriptors.is_empty() {
        return send_with(fd, message, descriptors, how);
    }
    let sent = nix::sys::socket::send(fd.as_fd().as_raw_fd(), message, how)?;
    if sent == message.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "message cut short")) }
}

/// Receives one message into `buffer`; returns its length (0 at the end of the stream) and its descriptors.
///
/// A message longer than the buffer or with more descriptors than [`DESCRIPTORS_MAX`] is an error, and its descriptors
/// are closed.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(fd, buffer, MsgFlags::empty())
}

/// As [`receive`], but an error of kind `WouldBlock` when no message is there, on a blocking socket too.
pub fn receive_now(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with(fd, buffer, MsgFlags::MSG_DONTWAIT)
}

fn receive_with(fd: impl AsFd, buffer: &mut [u8], how: MsgFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    // Room for all that the kernel lets anybody send: what does not fit would stay open in this process, unknown to it.
    let mut space = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(fd.as_fd().as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC | how)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for raw in received {
                // SAFETY: the kernel just installed this descriptor for us, and nobody else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message too long, or with too many descriptors"));
    }
    Ok((message.bytes, descriptors))
}

/// Receives one message of bytes alone, without waiting: an error of kind `WouldBlock` when none is there. Descriptors
/// beside it never enter this process; a message longer than the buffer is an error.
pub fn receive_bytes(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // With MSG_TRUNC the call returns the message's real length.
    let len = recv(fd.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)?;
    if len > buffer.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes is too long")));
    }
    Ok(len)
}

/// Memory of messages that were sent and that the other side has not received, as the kernel accounts it.
pub fn unread_bytes(fd: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, for which `bytes` is a valid place.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Waits until a message can be received. `None` waits for ever. Returns false when the time ran out.
pub fn wait_readable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    wait_for(fd, PollFlags::POLLIN, timeout)
}

/// Waits until a message can be sent. `None` waits for ever. Returns false when the time ran out.
pub fn wait_writable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    wait_for(fd, PollFlags::POLLOUT, timeout)
}

fn wait_for(fd: impl AsFd, what: PollFlags, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = match timeout {
        None => PollTimeout::NONE,
        // Rounded up, so that a deadline less than a millisecond away is not a busy loop.
        Some(left) => PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
    };
    let mut fds = [PollFd::new(fd.as_fd(), what)];
    match poll(&mut fds, timeout) {
        Ok(n) => Ok(n > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::socketpair;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn too_many_descriptors_are_an_error_and_none_stays_open() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        for count in [DESCRIPTORS_MAX + 1, SCM_MAX_FD] {
            let (read, write) = nix::unistd::pipe().unwrap();
            let raw = vec![write.as_raw_fd(); count];
            let parts = [IoSlice::new(b"x")];
            let beside = [ControlMessage::ScmRights(&raw)];
            sendmsg::<()>(theirs.as_raw_fd(), &parts, &beside, MsgFlags::empty(), None).unwrap();
            drop(write);
            let error = receive(&ours, &mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // The pipe ends only when nobody has its other side open any more.
            assert_eq!(File::from(read).read(&mut [0; 1]).unwrap(), 0);
        }
    }
}
