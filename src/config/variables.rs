//! `${VAR}` in the values of the file.

/// The largest value after `${VAR}` is expanded, in bytes.
const MAX_SCALAR: usize = 64 << 10;

/// Looks an environment variable up.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Expands `${VAR}` and `${VAR:-default}` (if unset or empty); `$${` is a literal `${`.
///
/// The values of variables are not expanded again.
///
/// # Errors
///
/// A message for each error. They name variables, but neither the text around them nor that of a malformed `${…`: it
/// may be part of a password.
pub(super) fn expand(written: &str, env: Env<'_>) -> Result<String, Vec<String>> {
    const FORM: &str = "write ${NAME} or ${NAME:-default}, and $${ for a literal ${";
    let mut text = String::with_capacity(written.len());
    let mut faults = Vec::new();
    let mut rest = written;
    while let Some(dollar) = rest.find("${") {
        if let Some(before) = rest[..dollar].strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = &rest[dollar + 2..];
            continue;
        }
        text.push_str(&rest[..dollar]);
        let Some((inside, after)) = rest[dollar + 2..].split_once('}') else {
            faults.push(format!("a `${{` without its `}}`; {FORM}"));
            return Err(faults);
        };
        rest = after;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable(name) || default.is_some_and(|default| default.contains("${")) {
            faults.push(format!("not a variable; {FORM}"));
            continue;
        }
        match (env(name), default) {
            (Some(value), None) => text.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => text.push_str(&value),
            (_, Some(default)) => text.push_str(default),
            (None, None) => faults.push(format!(
                "the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )),
        }
    }
    text.push_str(rest);
    if text.len() > MAX_SCALAR {
        faults.push("longer than 64KiB; write a shorter value".to_owned());
    }
    if faults.is_empty() {
        Ok(text)
    } else {
        Err(faults)
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "TRICK" => Some("a: b, ${HOST}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_expand() {
        for (written, expected) in [
            ("plain", "plain"),
            ("${HOST}", "example.com"),
            ("https://${HOST}:5000", "https://example.com:5000"),
            ("${HOST}${HOST}", "example.comexample.com"),
            ("${UNSET:-x}", "x"),
            ("${UNSET:-}", ""),
            ("${EMPTY:-x}", "x"),
            ("a${EMPTY}b", "ab"),
            ("${UNSET:-a:-b}", "a:-b"),
            ("${TRICK}", "a: b, ${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$${HOST} ${HOST}", "${HOST} example.com"),
            ("$HOST 5$ $", "$HOST 5$ $"),
        ] {
            assert_eq!(expand(written, &env).as_deref(), Ok(expected), "{written}");
        }
    }

    #[test]
    fn bad_variables_are_told_without_their_neighbours() {
        for written in [
            "secret${UNSET}secret",
            "secret${",
            "secret${secret",
            "secret${secret-x}",
            "secret${}",
            "secret${1}",
            "secret${HOST:-${secret}}",
        ] {
            let faults = expand(written, &env).unwrap_err();
            assert_eq!(faults.len(), 1, "{written}");
            assert!(!faults[0].contains("secret"), "{written}: {faults:?}");
        }
        assert_eq!(expand("${A} ${B} ${HOST}", &env).unwrap_err().len(), 2);
    }
}
