//! How much of a disk the tier there may use.

use std::fmt;

use larder_protocol::units::ByteSize;

/// A size, or a share of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCapacity {
    /// So many bytes.
    Size(ByteSize),
    /// So many percent of the whole file system, used or not: 1 to 100.
    Percent(u32),
}

impl DiskCapacity {
    /// The capacity on a file system of this size.
    pub fn bytes(self, file_system_bytes: u64) -> u64 {
        match self {
            DiskCapacity::Size(size) => size.bytes(),
            // Divided first where the product would not fit, at the cost of a fraction.
            DiskCapacity::Percent(percent) => file_system_bytes
                .checked_mul(percent.into())
                .map_or(file_system_bytes / 100 * u64::from(percent), |product| product / 100),
        }
    }
}

impl fmt::Display for DiskCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskCapacity::Size(size) => size.fmt(f),
            DiskCapacity::Percent(percent) => f.pad(&format!("{percent}%")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_whole_file_system() {
        assert_eq!(DiskCapacity::Size(ByteSize::mib(7)).bytes(1), 7 << 20);
        assert_eq!(DiskCapacity::Percent(100).bytes(12_345), 12_345);
        assert_eq!(DiskCapacity::Percent(33).bytes(1000), 330);
        assert_eq!(DiskCapacity::Percent(50).bytes(u64::MAX), u64::MAX / 100 * 50);
    }
}
