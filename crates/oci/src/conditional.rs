//! Conditional requests (RFC 9110 §13) against one strong entity tag.

/// Whether `If-None-Match` names `tag`, which has no quotes: weak comparison (RFC 9110 §13.1.2).
/// A bare digest matches too, because the reference implementation accepts it.
pub fn if_none_match(header: &str, tag: &str) -> bool {
    header.split(',').map(str::trim).any(|candidate| {
        let candidate = candidate.strip_prefix("W/").unwrap_or(candidate);
        candidate == "*" || unquote(candidate) == tag
    })
}

/// Whether `If-Range` names `tag`, which has no quotes: strong comparison (RFC 9110 §13.1.5). A date never
/// matches, because no representation has a modification date.
pub fn if_range(header: &str, tag: &str) -> bool {
    let header = header.trim();
    header.len() > 2 && header.starts_with('"') && unquote(header) == tag
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        for (header, matches) in [
            ("\"sha256:a\"", true),
            ("W/\"sha256:a\"", true),
            ("sha256:a", true),
            ("\"x\", \"sha256:a\"", true),
            ("*", true),
            ("\"sha256:b\"", false),
            ("", false),
        ] {
            assert_eq!(if_none_match(header, "sha256:a"), matches, "{header}");
        }
        for (header, matches) in [
            ("\"sha256:a\"", true),
            ("W/\"sha256:a\"", false),
            ("sha256:a", false),
            ("Thu, 01 Jan 1970 00:00:00 GMT", false),
            ("\"", false),
        ] {
            assert_eq!(if_range(header, "sha256:a"), matches, "{header}");
        }
    }
}
