use proptest::prelude::*;

use super::*;

fn size(text: &str) -> ByteSize {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn size_defect(text: &str) -> Defect {
    let error = ByteSize::try_from(text).expect_err(text);
    assert!(error.to_string().starts_with(&format!("{:?} is not a size: ", excerpt(text))), "{error}");
    error.defect
}

fn duration_defect(text: &str) -> Defect {
    let error = parse_duration(text).expect_err(text);
    assert!(error.to_string().starts_with(&format!("{:?} is not a duration: ", excerpt(text))), "{error}");
    error.defect
}

#[test]
fn sizes_are_read_in_every_form() {
    let cases = [
        ("0", 0),
        ("4096", 4096),
        ("640 B", 640),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        (" 10MB ", 10_000_000),
        ("10mB", 10_000_000),
        ("1GB", 1_000_000_000),
        ("4GiB", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("1.50 gib", 3 << 29),
        ("2TiB", 2 << 40),
        ("3 PiB", 3 << 50),
        ("15EiB", 15 << 60),
        ("1.3KiB", 1_331),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, bytes) in cases {
        assert_eq!(size(text), ByteSize(bytes), "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused() {
    assert_eq!(size_defect(""), Defect::Empty);
    assert_eq!(size_defect("  "), Defect::Empty);
    assert_eq!(size_defect("-1"), Defect::Negative);
    assert_eq!(size_defect("-4GiB"), Defect::Negative);
    assert_eq!(size_defect("GiB"), Defect::NumberMissing("GiB".to_owned()));
    assert_eq!(size_defect(".5GiB"), Defect::NumberMissing(".5GiB".to_owned()));
    assert_eq!(size_defect("5.GiB"), Defect::NumberMissing("GiB".to_owned()));
    assert_eq!(size_defect("٣GiB"), Defect::NumberMissing("٣GiB".to_owned()));
    assert_eq!(size_defect("12 potatoes"), Defect::UnknownUnit("potatoes".to_owned()));
    assert_eq!(size_defect("1e9"), Defect::UnknownUnit("e9".to_owned()));
    assert_eq!(size_defect("4G"), Defect::UnknownUnit("G".to_owned()));
    assert_eq!(size_defect("1.5"), Defect::Fraction);
    assert_eq!(size_defect("1.5B"), Defect::Fraction);
    assert_eq!(size_defect("1.0000000000000000001GiB"), Defect::Fraction);
    assert_eq!(size_defect("16EiB"), Defect::TooLarge);
    assert_eq!(size_defect("18446744073709551616"), Defect::TooLarge);
    assert_eq!(size_defect("99999999999999999999999GiB"), Defect::TooLarge);
}

#[test]
fn a_refusal_says_what_was_read_and_what_is_accepted_and_stays_short() {
    assert_eq!(
        ByteSize::try_from("12 potatoes").expect_err("no unit").to_string(),
        "\"12 potatoes\" is not a size: \"potatoes\" is not a unit; write bytes (4096), or a number and KiB, MiB, \
         GiB, TiB, KB, MB, GB or TB"
    );
    assert_eq!(
        parse_duration("10").expect_err("no unit").to_string(),
        "\"10\" is not a duration: the unit is missing; write numbers with d, h, m, s, ms, us or ns, such as \
         500ms, 1.5s, 1h30m"
    );
    let long = "9".repeat(100_000);
    assert!(ByteSize::try_from(long.as_str()).expect_err("too large").to_string().len() < 250);
    assert!(parse_duration(&format!("1{}", "ß".repeat(100_000))).expect_err("unit").to_string().len() < 350);
}

#[test]
fn sizes_print_exactly_where_that_is_short() {
    let cases = [
        (ByteSize(0), "0 B"),
        (ByteSize(640), "640 B"),
        (ByteSize(1_025), "1025 B"),
        (ByteSize::kib(64), "64 KiB"),
        (ByteSize::mib(1_025), "1025 MiB"),
        (ByteSize::mib(1_536), "1.5 GiB"),
        (ByteSize::gib(4), "4 GiB"),
        (ByteSize::gib(2_048), "2 TiB"),
        (ByteSize::kib(24_684_092), "23.5 GiB"),
        (ByteSize(u64::MAX), "15.9 EiB"),
    ];
    for (value, text) in cases {
        assert_eq!(value.to_string(), text);
    }
    assert_eq!(format!("{:>8}", ByteSize::gib(4)), "   4 GiB");
}

#[test]
fn durations_are_read_in_every_form() {
    let cases = [
        ("500ms", Duration::from_millis(500)),
        ("2s", Duration::from_secs(2)),
        ("1.5s", Duration::from_millis(1_500)),
        ("10m", Duration::from_secs(600)),
        ("1h30m", Duration::from_secs(5_400)),
        (" 1h 30 m ", Duration::from_secs(5_400)),
        ("7d", Duration::from_secs(7 * 86_400)),
        ("1d0.0000005s", Duration::new(86_400, 500)),
        ("90m", Duration::from_secs(5_400)),
        ("0s", Duration::ZERO),
        ("12us", Duration::from_micros(12)),
        ("340ns", Duration::from_nanos(340)),
        ("18446744073709551615s", Duration::from_secs(u64::MAX)),
    ];
    for (text, duration) in cases {
        assert_eq!(parse_duration(text), Ok(duration), "{text}");
    }
}

#[test]
fn what_is_no_duration_is_refused() {
    assert_eq!(duration_defect(""), Defect::Empty);
    assert_eq!(duration_defect("-1s"), Defect::Negative);
    assert_eq!(duration_defect("10"), Defect::UnitMissing);
    assert_eq!(duration_defect("1h30"), Defect::UnitMissing);
    assert_eq!(duration_defect("1 1s"), Defect::UnitMissing);
    assert_eq!(duration_defect("soon"), Defect::NumberMissing("soon".to_owned()));
    assert_eq!(duration_defect("1h and 3s"), Defect::NumberMissing("and 3s".to_owned()));
    assert_eq!(duration_defect("1w"), Defect::UnknownUnit("w".to_owned()));
    assert_eq!(duration_defect("1S"), Defect::UnknownUnit("S".to_owned()));
    assert_eq!(duration_defect("30m1h"), Defect::UnitOrder);
    assert_eq!(duration_defect("1m1m"), Defect::UnitOrder);
    assert_eq!(duration_defect("1.5h30m"), Defect::Fraction);
    assert_eq!(duration_defect("1.5ns"), Defect::Fraction);
    assert_eq!(duration_defect("18446744073709551615s1000ms"), Defect::TooLarge);
    assert_eq!(duration_defect("18446744073709551615d"), Defect::TooLarge);
    assert_eq!(duration_defect("99999999999999999999s"), Defect::TooLarge);
}

#[test]
fn durations_print_in_the_largest_units_that_fit() {
    let cases = [
        (Duration::ZERO, "0s"),
        (Duration::from_nanos(340), "340ns"),
        (Duration::from_nanos(1_234_567), "1.234567ms"),
        (Duration::from_micros(12), "12us"),
        (Duration::from_millis(500), "500ms"),
        (Duration::from_millis(1_500), "1.5s"),
        (Duration::from_secs(600), "10m"),
        (Duration::from_secs(5_400), "1h30m"),
        (Duration::new(86_400, 500), "1d0.0000005s"),
        (Duration::from_secs(7 * 86_400), "7d"),
    ];
    for (duration, text) in cases {
        assert_eq!(format_duration(duration), text);
    }
}

#[test]
fn rates_print_in_decimal_units() {
    let cases = [
        (0.0, "0 B/s"),
        (640.4, "640 B/s"),
        (999.7, "1.0 kB/s"),
        (1_000.0, "1.0 kB/s"),
        (999_960.0, "1.0 MB/s"),
        (12_345_678_901.0, "12.3 GB/s"),
        (2.5e21, "2500.0 EB/s"),
        (-1.0, "? B/s"),
        (f64::NAN, "? B/s"),
        (f64::INFINITY, "? B/s"),
    ];
    for (rate, text) in cases {
        assert_eq!(format_rate(rate), text);
    }
}

proptest! {
    #[test]
    fn a_count_of_bytes_reads_back(bytes: u64) {
        prop_assert_eq!(size(&bytes.to_string()), ByteSize(bytes));
    }

    #[test]
    fn a_whole_number_of_units_reads_back_from_its_printed_form(count in 0_u64..1_024, shift in 0_u32..6) {
        let value = ByteSize(count << (10 * shift));
        prop_assert_eq!(size(&value.to_string()), value);
    }

    #[test]
    fn a_printed_size_is_never_above_its_value_and_within_a_tenth_of_its_unit(bytes: u64, shift in 0_u32..64) {
        let value = ByteSize(bytes >> shift);
        let back = size(&value.to_string());
        prop_assert!(back <= value);
        prop_assert!((value.0 - back.0) / 2 <= value.0 / 20);
    }

    #[test]
    fn a_duration_reads_back_exactly(seconds: u64, shift in 0_u32..64, nanos in 0_u32..1_000_000_000) {
        let duration = Duration::new(seconds >> shift, nanos);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,60}") {
        let _ = (ByteSize::try_from(text.as_str()), parse_duration(&text));
    }

    #[test]
    fn text_of_the_right_letters_never_panics(text in "[0-9.\\- dhmsunKMGTiB]{0,30}") {
        let _ = (ByteSize::try_from(text.as_str()), parse_duration(&text));
    }
}
