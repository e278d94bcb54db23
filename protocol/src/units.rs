//! Sizes, durations and rates as people write and read them: one parser and one printer each, so that a flag, a
//! configuration file and a table mean the same thing by `1.5 GiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Names and values of the binary units, largest first; the order is what [`ByteSize`]'s printer searches.
const BINARY_UNITS: [(&str, u64); 7] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Names and values of the decimal units, largest first.
const DECIMAL_UNITS: [(&str, u64); 6] = [
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Names of the units of time and their length in nanoseconds, largest first: a duration lists them in this order.
const TIME_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", NANOS_PER_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// More digits after the point than this could not change a result and would overflow the arithmetic.
const FRACTION_DIGITS_MAX: usize = 18;

/// An error repeats what it read, but no more than this many characters of it.
const EXCERPT_CHARS_MAX: usize = 40;

/// A number of bytes.
///
/// It reads `4096`, `64KiB`, `1.5 GiB` and `10MB`: the units with an `i` are powers of 1,024, the others powers of
/// 1,000, capitals do not matter, and a space may stand before the unit. A fraction is rounded down to a whole byte.
///
/// It prints the exact binary form where that is short (`4 GiB`, `1.5 GiB`, `1025 MiB`), and otherwise one decimal
/// rounded *down*, so that what is printed and typed back in never exceeds the value it stood for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` times 1,024 bytes.
    ///
    /// # Panics
    /// When the product does not fit in 64 bits: a wrong constant, never input.
    pub const fn kib(count: u64) -> Self {
        Self::of(count, 1 << 10)
    }

    /// `count` times 1,024² bytes.
    ///
    /// # Panics
    /// As [`ByteSize::kib`].
    pub const fn mib(count: u64) -> Self {
        Self::of(count, 1 << 20)
    }

    /// `count` times 1,024³ bytes.
    ///
    /// # Panics
    /// As [`ByteSize::kib`].
    pub const fn gib(count: u64) -> Self {
        Self::of(count, 1 << 30)
    }

    const fn of(count: u64, unit_bytes: u64) -> Self {
        match count.checked_mul(unit_bytes) {
            Some(bytes) => Self(bytes),
            None => panic!("a constant size must fit in 64 bits"),
        }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is not a size. It prints as one sentence that repeats the text and says what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{read:?} is not a size: {defect}; write bytes (4096), or a number and KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
pub struct ByteSizeError {
    read: String,
    defect: Defect,
}

impl ByteSizeError {
    /// What is wrong with the text.
    pub fn defect(&self) -> &Defect {
        &self.defect
    }
}

/// Why a text is not a duration. It prints as one sentence that repeats the text and says what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{read:?} is not a duration: {defect}; write numbers with d, h, m, s, ms, us or ns, such as 500ms, 1.5s, 1h30m"
)]
pub struct DurationError {
    read: String,
    defect: Defect,
}

impl DurationError {
    /// What is wrong with the text.
    pub fn defect(&self) -> &Defect {
        &self.defect
    }
}

/// What is wrong with a text that should be a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// There is nothing but white space.
    #[error("it is empty")]
    Empty,
    /// There is a minus sign where a number should begin.
    #[error("it is negative")]
    Negative,
    /// There is something else where a number should begin or go on.
    #[error("a number is missing before {0:?}")]
    NumberMissing(String),
    /// A duration ends in a number without a unit.
    #[error("the unit is missing")]
    UnitMissing,
    /// The word after the number is none of the units.
    #[error("{0:?} is not a unit")]
    UnknownUnit(String),
    /// A duration repeats a unit, or names a larger one after a smaller one.
    #[error("units go from large to small, each once")]
    UnitOrder,
    /// A fraction of the smallest unit, or of any but the last part of a duration, or with too many digits.
    #[error("that fraction is not possible")]
    Fraction,
    /// The value does not fit in 64 bits (of bytes or of seconds).
    #[error("it does not fit in 64 bits")]
    TooLarge,
}

/// A decimal number as it was written, kept as integers so that no rounding happens before the unit is known.
struct Number {
    whole: u64,
    fraction: u64,
    /// Ten to the number of digits after the point; 1 where there was no point.
    fraction_scale: u64,
}

impl Number {
    /// Splits the number off the start of `text`; returns it and what follows.
    fn split_from(text: &str) -> Result<(Self, &str), Defect> {
        if text.starts_with('-') {
            return Err(Defect::Negative);
        }
        let (digits, rest) = split_digits(text)?;
        let whole = digits.parse().map_err(|_| Defect::TooLarge)?;
        let Some(after_point) = rest.strip_prefix('.') else {
            return Ok((Self { whole, fraction: 0, fraction_scale: 1 }, rest));
        };
        let (digits, rest) = split_digits(after_point)?;
        if digits.len() > FRACTION_DIGITS_MAX {
            return Err(Defect::Fraction);
        }
        let fraction = digits.parse().map_err(|_| Defect::Fraction)?;
        let fraction_scale = digits.bytes().fold(1, |scale, _| scale * 10);
        Ok((Self { whole, fraction, fraction_scale }, rest))
    }

    fn has_fraction(&self) -> bool {
        self.fraction_scale != 1
    }

    /// The number times `unit`, rounded down. It cannot overflow: both factors fit in 64 bits.
    fn times(&self, unit: u64) -> u128 {
        let unit = u128::from(unit);
        u128::from(self.whole) * unit + u128::from(self.fraction) * unit / u128::from(self.fraction_scale)
    }
}

/// Splits the run of ASCII digits off the start of `text`, which must have one.
fn split_digits(text: &str) -> Result<(&str, &str), Defect> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Err(Defect::NumberMissing(excerpt(text)));
    }
    Ok(text.split_at(end))
}

