//! When a certificate is due, what one is worth until there is another, and when a failed order is tried again. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// The pause after the first failure. Let's Encrypt allows five failures an hour for a host.
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The longest pause that the gateway chooses.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The longest pause that an authority may choose.
const LONGEST_STATED: Duration = Duration::from_secs(24 * 3600);
/// The first line of a file whose certificate was taken from other settings.
const INTERIM: &[u8] = b"# The certificate of other settings, until there is one of these\n";

/// A certificate of an authority.
struct Leaf {
    hosts: BTreeSet<String>,
    begin: SystemTime,
    end: SystemTime,
}

/// The first certificate of a PEM file; `None` if there is none, or a self-signed one.
fn leaf(pem: &[u8]) -> Option<Leaf> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, leaf) = X509Certificate::from_der(&der).ok()?;
    if leaf.issuer().as_raw() == leaf.subject().as_raw() {
        return None;
    }
    let alternatives = leaf.subject_alternative_name().ok()??;
    let names = alternatives.value.general_names.iter();
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    Some(Leaf {
        hosts: hosts.collect(),
        begin: time(leaf.validity().not_before.timestamp()),
        end: time(leaf.validity().not_after.timestamp()),
    })
}

/// When the certificate of a PEM file is to be renewed: after two thirds of its validity. `None` is at once: there is none for
/// these hosts from this authority.
pub fn due_at(pem: &[u8], hosts: &BTreeSet<String>) -> Option<SystemTime> {
    let leaf = leaf(pem).filter(|leaf| leaf.hosts == *hosts && !pem.starts_with(INTERIM))?;
    let validity = leaf.end.duration_since(leaf.begin).unwrap_or_default();
    Some(leaf.begin + validity * 2 / 3)
}

/// The file of a certificate that is taken from other settings, which is due at once.
pub fn interim(pem: &[u8]) -> Vec<u8> {
    let pem = pem.strip_prefix(INTERIM).unwrap_or(pem);
    [INTERIM, pem].concat()
}

/// What a certificate is worth for these hosts: how many it has, and when it expires. `None` is nothing.
pub fn value_for(
    pem: &[u8],
    hosts: &BTreeSet<String>,
    now: SystemTime,
) -> Option<(usize, SystemTime)> {
    let leaf = leaf(pem).filter(|leaf| leaf.end > now)?;
    let common = leaf.hosts.intersection(hosts).count();
    (common > 0).then_some((common, leaf.end))
}

/// The pause after so many failures in a row, which is not shorter than the authority's `Retry-After`.
pub fn pause(failures: u32, stated: Option<Duration>) -> Duration {
    let factor = 1 << failures.saturating_sub(1).min(16);
    let own = (FIRST_PAUSE * factor).min(LONGEST_PAUSE);
    own.max(stated.unwrap_or_default().min(LONGEST_STATED))
}

#[cfg(test)]
pub mod tests {
    use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::super::certificate::placeholder;
    use super::*;

    pub fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    pub fn hosts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The file of an authority's certificate.
    pub fn issued(names: &[&str], begin: SystemTime, end: SystemTime) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let issuer = Issuer::new(params, KeyPair::generate().expect("a key"));
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = begin.into();
        params.not_after = end.into();
        let leaf = params.signed_by(&key, &issuer).expect("a leaf");
        leaf.pem() + &key.serialize_pem()
    }

    #[test]
    fn certificates_are_due_after_two_thirds() {
        let wanted = hosts(&["a.example", "b.example"]);
        let file = issued(&["b.example", "a.example"], at(0), at(90 * 86_400));
        let (_, key) = file.split_at(file.find("-----BEGIN PRIVATE").expect("a key"));
        let key_first = key.to_owned() + &file;
        for file in [&file, &key_first] {
            assert_eq!(due_at(file.as_bytes(), &wanted), Some(at(60 * 86_400)));
        }
        let taken = String::from_utf8(interim(&interim(file.as_bytes()))).expect("text");
        assert_eq!(taken.matches('#').count(), 1);
        for (file, hosts) in [
            (file.as_str(), hosts(&["a.example"])),
            (&taken, wanted.clone()),
            ("", wanted.clone()),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                wanted.clone(),
            ),
            (
                &placeholder(&wanted).expect("a certificate"),
                wanted.clone(),
            ),
        ] {
            assert_eq!(due_at(file.as_bytes(), &hosts), None, "{file}");
        }
    }

    #[test]
    fn certificates_are_worth_their_hosts() {
        let wanted = hosts(&["a.example", "b.example"]);
        for (names, end, now, value) in [
            (&["a.example"][..], 100, 50, Some((1, at(100)))),
            (&["a.example", "b.example"], 100, 99, Some((2, at(100)))),
            (&["a.example", "c.example"], 100, 0, Some((1, at(100)))),
            (&["a.example"], 100, 100, None),
            (&["c.example"], 100, 0, None),
        ] {
            let file = issued(names, at(0), at(end));
            let found = value_for(file.as_bytes(), &wanted, at(now));
            assert_eq!(found, value, "{names:?} {now}");
        }
        let own = placeholder(&wanted).expect("a certificate");
        assert_eq!(value_for(own.as_bytes(), &wanted, at(0)), None);
    }

    #[test]
    fn failures_are_tried_again_ever_more_seldom() {
        for (failures, stated, minutes) in [
            (1, None, 5),
            (1, Some(1), 5),
            (1, Some(120), 120),
            (2, None, 10),
            (3, None, 20),
            (7, None, 320),
            (8, None, 360),
            (8, Some(600), 600),
            (u32::MAX, None, 360),
            (1, Some(u64::MAX / 60), 1440),
        ] {
            let stated = stated.map(|minutes| Duration::from_secs(minutes * 60));
            let pause = pause(failures, stated).as_secs() / 60;
            assert_eq!(pause, minutes, "{failures} {stated:?}");
        }
    }
}
