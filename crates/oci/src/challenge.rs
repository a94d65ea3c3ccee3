//! `WWW-Authenticate` challenges (RFC 9110 §11.6.1), as registries send them in practice: several in one header
//! or in several headers, quoted strings with commas and escapes.

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case.
    pub scheme: String,
    /// Names in lower case, values unquoted.
    parameters: Vec<(String, String)>,
}

/// The longest accepted header, in bytes.
const MAX_HEADER: usize = 8 << 10;

impl Challenge {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// All parameters in their order, names in lower case.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = self.parameters.iter();
        parameters.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Parses one header value. A syntax error ends the list; the challenges before it count.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > MAX_HEADER {
        return challenges;
    }
    let mut rest = Cursor(header);
    loop {
        rest.skip(|c| c.is_ascii_whitespace() || c == ',');
        let Some(token) = rest.token() else {
            return challenges;
        };
        let spaced = rest.0.starts_with([' ', '\t']);
        rest.skip(|c| c.is_ascii_whitespace());
        // `name=value` belongs to the previous challenge; anything else begins a new one.
        match challenges.last_mut() {
            Some(challenge) if rest.0.starts_with('=') && !rest.0.starts_with("==") => {
                rest.0 = &rest.0[1..];
                rest.skip(|c| c.is_ascii_whitespace());
                let Some(value) = rest.value() else {
                    return challenges;
                };
                challenge
                    .parameters
                    .push((token.to_ascii_lowercase(), value));
            }
            _ => {
                challenges.push(Challenge {
                    scheme: token.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                if spaced {
                    rest.skip_token68();
                }
            }
        }
    }
}

/// The unparsed rest of a header.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(unwanted);
    }

    /// `1*tchar`
    fn token(&mut self) -> Option<&'a str> {
        let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.0.find(|c| !is_tchar(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token or a quoted string. An unquoted value extends to the next comma or space, because some
    /// registries do not quote URLs.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            let end = self.0.find([',', ' ', '\t']).unwrap_or(self.0.len());
            let (value, rest) = self.0.split_at(end);
            self.0 = rest;
            return Some(value.to_owned());
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                c => value.push(c),
            }
        }
        None
    }

    /// Skips credentials such as `Negotiate YII=`, which are no parameters.
    fn skip_token68(&mut self) {
        let is_68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let after = self.0.trim_start_matches(is_68);
        let padded = after.trim_start_matches('=');
        let ends = padded.trim_start();
        if after.len() < self.0.len() && (ends.is_empty() || ends.starts_with(',')) {
            self.0 = ends;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(header: &str) -> Vec<String> {
        let show = |challenge: Challenge| {
            let parameters: Vec<String> = challenge
                .parameters()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{} {}", challenge.scheme, parameters.join(";"))
        };
        parse(header).into_iter().map(show).collect()
    }

    #[test]
    fn challenges_of_real_registries() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                vec![
                    "bearer realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:library/alpine:pull",
                ],
            ),
            (
                r#"Bearer realm="r",scope="repository:a:pull,push repository:b:pull",error="invalid_token""#,
                vec![
                    "bearer realm=r;scope=repository:a:pull,push repository:b:pull;error=invalid_token",
                ],
            ),
            (
                r#"Basic realm="https://x/",service="ecr""#,
                vec!["basic realm=https://x/;service=ecr"],
            ),
            (
                r#"Bearer realm="a", Basic realm="b""#,
                vec!["bearer realm=a", "basic realm=b"],
            ),
            (
                r#"Basic realm="b", Bearer realm="a", service="s""#,
                vec!["basic realm=b", "bearer realm=a;service=s"],
            ),
            (
                r#"NEGOTIATE, BEARER Realm = "a" , Service = s"#,
                vec!["negotiate ", "bearer realm=a;service=s"],
            ),
            (
                r#"Negotiate YIIabc==, Bearer realm="a""#,
                vec!["negotiate ", "bearer realm=a"],
            ),
            (
                r#"Bearer realm="a \"b\" \\c""#,
                vec![r#"bearer realm=a "b" \c"#],
            ),
            (
                "Bearer realm=https://x/y?z=1,service=s",
                vec!["bearer realm=https://x/y?z=1;service=s"],
            ),
            ("Basic", vec!["basic "]),
            (",, Basic ,,", vec!["basic "]),
            (r#"Bearer realm="unfinished"#, vec!["bearer "]),
            ("", vec![]),
            ("\u{7f}", vec![]),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn parsing_ends_and_never_panics(header in "\\PC{0,80}|[a-zA-Z =,\"\\\\]{0,80}") {
            let _ = parse(&header);
        }

        #[test]
        fn what_is_quoted_is_read_back(realm in "[^\\x00-\\x1f\\x7f]{0,30}", service in "[a-z.]{1,9}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\",service={service}, Basic realm=x");
            let challenges = parse(&header);
            prop_assert_eq!(challenges.len(), 2);
            prop_assert_eq!(challenges[0].parameter("realm"), Some(realm.as_str()));
            prop_assert_eq!(challenges[0].parameter("service"), Some(service.as_str()));
        }
    }
}
