//! The text of one value, read: a parser for each kind, and what it refuses.

use larder_protocol::units::{ByteSize, ByteSizeError};

use super::cpu_list::{CPU_NUMBER_MAX, CpuListError};
use super::store_url::StoreUrlError;
use super::{DiskCapacity, HUGE_PAGE, HugePages, Numa, Populate};

/// Why the text of one value means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It is not a size.
    #[error(transparent)]
    Size(#[from] ByteSizeError),
    /// It is not a list of CPUs.
    #[error(transparent)]
    CpuList(#[from] CpuListError),
    /// It names no store.
    #[error(transparent)]
    Store(#[from] StoreUrlError),
    /// It is not a server's URL.
    #[error("write a URL such as https://host:port, without user, password, ? or #")]
    Endpoint,
    /// It is no prefix of URLs. Not repeated: it may hold a secret.
    #[error("{0}")]
    Prefix(String),
    /// It is not a percentage.
    #[error("a percentage is a whole number from 1% to 100%")]
    Percentage,
    /// It is none of the words that are possible.
    #[error("write {accepted}")]
    Choice {
        /// The words.
        accepted: &'static str,
    },
    /// It is not a number.
    #[error("write a whole number from {min} to {max}")]
    Number {
        /// The smallest possible.
        min: u32,
        /// The largest possible.
        max: u32,
    },
    /// There is nothing.
    #[error("write a value, or leave the key out")]
    Empty,
    /// It is not text.
    #[error("it is not UTF-8")]
    NotUtf8,
}

impl ValueError {
    /// Whether the text may hold a secret that somebody wrote where it does not belong.
    pub(super) fn is_about_secret(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreUrlError::Credentials | StoreUrlError::Query) | Self::Endpoint | Self::Prefix(_)
        )
    }
}

pub(super) fn parse_capacity(text: &str, mem_total: ByteSize) -> Result<ByteSize, ValueError> {
    let Some(percentage) = text.strip_suffix('%') else {
        return Ok(text.parse()?);
    };
    let Ok(percentage) = parse_number(percentage.trim_end(), 1, 100) else {
        return Err(ValueError::Percentage);
    };
    // Down to whole segments of the smallest kind. No machine has the memory that would saturate.
    let bytes = mem_total.bytes().saturating_mul(u64::from(percentage)) / 100;
    Ok(ByteSize(bytes / HUGE_PAGE.bytes() * HUGE_PAGE.bytes()))
}

pub(super) fn parse_disk_capacity(text: &str) -> Result<DiskCapacity, ValueError> {
    match text.strip_suffix('%') {
        None => Ok(DiskCapacity::Size(text.parse()?)),
        Some(percentage) => match parse_number(percentage.trim_end(), 1, 100) {
            Ok(percentage) => Ok(DiskCapacity::Percent(percentage)),
            Err(_) => Err(ValueError::Percentage),
        },
    }
}

pub(super) fn parse_huge_pages(text: &str) -> Result<HugePages, ValueError> {
    match text {
        "off" => Ok(HugePages::Off),
        "thp" => Ok(HugePages::Thp),
        "hugetlb" => Ok(HugePages::Hugetlb),
        _ => Err(ValueError::Choice { accepted: "off, thp or hugetlb" }),
    }
}

pub(super) fn parse_populate(text: &str) -> Result<Populate, ValueError> {
    match text {
        "ahead" => Ok(Populate::Ahead),
        "all" => Ok(Populate::All),
        _ => Err(ValueError::Choice { accepted: "ahead or all" }),
    }
}

pub(super) fn parse_numa(text: &str) -> Result<Numa, ValueError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "none" => Ok(Numa::None),
        "interleave" => Ok(Numa::Interleave),
        // A number too large to parse is a node that no machine has: the check against the machine refuses both alike.
        _ if is_number => Ok(Numa::Node(text.parse().unwrap_or(CPU_NUMBER_MAX + 1))),
        _ => Err(ValueError::Choice { accepted: "none, interleave or the number of a node" }),
    }
}

pub(super) fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(ValueError::Choice { accepted: "true or false" }),
    }
}

pub(super) fn parse_number(text: &str, min: u32, max: u32) -> Result<u32, ValueError> {
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(ValueError::Number { min, max }),
    }
}

pub(super) fn parse_log(text: &str) -> Result<String, ValueError> {
    if text.is_empty() { Err(ValueError::Empty) } else { Ok(text.to_owned()) }
}
