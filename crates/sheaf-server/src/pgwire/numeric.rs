//! PostgreSQL's binary form of decimals: digits of base 10,000, where the first of them stands, and how many places there are after
//! the point. Pure.

/// Digits of base 10 in one of base 10,000.
const WIDTH: usize = 4;
const NEGATIVE: u16 = 0x4000;
/// A decimal of the interface has a thousand digits at most; what a client may send as one is not much more.
const DIGITS_MAX: usize = 2_000;

/// Writes a number that is given by its digits, without exponent.
pub(super) fn write_numeric(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NEGATIVE, digits),
        None => (0, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = whole
        .bytes()
        .chain(fraction.bytes())
        .all(|byte| byte.is_ascii_digit());
    if !is_number || whole.is_empty() {
        return None;
    }
    // Both sides of the point are filled up to whole groups.
    let before = whole.len().div_ceil(WIDTH) * WIDTH - whole.len();
    let after = fraction.len().div_ceil(WIDTH) * WIDTH - fraction.len();
    let digits = format!(
        "{}{whole}{fraction}{}",
        "0".repeat(before),
        "0".repeat(after)
    );
    let groups = digits.as_bytes().chunks(WIDTH).map(|group| {
        let digits = group.iter().map(|byte| u16::from(byte - b'0'));
        digits.fold(0, |number, digit| number * 10 + digit)
    });
    let groups: Vec<u16> = groups.collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let last = groups.iter().rposition(|group| *group != 0);
    let groups = groups.get(leading..=last.unwrap_or(0)).unwrap_or_default();
    let weight = i16::try_from(whole.len().div_ceil(WIDTH)).ok()? - 1;
    let weight = match groups.is_empty() {
        true => 0,
        false => weight - i16::try_from(leading).ok()?,
    };
    out.extend(u16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(if groups.is_empty() { 0 } else { sign }.to_be_bytes());
    out.extend(u16::try_from(fraction.len()).ok()?.to_be_bytes());
    for group in groups {
        out.extend(group.to_be_bytes());
    }
    Some(())
}

/// Reads one as its digits; absent for what is no number, or longer than any that a question can hold.
pub(super) fn read_numeric(bytes: &[u8]) -> Option<String> {
    let (heads, groups) = bytes.split_at_checked(8)?;
    let [count, weight, sign, scale] = [0, 2, 4, 6].map(|at| [heads[at], heads[at + 1]]);
    let count = usize::from(u16::from_be_bytes(count));
    let weight = i64::from(i16::from_be_bytes(weight));
    let scale = usize::from(u16::from_be_bytes(scale));
    let sign = match u16::from_be_bytes(sign) {
        0 => "",
        NEGATIVE => "-",
        _ => return None,
    };
    let highest = usize::try_from(weight.abs()).ok()?;
    if groups.len() != 2 * count || WIDTH * (count + highest) + scale > DIGITS_MAX {
        return None;
    }
    let groups = groups
        .chunks(2)
        .map(|group| u16::from_be_bytes([group[0], group[1]]));
    let groups: Vec<u16> = groups.collect();
    if groups.iter().any(|group| *group > 9_999) {
        return None;
    }
    let group_at = |power: i64| {
        let place = usize::try_from(weight - power).ok();
        place
            .and_then(|place| groups.get(place))
            .copied()
            .unwrap_or(0)
    };
    let whole: String = (0..=weight.max(0))
        .rev()
        .map(|power| format!("{:04}", group_at(power)))
        .collect();
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let places = i64::try_from(scale.div_ceil(WIDTH)).ok()?;
    let mut fraction: String = (1..=places)
        .map(|power| format!("{:04}", group_at(-power)))
        .collect();
    fraction.truncate(scale);
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_come_back_with_every_digit_and_their_scale() {
        for text in [
            "0",
            "0.00",
            "1",
            "-1",
            "12.50",
            "-0.0001",
            "0.00001",
            "10000",
            "100000000",
            "9999",
            "123456789012345678901234567890.123456789",
            "-99999999999999999999999999999999999999",
            "1000000000000.000000000001",
        ] {
            let mut bytes = Vec::new();
            write_numeric(text, &mut bytes).expect(text);
            assert_eq!(read_numeric(&bytes).as_deref(), Some(text));
        }
        // As PostgreSQL itself writes 12.50: two groups, the first of them whole.
        let mut bytes = Vec::new();
        write_numeric("12.50", &mut bytes).expect("a number");
        assert_eq!(bytes, [0, 2, 0, 0, 0, 0, 0, 2, 0, 12, 0x13, 0x88]);
    }

    #[test]
    fn what_is_no_number_is_none_and_nothing_is_made_large() {
        for text in ["", "-", ".5", "1e5", "NaN", "1.2.3", "+1"] {
            assert_eq!(write_numeric(text, &mut Vec::new()), None, "{text}");
        }
        for bytes in [
            &[][..],
            &[0, 1, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0xc0, 0, 0, 0],
            &[0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0, 1],
            &[0, 1, 0x80, 0, 0, 0, 0, 0, 0, 1],
            &[0, 1, 0, 0, 0, 0, 0xff, 0xff, 0, 1],
            &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10],
        ] {
            assert_eq!(read_numeric(bytes), None, "{bytes:?}");
        }
    }
}
