//! A proxy before a server that does to connections what networks and overloaded services do, as it is told while it runs.

mod conversation;
mod message;
mod rule;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use self::conversation::{End, converse};
use self::rule::Shared;
pub use self::rule::{Counts, Fault, On, Rule};
use crate::port::Port;

/// Connections that the kernel takes before the proxy does.
const BACKLOG: u32 = 1024;

/// A running proxy. It works on a thread of its own, and ends with this value.
#[derive(Debug)]
pub struct FaultProxy {
    port: Port,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// One before the server at this address, which does no harm until it is told to. The server need not run yet, and may
    /// come and go.
    #[must_use]
    pub fn before(server: SocketAddr) -> FaultProxy {
        let (port, shared) = (Port::free(), Arc::new(Shared::default()));
        let (stop, stopped) = watch::channel(false);
        let worker = Worker { server, address: port.address(), shared: Arc::clone(&shared), stopped };
        // Before the thread, so that connections are taken from here on.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let first = runtime.block_on(async { listen(worker.address) }).expect("the port is held for us");
        let thread = std::thread::spawn(move || runtime.block_on(worker.run(first)));
        FaultProxy { port, shared, stop, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on it does this, and nothing else that it was told before. What it had held up ends with a reset.
    pub fn inject(&self, rule: Rule) {
        self.shared.set(Some(rule));
    }

    /// From now on it does no harm.
    pub fn heal(&self) {
        self.shared.set(None);
    }

    /// What went through it, and what it did.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What the thread has.
#[derive(Debug)]
struct Worker {
    server: SocketAddr,
    address: SocketAddr,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self, first: TcpListener) {
        let mut gone = self.shared.gone();
        let mut listener = Some(first);
        loop {
            let is_gone = *gone.borrow_and_update();
            if is_gone {
                // Without a listener the kernel refuses.
                listener = None;
            } else if listener.is_none() {
                listener = Some(listen(self.address).expect("the port is held for us"));
            }
            tokio::select! {
                _ = self.stopped.changed() => return,
                _ = gone.changed() => {}
                taken = accept(listener.as_ref()) => {
                    if let Ok(client) = taken {
                        tokio::spawn(serve(client, self.server, Arc::clone(&self.shared)));
                    }
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// One connection, until either side ends it, a rule does, or the proxy is gone.
async fn serve(mut client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let mut gone = shared.gone();
    let end = tokio::select! {
        end = converse(&mut client, server, &shared) => end,
        _ = gone.wait_for(|gone| *gone) => End::Reset,
    };
    if end == End::Reset {
        // With no time to linger the close that follows is a reset.
        let _ = client.set_zero_linger();
    }
}
