//! Lists of CPUs or nodes as the kernel and people write them: `0-3,8`.

use super::source::excerpt;

/// The largest number a list may name: one below the most CPUs that Linux can be built for. It also bounds the memory
/// that a list can ask for.
pub const CPU_NUMBER_MAX: usize = 8_191;

/// Why a text is not a list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// The list names nothing.
    #[error("the list is empty: write numbers and ranges such as 0-3,8")]
    Empty,
    /// A part is neither a number nor a range.
    #[error("{item:?} is neither a number nor a range: write a list such as 0-3,8")]
    NotARange {
        /// The part, shortened.
        item: String,
    },
    /// A range ends before it starts.
    #[error("the range {first}-{last} runs backwards: write {last}-{first}")]
    Backwards {
        /// Where the range starts.
        first: usize,
        /// Where the range ends.
        last: usize,
    },
    /// A number is above [`CPU_NUMBER_MAX`].
    #[error("{item:?} is above the largest number of a CPU, {CPU_NUMBER_MAX}")]
    TooLarge {
        /// The number, shortened.
        item: String,
    },
}

/// Reads a list such as `0-3,8` into ascending numbers, each once.
///
/// # Errors
/// A [`CpuListError`] that names the first part that is wrong.
pub fn parse_cpu_list(text: &str) -> Result<Vec<usize>, CpuListError> {
    if text.trim().is_empty() {
        return Err(CpuListError::Empty);
    }
    let mut named = vec![false; CPU_NUMBER_MAX + 1];
    for item in text.split(',') {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (parse_number(first, item)?, parse_number(last, item)?),
            None => {
                let number = parse_number(item, item)?;
                (number, number)
            }
        };
        if last < first {
            return Err(CpuListError::Backwards { first, last });
        }
        named[first..=last].fill(true);
    }
    Ok(named.iter().enumerate().filter_map(|(number, &is_named)| is_named.then_some(number)).collect())
}

fn parse_number(text: &str, item: &str) -> Result<usize, CpuListError> {
    let digits = text.trim();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpuListError::NotARange { item: excerpt(item.trim()) });
    }
    match digits.parse() {
        Ok(number) if number <= CPU_NUMBER_MAX => Ok(number),
        _ => Err(CpuListError::TooLarge { item: excerpt(digits) }),
    }
}

/// Prints ascending numbers as a list with ranges: `0-3,8`.
pub fn format_cpu_list(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        _ => run[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_sorted_and_without_repeats() {
        assert_eq!(parse_cpu_list("0-3,8"), Ok(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("8, 2 - 3,3,2\n"), Ok(vec![2, 3, 8]));
        assert_eq!(parse_cpu_list("8191"), Ok(vec![8_191]));
        assert_eq!(format_cpu_list(&[0, 1, 2, 3, 8]), "0-3,8");
        assert_eq!(format_cpu_list(&[0, 1]), "0-1");
        assert_eq!(format_cpu_list(&[]), "");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let not_a_range = |item: &str| Err(CpuListError::NotARange { item: item.to_owned() });
        assert_eq!(parse_cpu_list(" "), Err(CpuListError::Empty));
        assert_eq!(parse_cpu_list("0,,1"), not_a_range(""));
        assert_eq!(parse_cpu_list("0,1,"), not_a_range(""));
        assert_eq!(parse_cpu_list("all"), not_a_range("all"));
        assert_eq!(parse_cpu_list("-1"), not_a_range("-1"));
        assert_eq!(parse_cpu_list("1-2-3"), not_a_range("1-2-3"));
        assert_eq!(parse_cpu_list("+1"), not_a_range("+1"));
        assert_eq!(parse_cpu_list("3-1"), Err(CpuListError::Backwards { first: 3, last: 1 }));
        assert_eq!(parse_cpu_list("0-8192"), Err(CpuListError::TooLarge { item: "8192".to_owned() }));
        let huge = "9".repeat(30);
        assert_eq!(parse_cpu_list(&huge), Err(CpuListError::TooLarge { item: huge }));
    }

    proptest! {
        #[test]
        fn a_printed_list_reads_back(numbers in proptest::collection::btree_set(0..=CPU_NUMBER_MAX, 1..100)) {
            let numbers: Vec<usize> = numbers.into_iter().collect();
            prop_assert_eq!(parse_cpu_list(&format_cpu_list(&numbers)), Ok(numbers));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9, \\-x]{0,30}") {
            let _ = parse_cpu_list(&text);
        }
    }
}
