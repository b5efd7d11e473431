//! The version of the service API that a call names.

/// The query parameter that names it.
pub const API_VERSION: &str = "api-version";

/// Why a version is refused, in Azure's own words, which tools compare.
pub const INVALID_VERSION: &str = "BadRequest";

/// Whether `version` has the form of one: `YYYY-MM-DD`, or that with `-preview`.
///
/// Whether it was ever published is not asked: clients outlive us. Without a version, or with
/// one of another form, Azure refuses a call, and so does who wants to be what clients are
/// tried against.
pub fn is_version(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version);
    let mut parts = date.split('-');
    let mut part = |len: usize, range: std::ops::RangeInclusive<u32>| {
        parts.next().is_some_and(|text| {
            let digits = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
            digits && text.parse().is_ok_and(|number| range.contains(&number))
        })
    };
    part(4, 0..=9999) && part(2, 1..=12) && part(2, 1..=31) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_date_and_perhaps_a_preview() {
        let check = |text: &str, expected| assert_eq!(is_version(text), expected, "{text}");
        for known in ["2016-11-14", "2021-04-12", "2020-05-31-preview", "2099-12-31"] {
            check(known, true);
        }
        for wrong in [
            "",
            "1.0",
            "latest",
            "2021",
            "2021-04",
            "2021-4-12",
            "2021-13-01",
            "2021-00-01",
            "2021-01-32",
            "2021-01-01-beta",
            "2021-01-01-preview-preview",
            "2021-01-01-",
            "preview",
            "-preview",
            "+021-01-01",
            " 2021-01-01",
        ] {
            check(wrong, false);
        }
    }
}
