//! A client: namespaces by name, and the agent itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::key;
use larder_protocol::message::{AgentInfo, Reply, Request};
use larder_protocol::namespace::{NamespaceInfo, NamespaceOptions};
use larder_protocol::origin::OriginKeys;
use larder_protocol::stat::{AgentStat, PinHolder};

use crate::binding::Binding;
use crate::deadline::Deadline;
use crate::discover::Discovery;
use crate::fault::Fault;
use crate::link::Link;
use crate::session::ROUNDS;
use crate::{Error, Namespace, OnAbsent};

/// A client of the node's agent. Clones are cheap and share one session; threads may share one client.
///
/// The session ends when the last clone, namespace and writer is dropped. Blocks live on. When the agent is another, or
/// after a fork, the next call begins a new session by itself.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
    timeout: Option<Duration>,
}

/// Settings of a [`Client`]. What is not set comes from the environment.
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    socket: Option<PathBuf>,
    on_absent: Option<OnAbsent>,
    agent_uid: Option<u32>,
    timeout: Option<Duration>,
    credentials: Vec<(String, OriginKeys)>,
}

impl ClientBuilder {
    /// The agent's socket. Otherwise `LARDER_SOCKET`, else the first that is there of `/run/larder/larder.sock`,
    /// `$XDG_RUNTIME_DIR/larder/larder.sock` and `/tmp/larder-<uid>/larder.sock`.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> ClientBuilder {
        self.socket = Some(path.into());
        self
    }

    /// What calls do while there is no agent. Otherwise `LARDER_ON_ABSENT` (`direct` or `error`), else
    /// [`OnAbsent::Error`].
    #[must_use]
    pub fn on_absent(mut self, on_absent: OnAbsent) -> ClientBuilder {
        self.on_absent = Some(on_absent);
        self
    }

    /// The user that the agent runs as, when it is neither root nor the caller. Otherwise `LARDER_AGENT_UID`.
    #[must_use]
    pub fn agent_uid(mut self, uid: u32) -> ClientBuilder {
        self.agent_uid = Some(uid);
        self
    }

    /// How long each call may take, connecting included; without this a call waits for as long as it takes.
    /// [`Duration::ZERO`] lets no call but [`ClientBuilder::connect`] ask the agent: see [`Namespace::with_timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.timeout = Some(timeout);
        self
    }

    /// Keys of this process's own for URLs that begin with `prefix`, by whole segments of the path (`s3://bucket/dir/`). The agent
    /// uses them for what this client fetches, keeps them in memory while the client lives, and tells nobody. What was
    /// fetched with them is a block of this user's like any other.
    #[must_use]
    pub fn credential(mut self, prefix: &str, keys: OriginKeys) -> ClientBuilder {
        self.credentials.push((prefix.to_owned(), keys));
        self
    }

    /// Connects. With [`OnAbsent::Direct`] this succeeds where there is no agent.
    pub fn connect(self) -> Result<Client, Error> {
        let on_absent = self.on_absent.map_or_else(OnAbsent::from_environment, Ok)?;
        let link = Link::new(Discovery::new(self.socket, self.agent_uid)?, on_absent, self.credentials)?;
        link.session(Deadline::after(self.timeout.filter(|timeout| !timeout.is_zero())))?;
        Ok(Client { link: Arc::new(link), timeout: self.timeout })
    }
}

impl Client {
    /// Connects with what the environment says.
    pub fn connect() -> Result<Client, Error> {
        Client::builder().connect()
    }

