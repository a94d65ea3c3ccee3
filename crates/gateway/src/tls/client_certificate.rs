//! The user of a client certificate.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use access::CertificateUser;

/// The user of a verified certificate: the one common name of its subject. `None` if there is none, or another number of them.
pub fn certificate_user(certificate: &CertificateDer<'_>) -> Option<CertificateUser> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return None;
    };
    CertificateUser::of_common_name(name.as_str().ok()?)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn user(names: &[&str]) -> Option<CertificateUser> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "builders");
        for (number, name) in names.iter().enumerate() {
            // rcgen has one value for each type.
            let kind = match number {
                0 => DnType::CommonName,
                _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            subject.push(kind, *name);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        certificate_user(certificate.der())
    }

    #[test]
    fn one_common_name_is_the_user() {
        for name in ["runner-7", "CI of Äpfel & Söhne, Inc.", "a:b"] {
            let expected = CertificateUser::of_name(&format!("cert:{name}"));
            assert!(expected.is_some(), "{name}");
            assert_eq!(user(&[name]), expected, "{name}");
        }
        for names in [
            &[][..],
            &["*.example.com"],
            &["a\nb"],
            &[&"x".repeat(65)],
            &["one", "two"],
        ] {
            assert_eq!(user(names), None, "{names:?}");
        }
        assert_eq!(certificate_user(&CertificateDer::from(vec![48, 0])), None);
    }
}
