//! A number with an optional fraction times the size of its unit, in exact integers.

/// Why a number with a unit is not a quantity.
pub(super) enum ScaleError {
    /// There are no digits, or not only digits.
    NotANumber,
    /// The product does not fit 64 bits.
    TooLarge,
    /// The product is not a whole number.
    NotWhole,
}

/// `number`, digits with an optional fraction, times `scale`.
///
/// # Errors
///
/// If `number` is not written so, or the product is not a whole number of at most 64 bits.
pub(super) fn scaled(number: &str, scale: u64) -> Result<u64, ScaleError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return Err(ScaleError::NotANumber);
    }
    let whole: u128 = whole.parse().map_err(|_| ScaleError::TooLarge)?;
    let mut product = whole.checked_mul(u128::from(scale)).ok_or(ScaleError::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        // A longer fraction is refused as not whole: 20 digits times the largest unit's 13 stay within
        // the 38 digits of a u128.
        let parts: Option<u128> = (fraction.len() <= 20).then(|| fraction.parse().ok()).flatten();
        let parts = parts.map(|parts| parts * u128::from(scale));
        let divisor = 10_u128.pow(u32::try_from(fraction.len().min(20)).unwrap_or(20));
        match parts {
            Some(parts) if parts % divisor == 0 => product += parts / divisor,
            _ => return Err(ScaleError::NotWhole),
        }
    }
    u64::try_from(product).map_err(|_| ScaleError::TooLarge)
}

/// Splits a text into its number and its unit; either may be empty.
pub(super) fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}
