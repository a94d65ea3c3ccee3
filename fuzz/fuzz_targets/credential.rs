//! The output of a credential helper: read faithfully, never reused too long, and never printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::credential::{LONGEST_LIFE, parse};
use serde_json::Value;
use time::OffsetDateTime;

fuzz_target!(|output: &[u8]| {
    let Ok(answer) = parse(output) else { return };
    // `parse` ignores unknown members and their errors, so this parser accepts less.
    if let Ok(said) = serde_json::from_slice::<Value>(output)
        && said.is_object()
    {
        assert_eq!(said["Username"].as_str(), Some(answer.username.as_str()));
        assert_eq!(said["Secret"].as_str(), Some(answer.secret.as_str()));
    }
    let mut before = LONGEST_LIFE;
    for now in [i64::MIN, -1, 0, 1_800_000_000, 1_800_000_599, i64::MAX] {
        let (earliest, latest) = (-377_705_116_800, 253_402_300_799);
        let now = OffsetDateTime::from_unix_timestamp(now.clamp(earliest, latest)).expect("a time");
        let left = answer.lifetime(now);
        assert!(left <= before, "it lives longer the later it is");
        before = left;
    }
    let shown = format!("{answer:?}");
    assert_eq!(shown, format!("Answer({:?}, [redacted])", answer.username));
});
