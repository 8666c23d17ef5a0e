//! Readers of single values. They hold without the rules of the API server too: an object may be older than those.

/// The longest time span, in seconds.
const DAY: u32 = 24 * 60 * 60;

/// Reads a time span in hours, minutes and seconds, each at most once and in this order: `1h30m`, `5m`, `30s`, `0s`.
/// The answer is in seconds, 24 hours at most.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("{text:?} is not a time span in hours, minutes and seconds such as 1h30m, 5m, 30s or 0s");
    let mut units: &[(char, u32)] = &[('h', 3600), ('m', 60), ('s', 1)];
    let mut total: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (digits, behind) = rest.split_at(end);
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        let unit = behind.chars().next().ok_or_else(wrong)?;
        let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let (used, left) = units.split_at(at + 1);
        total += u64::from(number) * used.last().map_or(0, |(_, size)| u64::from(*size));
        units = left;
        rest = behind.strip_prefix(unit).unwrap_or_default();
    }
    u32::try_from(total).ok().filter(|total| *total <= DAY).ok_or_else(|| format!("{text} is more than 24h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read_in_seconds() {
        for (text, wanted) in [
            ("0s", 0),
            ("30s", 30),
            ("5m", 300),
            ("1h30m", 5400),
            ("1h1m1s", 3661),
            ("24h", 86400),
            ("090s", 90),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "30s5m",
            "5m5m",
            "-5m",
            "1.5h",
            "5 m",
            "5d",
            "24h1s",
            "99999999999s",
            "４m",
            "5mm",
            "h",
        ] {
            let error = seconds(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
