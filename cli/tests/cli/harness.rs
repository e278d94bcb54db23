//! Starts an agent for one test and runs the command against it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything that a test waits for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent with a directory of its own, ended with the test.
pub(crate) struct Agent {
    child: Child,
    directory: TempDir,
}

/// What a run of the command left.
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Run {
        Run {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a run that must have gone well.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""));
        String::from_utf8(self.stdout).expect("standard output is text")
    }

    /// The document of a run that must have gone well.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Checks that the run ended with `status`, nothing on standard output, and one line that says `why`.
    #[track_caller]
    pub(crate) fn fails(self, status: i32, why: &str) {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert!(self.stdout.is_empty());
        assert!(self.stderr.starts_with("larder: ") && self.stderr.contains(why), "{:?} in {:?}", why, self.stderr);
        assert_eq!(self.stderr.matches('\n').count(), 1, "{:?}", self.stderr);
    }
}

/// The command, away from whatever agent the machine may have.
pub(crate) fn larder() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    for name in ["LARDER_SOCKET", "LARDER_NAMESPACE", "LARDER_ON_ABSENT", "LARDER_CONFIG", "LARDER_AGENT_UID"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

#[expect(clippy::print_stdout, reason = "a test says on standard output that it is skipped")]
fn skipped(why: &str) {
    println!("SKIPPED: {why}");
}

/// `larderd` where cargo puts it, beside the directory of the tests.
pub(crate) fn larderd() -> Option<PathBuf> {
    let own = std::env::current_exe().expect("a test knows its own program");
    let larderd = own.parent()?.parent()?.join("larderd");
    if !larderd.is_file() {
        skipped(&format!("{} is not built; `cargo build -p larder-agent` builds it", larderd.display()));
        return None;
    }
    Some(larderd)
}

impl Agent {
    /// Starts an agent, or says that the test is skipped.
    pub(crate) fn start(capacity: &str) -> Option<Agent> {
        let larderd = larderd()?;
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let mut command = Command::new(larderd);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LARDER_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["--capacity", capacity, "--log", "warn", "--socket"])
            .arg(directory.path().join("larder.sock"))
            .stdin(Stdio::null())
            .spawn()
            .expect("larderd starts");
        let agent = Agent { child, directory };
        wait_until("the agent answers", || agent.run(["ping"]).status == 0);
        Some(agent)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("larder.sock")
    }

    /// The directory of the socket, where a test may put its files too.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command, told of this agent.
    pub(crate) fn command(&self) -> Command {
        let mut command = larder();
        command.env("LARDER_SOCKET", self.socket());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command().args(args).output().expect("larder starts"))
    }

    /// Runs the command with `input` on its standard input.
    pub(crate) fn run_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Run {
        let mut command = self.command();
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("larder starts");
        let mut stdin = child.stdin.take().expect("it was piped");
        // The command may stop reading when it has seen too much.
        let _ = stdin.write_all(input);
        drop(stdin);
        Run::of(child.wait_with_output().expect("larder ends"))
    }

    /// Puts bytes under a key of namespace `t`.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.run_with(["-q", "put", "t", key, "-"], bytes).text();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a child, and kills it when it does not end.
#[track_caller]
pub(crate) fn wait_for(child: &mut Child) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code().unwrap_or(-1);
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the command did not end within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks that a document has exactly these fields (`a.b` for nested ones), each described in docs/cli.md.
#[track_caller]
pub(crate) fn check_fields(document: &Value, fields: &str) {
    let mut found = BTreeSet::new();
    flatten("", document, &mut found);
    let expected: BTreeSet<String> = fields.split_whitespace().map(str::to_owned).collect();
    assert_eq!(found, expected);
    let documented =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")).expect("docs/cli.md is there");
    for field in expected {
        // `skipped.x` is documented as `x` beside `skipped`.
        let last = field.strip_prefix("skipped.").unwrap_or(&field);
        assert!(documented.contains(&format!("`{last}`")), "docs/cli.md does not describe `{field}`");
    }
}

fn flatten(prefix: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, value, into);
            }
        }
        _ => {
            into.insert(prefix.to_owned());
        }
    }
}