    /// Settings other than the environment's.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The namespace called `name`, made with default options when it is not there.
    pub fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        self.open(name, None)
    }

    /// The namespace called `name`, made with `options` when it is not there. When it is there with other options, this
    /// is an error: see [`Client::set_namespace`].
    pub fn create_namespace(&self, name: &str, options: &NamespaceOptions) -> Result<Namespace, Error> {
        self.open(name, Some(options.clone()))
    }

    fn open(&self, name: &str, options: Option<NamespaceOptions>) -> Result<Namespace, Error> {
        key::check_namespace(name)?;
        let deadline = self.deadline()?;
        let binding = Binding::new(&self.link, name, options);
        binding.bind(deadline)?;
        Ok(Namespace::new(binding, self.timeout))
    }

    /// Changes the options of a namespace that is there.
    pub fn set_namespace(&self, name: &str, options: &NamespaceOptions) -> Result<NamespaceInfo, Error> {
        key::check_namespace(name)?;
        let request = Request::SetNamespace { name: name.to_owned(), options: options.clone() };
        self.ask(&request, |reply| match reply {
            Reply::Namespace(info) => Ok(info),
            other => Err(other),
        })
    }

    /// Removes a namespace with all it holds; how many blocks that were. A handle on it makes it anew at its next call.
    pub fn remove_namespace(&self, name: &str) -> Result<u64, Error> {
        key::check_namespace(name)?;
        let request = Request::RemoveNamespace { name: name.to_owned() };
        self.ask(&request, |reply| match reply {
            Reply::Count(count) => Ok(count),
            other => Err(other),
        })
    }

    /// One namespace's options and what it holds.
    pub fn namespace_info(&self, name: &str) -> Result<NamespaceInfo, Error> {
        key::check_namespace(name)?;
        self.ask(&Request::ShowNamespace { name: name.to_owned() }, |reply| match reply {
            Reply::Namespace(info) => Ok(info),
            other => Err(other),
        })
    }

    /// All namespaces of this user, sorted by name.
    pub fn namespaces(&self) -> Result<Vec<NamespaceInfo>, Error> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let (names, cursor) = self.ask(&Request::ListNamespaces { after }, |reply| match reply {
                Reply::Names { names, cursor } => Ok((names, cursor)),
                other => Err(other),
            })?;
            let last = names.last().cloned();
            for name in names {
                match self.namespace_info(&name) {
                    // Removed since the list was made.
                    Err(Error::NoNamespace(_)) => {}
                    other => all.push(other?),
                }
            }
            match last {
                Some(last) if cursor != 0 => after = last,
                _ => return Ok(all),
            }
        }
    }

    /// Asks the agent who it is.
    pub fn ping(&self) -> Result<AgentInfo, Error> {
        self.ask(&Request::Ping, |reply| match reply {
            Reply::Pong(info) => Ok(info),
            other => Err(other),
        })
    }

    /// The agent's figures.
    pub fn stat(&self) -> Result<AgentStat, Error> {
        self.ask(&Request::Stat, |reply| match reply {
            Reply::Stat(stat) => Ok(*stat),
            other => Err(other),
        })
    }

    /// Who holds blocks.
    pub fn pins(&self) -> Result<Vec<PinHolder>, Error> {
        self.ask(&Request::Pins, |reply| match reply {
            Reply::Pins(holders) => Ok(holders),
            other => Err(other),
        })
    }

    /// Changes the node's capacity. For root and the agent's own user.
    pub fn resize(&self, capacity_bytes: u64) -> Result<(), Error> {
        self.ask(&Request::Resize { capacity: capacity_bytes }, |reply| match reply {
            Reply::Done => Ok(()),
            other => Err(other),
        })
    }

    fn deadline(&self) -> Result<Deadline, Error> {
        match self.timeout {
            Some(Duration::ZERO) => Err(Error::NotResident),
            timeout => Ok(Deadline::after(timeout)),
        }
    }

    /// Asks the agent something that does not depend on a namespace's incarnation; there must be an agent.
    fn ask<T>(&self, request: &Request, read: impl Fn(Reply) -> Result<T, Reply>) -> Result<T, Error> {
        let deadline = self.deadline()?;
        for _ in 0..ROUNDS {
            let Some(session) = self.link.session(deadline)? else {
                return Err(self.link.no_agent());
            };
            match session.channel().call(request.clone(), deadline) {
                Ok(response) => return read(response.reply).map_err(|other| Fault::unexpected(&other).into()),
                Err(Fault::Lost) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(Error::Busy)
    }
}
