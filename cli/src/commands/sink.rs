//! Where `get` puts the bytes of a block: on standard output, or into a file that is there whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use crate::output::{Output, stdout_error};

/// How much is written at a time; see `source`.
const CHUNK_BYTES: usize = 4 << 20;

/// Writes the block as it is, also to a terminal: what to do with the bytes is the caller's business.
pub(crate) fn to_stdout(block: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(block).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// Writes the block into a new file beside `file`, makes it durable, and gives it the name in one step.
pub(crate) fn to_file(block: &[u8], file: &Path, output: Output) -> Result<()> {
    let name = file.display();
    let bar = output.transfer("get", block.len() as u64);
    // A link keeps pointing where it points: what it names is replaced.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let existing = match fs::metadata(&target) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot look at {name}")),
    };
    if let Some(metadata) = &existing {
        if metadata.is_dir() {
            bail!("{name} is a directory");
        }
        // Renaming over /dev/null would replace the device. What is no file takes the bytes as a stream.
        if !metadata.is_file() {
            let mut stream =
                OpenOptions::new().write(true).open(&target).with_context(|| format!("cannot write {name}"))?;
            write_in_chunks(&mut stream, block, &bar).with_context(|| format!("cannot write {name}"))?;
            bar.finish_and_clear();
            return Ok(());
        }
    }
    let directory = directory_of(&target);
    // The mode that a file made by `>` would have: the process's mask takes from it, an existing file decides it.
    let mode = existing.map_or(0o666, |metadata| metadata.permissions().mode() & 0o7777);
    let mut fresh = tempfile::Builder::new()
        .prefix(".larder-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(&directory)
        .with_context(|| format!("cannot write in {}", directory.display()))?;
    write_in_chunks(fresh.as_file_mut(), block, &bar)
        .and_then(|()| fresh.as_file().sync_all())
        .with_context(|| format!("cannot write {name}"))?;
    fresh.persist(&target).map_err(|error| error.error).with_context(|| format!("cannot rename to {name}"))?;
    // The name is in the directory, which some file systems do not let one sync; the file is whole in any case.
    let _ = File::open(&directory).and_then(|directory| directory.sync_all());
    bar.finish_and_clear();
    Ok(())
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn write_in_chunks(to: &mut File, block: &[u8], bar: &ProgressBar) -> io::Result<()> {
    for chunk in block.chunks(CHUNK_BYTES) {
        to.write_all(chunk)?;
        bar.inc(chunk.len() as u64);
    }
    Ok(())
}
