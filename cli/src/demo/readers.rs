//! The reader processes: this program again, told over a pipe what to do, answering a line for each order.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::agent::{Agent, demo_process, end};
use super::interrupt::Interrupt;
use super::measure::{Asked, Reads, Subject, Told, Verified};

/// How many bytes a reader compares between two words on its progress.
const PROGRESS_BYTES: u64 = 16 << 20;
/// How often the demo looks whether its readers still live while they work.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What readers are told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    Ask,
    Verify,
    Hits { ms: u64 },
    InPlace { ms: u64 },
    Files { ms: u64 },
}

/// What a reader answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Ready { blocks: u64 },
    Progress { bytes: u64 },
    Asked(Asked),
    Verified(Verified),
    Reads(Reads),
    Failed(String),
}

/// A running reader.
#[derive(Debug)]
struct Reader {
    child: Child,
    /// Closed to end it.
    orders: Option<ChildStdin>,
    answers: ChildStdout,
    /// The beginning of a line whose rest has not come yet.
    partial: Vec<u8>,
}

/// All readers.
#[derive(Debug)]
pub(super) struct Readers(Vec<Reader>);

impl Readers {
    /// Starts `count` readers, and waits until each knows `blocks` keys.
    pub(super) fn start(
        count: u32,
        agent: &Agent,
        namespace: &str,
        told: &Told,
        blocks: u64,
        interrupt: &Interrupt,
    ) -> Result<Readers> {
        let mut arguments: Vec<OsString> = vec!["reader".into(), "--namespace".into(), namespace.into()];
        arguments.extend(["--loaded-at-ns".into(), told.loaded_at_ns.to_string().into()]);
        if let Some(root) = &told.root {
            arguments.extend(["--root".into(), root.into()]);
        }
        if let Some(origin) = &told.origin {
            arguments.extend(["--origin".into(), origin.prefix().into()]);
        }
        if !told.known.is_empty() {
            let known = agent.directory().join(format!("known-{namespace}.json"));
            fs::write(&known, serde_json::to_vec(&told.known)?).context("cannot tell the readers their keys")?;
            arguments.extend(["--known".into(), known.into()]);
        }
        let mut readers = Readers(Vec::new());
        for _ in 0..count {
            let mut child = demo_process()?
                .arg("--socket")
                .arg(agent.socket())
                .args(&arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a reader")?;
            let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
                bail!("a reader has no pipes");
            };
            readers.0.push(Reader { child, orders: Some(orders), answers, partial: Vec::new() });
        }
        for answer in readers.collect(interrupt, |_| {})? {
            match answer {
                Answer::Ready { blocks: found } if found == blocks => {}
                Answer::Ready { blocks: found } => bail!("a reader finds {found} keys where there are {blocks}"),
                other => bail!("a reader began with {other:?}"),
            }
        }
        Ok(readers)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|reader| reader.child.id())
    }

    /// Lets all ask for every key, at the same time.
    pub(super) fn ask_all(&mut self, interrupt: &Interrupt, progress: impl FnMut(u64)) -> Result<Vec<Asked>> {
        self.order(Order::Ask)?;
        let asked = |answer| match answer {
            Answer::Asked(asked) => Ok(asked),
            other => bail!("a reader answered {other:?}"),
        };
        self.collect(interrupt, progress)?.into_iter().map(asked).collect()
    }

    /// Lets all compare every block with its file, at the same time.
    pub(super) fn verify(&mut self, interrupt: &Interrupt, progress: impl FnMut(u64)) -> Result<Vec<Verified>> {
        self.order(Order::Verify)?;
        let verified = |answer| match answer {
            Answer::Verified(verified) => Ok(verified),
            other => bail!("a reader answered {other:?}"),
        };
        self.collect(interrupt, progress)?.into_iter().map(verified).collect()
    }

    /// Lets all read, at the same time.
    pub(super) fn read(&mut self, order: Order, interrupt: &Interrupt) -> Result<Vec<Reads>> {
        self.order(order)?;
        let reads = |answer| match answer {
            Answer::Reads(reads) => Ok(reads),
            other => bail!("a reader answered {other:?}"),
        };
        self.collect(interrupt, |_| {})?.into_iter().map(reads).collect()
    }

    fn order(&mut self, order: Order) -> Result<()> {
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        for orders in self.0.iter_mut().filter_map(|reader| reader.orders.as_mut()) {
            orders.write_all(&line).context("a reader has ended")?;
        }
        Ok(())
    }

    /// One answer of each reader, in their order.
    fn collect(&mut self, interrupt: &Interrupt, mut progress: impl FnMut(u64)) -> Result<Vec<Answer>> {
        let mut collected: Vec<Option<Answer>> = vec![None; self.0.len()];
        while collected.iter().any(Option::is_none) {
            let sources: Vec<BorrowedFd<'_>> = self.0.iter().map(|reader| reader.answers.as_fd()).collect();
            let ready = interrupt.wait(&sources, LOOK_AGAIN)?;
            for (reader, slot) in self.0.iter_mut().zip(&mut collected).zip(ready).filter_map(|(r, ok)| ok.then_some(r))
            {
                for answer in reader.receive()? {
                    match answer {
                        Answer::Progress { bytes } => progress(bytes),
                        Answer::Failed(why) => bail!("a reader failed: {why}"),
                        other => *slot = Some(other),
                    }
                }
            }
        }
        Ok(collected.into_iter().flatten().collect())
    }
}

impl Reader {
    /// The whole lines that have come. One `read` never blocks after the pipe was found readable.
    fn receive(&mut self) -> Result<Vec<Answer>> {
        let mut buffer = vec![0; 64 << 10];
        let len = match self.answers.read(&mut buffer) {
            Ok(0) => bail!("a reader ended unexpectedly"),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot read a reader's answer"),
        };
        self.partial.extend_from_slice(&buffer[..len]);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        let answers = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        answers.map(|line| serde_json::from_slice(line).context("a reader's answer makes no sense")).collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The end of its orders is the end of a reader; one in the middle of something is told by a signal.
        self.orders = None;
        end(&mut self.child, Signal::SIGTERM);
    }
}

/// The reader's side: does what it is told until its orders end.
pub(super) fn serve(subject: Result<Subject>) -> Result<()> {
    let mut answers = io::stdout().lock();
    let mut answer = move |answer: &Answer| -> Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        answers.write_all(&line)?;
        Ok(answers.flush()?)
    };
    let result = subject.and_then(|subject| obey(subject, &mut answer));
    match result {
        Ok(()) => Ok(()),
        // The demo says it, once and in its own words.
        Err(error) => answer(&Answer::Failed(format!("{error:#}"))),
    }
}

fn obey(mut subject: Subject, answer: &mut impl FnMut(&Answer) -> Result<()>) -> Result<()> {
    answer(&Answer::Ready { blocks: subject.blocks() })?;
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let mut unsaid = 0;
        let progress = |bytes| {
            unsaid += bytes;
            if unsaid < PROGRESS_BYTES {
                return Ok(());
            }
            answer(&Answer::Progress { bytes: std::mem::take(&mut unsaid) })
        };
        let done = match order {
            Order::Ask => Answer::Asked(subject.ask_all(progress)?),
            Order::Verify => Answer::Verified(subject.verify(progress)?),
            Order::Hits { ms } => Answer::Reads(subject.hits(Duration::from_millis(ms))?),
            Order::InPlace { ms } => Answer::Reads(subject.in_place(Duration::from_millis(ms))?),
            Order::Files { ms } => Answer::Reads(subject.files(Duration::from_millis(ms))?),
        };
        answer(&done)?;
    }
    Ok(())
}