/// The start of a text, for an error: input may be of any length.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn parse_size(text: &str) -> Result<ByteSize, Defect> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Defect::Empty);
    }
    let (number, rest) = Number::split_from(text)?;
    let name = rest.trim_start();
    let name = if name.is_empty() { "B" } else { name };
    let unit_bytes = BINARY_UNITS
        .iter()
        .chain(&DECIMAL_UNITS)
        .find_map(|&(unit, bytes)| unit.eq_ignore_ascii_case(name).then_some(bytes))
        .ok_or_else(|| Defect::UnknownUnit(excerpt(name)))?;
    if unit_bytes == 1 && number.has_fraction() {
        return Err(Defect::Fraction);
    }
    u64::try_from(number.times(unit_bytes)).map(ByteSize).map_err(|_| Defect::TooLarge)
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        parse_size(text).map_err(|defect| ByteSizeError { read: excerpt(text), defect })
    }
}

impl TryFrom<&str> for ByteSize {
    type Error = ByteSizeError;

    fn try_from(text: &str) -> Result<Self, ByteSizeError> {
        text.parse()
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let largest = BINARY_UNITS.iter().position(|&(_, unit)| bytes >= unit).unwrap_or(BINARY_UNITS.len() - 1);
        let (name, unit) = BINARY_UNITS[largest];
        let tenths = u128::from(bytes) * 10 / u128::from(unit);
        let in_tenths = format!("{}.{} {name}", tenths / 10, tenths % 10);
        if bytes.is_multiple_of(unit) {
            return f.pad(&format!("{} {name}", bytes / unit));
        }
        if tenths * u128::from(unit) == u128::from(bytes) * 10 {
            return f.pad(&in_tenths);
        }
        // 1025 MiB says more than 1.0 GiB in no more room. There is a smaller unit: whole bytes returned above.
        let (name, unit) = BINARY_UNITS[largest + 1];
        if bytes.is_multiple_of(unit) && bytes / unit <= 9_999 {
            return f.pad(&format!("{} {name}", bytes / unit));
        }
        f.pad(&in_tenths)
    }
}

/// Reads a duration: `500ms`, `2s`, `1.5s`, `10m`, `1h30m`, `7d`.
///
/// Parts go from large to small, each unit once, with or without spaces; only the last may have a fraction, which is
/// rounded down to a whole nanosecond. A number always needs its unit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    parse_parts(text).map_err(|defect| DurationError { read: excerpt(text), defect })
}

fn parse_parts(text: &str) -> Result<Duration, Defect> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(Defect::Empty);
    }
    let mut total_ns: u128 = 0;
    let mut units_left = &TIME_UNITS[..];
    // Each round uses up at least one unit, so the sum stays far below what 128 bits hold.
    while !rest.is_empty() {
        let (number, after_number) = Number::split_from(rest)?;
        let after_number = after_number.trim_start();
        let end = after_number.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(after_number.len());
        let (name, after_unit) = after_number.split_at(end);
        if name.is_empty() {
            return Err(Defect::UnitMissing);
        }
        if !TIME_UNITS.iter().any(|&(unit, _)| unit == name) {
            return Err(Defect::UnknownUnit(excerpt(name)));
        }
        let at = units_left.iter().position(|&(unit, _)| unit == name).ok_or(Defect::UnitOrder)?;
        let unit_ns = units_left[at].1;
        units_left = &units_left[at + 1..];
        rest = after_unit.trim_start();
        if number.has_fraction() && (unit_ns == 1 || !rest.is_empty()) {
            return Err(Defect::Fraction);
        }
        total_ns += number.times(unit_ns);
    }
    let seconds = u64::try_from(total_ns / u128::from(NANOS_PER_SECOND)).map_err(|_| Defect::TooLarge)?;
    let nanos = u32::try_from(total_ns % u128::from(NANOS_PER_SECOND)).map_err(|_| Defect::TooLarge)?;
    Ok(Duration::new(seconds, nanos))
}

/// Prints a duration exactly, in the form that [`parse_duration`] reads: `1h30m`, `1.5s`, `500ms`, `0s`.
///
/// A caller that wants fewer digits of a measured time rounds it first.
pub fn format_duration(duration: Duration) -> String {
    let nanos = u64::from(duration.subsec_nanos());
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}us", decimal(nanos, 1_000)),
            _ => format!("{}ms", decimal(nanos, 1_000_000)),
        };
    }
    let mut text = String::new();
    for (count, unit) in [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m")] {
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let below_minute_ns = seconds % 60 * NANOS_PER_SECOND + nanos;
    if below_minute_ns > 0 {
        text.push_str(&format!("{}s", decimal(below_minute_ns, NANOS_PER_SECOND)));
    }
    text
}

/// `value / unit` as an exact decimal without trailing zeros, where `unit` is a power of ten up to 10⁹.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{:09}", fraction * (NANOS_PER_SECOND / unit));
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Prints a rate in decimal units with one decimal: `12.3 GB/s`; below a kilobyte, whole bytes: `640 B/s`.
///
/// A rate that is no number of bytes (from a division by a time of zero, say) prints as `? B/s`.
pub fn format_rate(bytes_per_s: f64) -> String {
    if !bytes_per_s.is_finite() || bytes_per_s < 0.0 {
        return "? B/s".to_owned();
    }
    if bytes_per_s < 999.5 {
        return format!("{bytes_per_s:.0} B/s");
    }
    let mut value = bytes_per_s;
    let mut shown = String::new();
    for &(name, _) in DECIMAL_UNITS.iter().rev() {
        value /= 1_000.0;
        shown = format!("{value:.1} {name}/s");
        // 999.96 would print as 1000.0; the next unit says it better.
        if value < 999.95 {
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests;
