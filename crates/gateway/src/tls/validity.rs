//! How long a certificate is valid, and when its end is soon. Pure.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long before its end a certificate is reported.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The same as a part of its validity, for certificates that are valid for days.
const SOON_PART: u32 = 6;

/// When a certificate expires; `None` if it cannot be parsed.
pub fn expires_at(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(end_of(&certificate))
}

/// How long a certificate is valid, if it should have been renewed: for less than two weeks or a sixth of its validity. `None`
/// if there is time, or it cannot be parsed.
pub fn expires_soon(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<Duration> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let (begin, end) = (begin_of(&certificate), end_of(&certificate));
    let left = end.duration_since(now).unwrap_or_default();
    let validity = end.duration_since(begin).unwrap_or_default();
    (left < SOON.min(validity / SOON_PART)).then_some(left)
}

/// When its validity begins.
fn begin_of(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_before.timestamp())
}

/// When its validity ends.
pub fn end_of(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_after.timestamp())
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lived_certificates_are_reported_late() {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;

        let at =
            |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
        for (validity, age, left) in [
            (90 * DAY, 75 * DAY, None),
            (90 * DAY, 77 * DAY, Some(13 * DAY)),
            (90 * DAY, 91 * DAY, Some(0)),
            (6 * DAY, 4 * DAY, None),
            (6 * DAY, 5 * DAY + HOUR, Some(23 * HOUR)),
            (DAY, 19 * HOUR, None),
            (DAY, 21 * HOUR, Some(3 * HOUR)),
        ] {
            let mut params = rcgen::CertificateParams::default();
            params.not_before = at(0).into();
            params.not_after = at(validity).into();
            let key = rcgen::KeyPair::generate().expect("a key");
            let leaf = params.self_signed(&key).expect("a certificate");
            let found = expires_soon(leaf.der(), at(age));
            assert_eq!(found, left.map(Duration::from_secs), "{validity} {age}");
        }
    }
}
