//! Runs a SeaweedFS that has files of a directory, for `scripts/demo`.
//!
//!   seaweedfs DIR LIST URL    LIST: on each line a length, a space, and a name below DIR; URL: `s3://larder-open/PREFIX`
//!
//! Prints the variables with which an agent finds it, one a line, then `ready`. Ends with its standard input, and leaves nothing.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's output")]

use std::error::Error;
use std::io::{Read, Write, stdin, stdout};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use larder_testbed::server::SeaweedFs;
use larder_testbed::{Server, http};

/// Requests at once.
const UPLOADS: usize = 4;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seaweedfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory, list, url] = arguments.as_slice() else { return Err("usage: seaweedfs DIR LIST URL".into()) };
    let prefix = url.strip_prefix("s3:/").ok_or("the URL begins with s3://")?;
    let list = fs::read_to_string(list)?;
    let names: Vec<&str> = list.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    let server = SeaweedFs::start()?;
    upload(server.address(), Path::new(directory), prefix, &names)?;
    for (name, value) in server.store("").environment {
        println!("{name}={value}");
    }
    println!("ready");
    stdout().flush()?;
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Puts files into the bucket that takes them without a signature.
fn upload(server: SocketAddr, directory: &Path, prefix: &str, names: &[&str]) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let some = || -> Result<(), String> {
        // Relaxed: only who takes which name is told by it.
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = fs::read(directory.join(name)).map_err(|error| format!("cannot read {name:?}: {error}"))?;
            let answer = http::request(server, "PUT", &format!("{prefix}/{}", escaped(name)), &[], &bytes);
            let answer = answer.map_err(|error| format!("cannot put {name:?}: {error}"))?;
            if !answer.is_success() {
                return Err(format!("cannot put {name:?}: status {}", answer.status));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let uploads: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(some)).collect();
        uploads.into_iter().try_for_each(|upload| upload.join().map_err(|_| "an upload has panicked".to_owned())?)
    })
}

/// A name as part of a URL.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
