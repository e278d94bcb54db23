//! The verbs. Each connects, asks, and prints what it learned.

mod blocks;
mod namespaces;
mod node;
mod sink;
mod source;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use larder::{Client, Namespace, OnAbsent};
use larder_protocol::key::{check_key, check_namespace};

use crate::args::{Command, Global};
use crate::demo;
use crate::exit::Usage;
use crate::output::Output;

/// The variable that NS `-` stands for.
const NAMESPACE_VARIABLE: &str = "LARDER_NAMESPACE";

/// Runs one verb.
pub(crate) fn run(command: Command, global: &Global, output: &Output) -> Result<()> {
    let output = *output;
    match command {
        Command::Ping => node::ping(&connect(global)?, output),
        Command::Stat => node::stat(&connect(global)?, output),
        Command::Pins => node::pins(&connect(global)?, output),
        Command::Resize { capacity } => node::resize(&connect(global)?, capacity, output),
        Command::Put { at, file } => blocks::put(&at, &file, global, output),
        Command::Get { at, output: file } => blocks::get(&at, file.as_deref(), global, output),
        Command::Fetch { at, url, output: file } => blocks::fetch(&at, &url, file.as_deref(), global, output),
        Command::Wait { at } => blocks::wait(&at, global, output),
        Command::Ls { namespace, prefix, direct } => {
            blocks::list(&namespace, prefix.as_deref(), direct, global, output)
        }
        Command::Rm { at } => blocks::remove(&at, global, output),
        Command::Sync { namespace } => blocks::sync(&namespace, global, output),
        Command::Clear { namespace } => blocks::clear(&namespace, global, output),
        Command::Ns(command) => namespaces::run(command, global, output),
        Command::Demo(args) => demo::run(&args, output),
        Command::DemoProcess(args) => demo::process(args, global),
    }
}

/// Connects to the agent. Without one a command has nothing to do, whatever `LARDER_ON_ABSENT` says to programs.
fn connect(global: &Global) -> Result<Client> {
    let mut builder = Client::builder().on_absent(OnAbsent::Error);
    if let Some(socket) = &global.socket {
        builder = builder.socket(socket);
    }
    if let Some(timeout) = global.timeout {
        builder = builder.timeout(timeout);
    }
    Ok(builder.connect()?)
}

/// The name that NS gives.
fn namespace_name(given: &OsStr) -> Result<String> {
    let name = match (given.to_str(), std::env::var_os(NAMESPACE_VARIABLE)) {
        (Some("-"), Some(name)) if !name.is_empty() => text(&name, NAMESPACE_VARIABLE)?,
        (Some("-"), _) => {
            let why = format!("the namespace `-` stands for {NAMESPACE_VARIABLE}, which is not set");
            return Err(Usage(why).into());
        }
        _ => text(given, "the namespace's name")?,
    };
    // Its form is that of a key, and so are the words for what is wrong with it.
    check_namespace(&name).map_err(|error| Usage(format!("the namespace {name:?} has no legal name: {error}")))?;
    Ok(name)
}

/// The key that an argument gives.
fn legal_key(given: &OsStr) -> Result<String> {
    let key = text(given, "the key")?;
    check_key(&key).map_err(|error| Usage(error.to_string()))?;
    Ok(key)
}

/// An argument as the UTF-8 that keys and names are.
fn text(given: &OsStr, what: &str) -> Result<String> {
    match std::str::from_utf8(given.as_bytes()) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(Usage(format!("{what} is not UTF-8 (bad byte at offset {})", error.valid_up_to())).into()),
    }
}

/// Connects and opens the namespace.
fn open(given: &OsStr, global: &Global) -> Result<(Client, Namespace)> {
    let name = namespace_name(given)?;
    let client = connect(global)?;
    let namespace = client.namespace(&name)?;
    Ok((client, namespace))
}
