//! Reads and writes between a file and a map, without a copy in between.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::Mapping;

impl Mapping {
    /// Fills `len` bytes at `offset` of this map from `file_offset` of a file on. Fewer bytes only at the file's end: how
    /// many is returned. Panics when the map is read-only or the range outside it.
    pub fn fill_from(&self, offset: usize, len: usize, file: impl AsFd, file_offset: u64) -> io::Result<usize> {
        let start = self.writable_bytes_at(offset, len);
        let fd = file.as_fd().as_raw_fd();
        transfer(len, file_offset, |done, file_at| {
            // SAFETY: the kernel writes at most `len - done` bytes at `start + done`, which lie inside this live, writable
            // map (checked above); nothing in this process has a reference into it.
            unsafe { libc::pread(fd, start.wrapping_add(done).cast(), len - done, file_at) }
        })
    }

    /// Writes `len` bytes at `offset` of this map to a file from `file_offset` on. Panics when the range lies outside.
    pub fn write_to(&self, offset: usize, len: usize, file: impl AsFd, file_offset: u64) -> io::Result<()> {
        let start = self
            .bytes_at(offset as u64, len as u64)
            .unwrap_or_else(|| panic!("range {offset}+{len} is outside a map of {} bytes", self.len()));
        let fd = file.as_fd().as_raw_fd();
        let written = transfer(len, file_offset, |done, file_at| {
            // SAFETY: the kernel reads at most `len - done` bytes at `start + done`, which lie inside this live map.
            unsafe { libc::pwrite(fd, start.wrapping_add(done).cast(), len - done, file_at) }
        })?;
        if written == len { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// Calls `step` until `len` bytes are done or it does none.
fn transfer(len: usize, file_offset: u64, step: impl Fn(usize, libc::off_t) -> libc::ssize_t) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        let at = libc::off_t::try_from(file_offset + done as u64).map_err(|_| io::ErrorKind::InvalidInput)?;
        match usize::try_from(step(done, at)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HugePages, Memfd, Platform};
    use std::fs::File;
    use std::io::{Read, Seek};

    #[test]
    fn bytes_go_to_a_file_and_come_back() {
        let platform = Platform::detect(&[]).unwrap();
        let memfd = Memfd::create(c"file", 8192, HugePages::Off, &platform).unwrap();
        let map = Mapping::read_write(&memfd, 8192).unwrap();
        map.copy_in(100, b"larder");
        let path = std::env::temp_dir().join(format!("larder-map-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        map.write_to(100, 6, &file, 3).unwrap();
        let mut text = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"\0\0\0larder");
        assert_eq!(map.fill_from(4096, 6, &file, 3).unwrap(), 6);
        assert_eq!(map.fill_from(5000, 100, &file, 6).unwrap(), 3, "the file ends there");
        let (mut whole, mut part) = ([0; 6], [0; 4]);
        map.copy_out(4096, &mut whole);
        map.copy_out(5000, &mut part);
        assert_eq!((&whole, &part), (b"larder", b"der\0"));
    }
}
