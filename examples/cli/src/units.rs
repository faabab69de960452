//! Sizes, rates, percentages and times as people write and read them.

use jiff::tz::TimeZone;
use std::num::NonZeroU64;
use std::time::Duration;

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Parses `4096`, `32MiB`, `32M`, `1.5GB` into bytes.
///
/// `KiB`, `MiB`, … and the short `K`, `M`, … count in 1024; `KB`, `MB`, … in 1000, as in the SI. Case does not matter.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let hint = "write a size such as 4096, 32MiB or 1.5GB";
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        unit => {
            let mut letters = unit.chars();
            let power = letters.next().and_then(|c| "kmgtpe".find(c)).ok_or_else(|| hint.to_string())? as u32 + 1;
            match letters.as_str() {
                "" | "ib" => 1024_u64.pow(power),
                "b" => 1000_u64.pow(power),
                _ => return Err(hint.into()),
            }
        }
    };
    let bytes = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or(hint)?,
        Some(_) => {
            let bytes = number.parse::<f64>().map_err(|_| hint.to_string())? * factor as f64;
            // Above 2^53 a fraction of a unit has no exact meaning any more; nobody writes such sizes.
            if bytes >= 9e15 {
                return Err("too large".into());
            }
            bytes.round() as u64
        }
    };
    if bytes == 0 { Err("must be more than 0".into()) } else { Ok(bytes) }
}

/// Parses a size with or without `/s`: bytes a second.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = size(text.strip_suffix("/s").unwrap_or(text))
        .map_err(|e| if e.starts_with("write") { "write a rate such as 10MiB or 10MiB/s".into() } else { e })?;
    NonZeroU64::new(bytes).ok_or_else(|| "must be more than 0".into())
}

/// Parses `5%` or `5`: more than 0, at most 100.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("write a percentage above 0 and up to 100, such as 5%".into()),
    }
}

/// Parses `90s`, `15m`, `12h`, `30d`, `2w`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let hint = || "write a time such as 90s, 15m, 12h or 30d".to_string();
    let unit = text.chars().last().ok_or_else(hint)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(hint()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| hint())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long".into())
}

/// Bytes for people: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < BINARY.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", BINARY[unit]) }
}

/// A number with commas between groups of three digits.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun, which is in the plural when it has to be.
pub(crate) fn count(n: u64, noun: &str) -> String {
    let number = number(n);
    match (n, noun.strip_suffix('y')) {
        (1, _) => format!("{number} {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// A span of time for people, in its two largest units: `42s`, `3m 10s`, `2d 4h`.
pub(crate) fn span(seconds: f64) -> String {
    // A rate that is nearly 0 makes an absurd forecast; it is cut rather than printed.
    let s = seconds.clamp(0.0, 99.0 * 86_400.0).round() as u64;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

/// An instant in the time zone of this machine: `2026-11-20 06:15:00`.
pub(crate) fn local_time(time: jiff::Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A moment: a date, a date and time of this machine's zone, or a time with a zone of its own.
pub(crate) fn time(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time);
    }
    let wrong = |e: jiff::Error| format!("{e}; write it as 2026-11-20, 2026-11-20T06:15 or 2026-11-20T06:15:00Z");
    let local = text.parse::<jiff::civil::DateTime>().map_err(wrong)?;
    Ok(local.to_zoned(jiff::tz::TimeZone::system()).map_err(wrong)?.timestamp())
}

/// Seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds, 0.01 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1b", 1),
            ("32MiB", 32 << 20),
            ("32mib", 32 << 20),
            ("32M", 32 << 20),
            ("1.5GB", 1_500_000_000),
            ("1.5 GiB", 3 << 29),
            ("16EiB", 0),
        ] {
            match size(text) {
                Ok(n) => assert_eq!(n, bytes, "{text}"),
                Err(e) => assert_eq!(bytes, 0, "{text}: {e}"),
            }
        }
    }

    #[test]
    fn zero_and_garbage_are_no_sizes_rates_or_percentages() {
        for bad in
            ["", "0", "0MiB", "0.0", "-1", "MiB", "1.2.3M", "1XB", "1KiBx", "9999999999999999999GiB", "ü", "1e9", "."]
        {
            assert!(size(bad).is_err(), "{bad}");
            assert!(rate(bad).is_err(), "{bad}");
        }
        for bad in ["", "%", "0%", "-5%", "101%", "NaN", "x"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
        for bad in ["", "d", "5", "5y", "-1d", "1.5h", "99999999999999999999s", "5ü"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_percentages_and_times_are_read() {
        assert_eq!(rate("10MiB/s").unwrap().get(), 10 << 20);
        assert_eq!(rate("10MiB").unwrap().get(), 10 << 20);
        assert_eq!(percent("5%").unwrap(), 5.0);
        assert_eq!(percent("0.5").unwrap(), 0.5);
        assert_eq!(duration("30d").unwrap(), Duration::from_secs(30 * 86_400));
        assert_eq!(duration("0s").unwrap(), Duration::ZERO);
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(3 << 29)], ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(count(1, "entry"), "1 entry");
        assert_eq!(count(1_234_567, "entry"), "1,234,567 entries");
        assert_eq!(count(100, "warning"), "100 warnings");
        assert_eq!([span(0.4), span(190.0), span(187_200.0)], ["0s", "3m 10s", "2d 4h"]);
        assert_eq!(span(f64::INFINITY), "99d 0h");
    }
}
