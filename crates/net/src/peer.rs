//! Who a client certificate belongs to, by a name in it or by the certificate itself.

use std::fmt;

use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};

/// `dns:NAME`, one of the certificate's subject alternative names (a wildcard there counts), which survives a renewal;
/// or `sha256:HEX`, the fingerprint of this very certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PeerName {
    Dns(ServerName<'static>),
    Certificate([u8; 32]),
}

impl PeerName {
    /// Whether the certificate, in DER, is this peer's. Its chain was checked in the handshake.
    pub fn is(&self, certificate: &[u8]) -> bool {
        match self {
            PeerName::Dns(name) => {
                let der = CertificateDer::from(certificate);
                webpki::EndEntityCert::try_from(&der)
                    .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(name).is_ok())
            }
            PeerName::Certificate(digest) => {
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref() == digest
            }
        }
    }
}

impl TryFrom<String> for PeerName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a sender is written `dns:NAME` or `sha256:` and 64 hexadecimal digits";
        if let Some(name) = text.strip_prefix("dns:") {
            let name = ServerName::try_from(name.to_owned()).map_err(|_| WRONG)?;
            return if matches!(name, ServerName::DnsName(_)) { Ok(PeerName::Dns(name)) } else { Err(WRONG) };
        }
        // Tools print fingerprints with colons and in capitals.
        let hex = text.strip_prefix("sha256:").ok_or(WRONG)?.replace(':', "").to_lowercase();
        let digest = base::hex::decode(&hex).and_then(|bytes| bytes.try_into().ok());
        digest.map(PeerName::Certificate).ok_or(WRONG)
    }
}

impl From<PeerName> for String {
    fn from(peer: PeerName) -> String {
        peer.to_string()
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Dns(name) => write!(f, "dns:{}", name.to_str()),
            PeerName::Certificate(digest) => write!(f, "sha256:{}", base::hex::encode(digest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Result<PeerName, &'static str> {
        text.to_owned().try_into()
    }

    #[test]
    fn a_certificate_is_known_by_its_names_and_by_itself() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["lab.example.org".into(), "*.er.example.org".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let hex = base::hex::encode(digest.as_ref());
        for (text, is) in [
            ("dns:lab.example.org".to_owned(), true),
            ("dns:LAB.example.org".to_owned(), true),
            ("dns:one.er.example.org".to_owned(), true),
            ("dns:example.org".to_owned(), false),
            ("dns:lab.example.org.evil.net".to_owned(), false),
            (format!("sha256:{hex}"), true),
            (
                format!(
                    "sha256:{}",
                    hex.to_uppercase()
                        .as_bytes()
                        .chunks(2)
                        .map(|b| std::str::from_utf8(b).unwrap())
                        .collect::<Vec<_>>()
                        .join(":")
                ),
                true,
            ),
            (format!("sha256:{}", "0".repeat(64)), false),
        ] {
            let peer = peer(&text).unwrap();
            assert_eq!(peer.is(der), is, "{text}");
            assert_eq!(PeerName::try_from(peer.to_string()).unwrap(), peer);
        }
        assert!(!peer("dns:lab.example.org").unwrap().is(b"no certificate"));
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", "lab", "dns:", "dns:10.0.0.1", "dns:a b", "sha256:", "sha256:12", "cn:lab"] {
            assert!(peer(text).is_err(), "{text}");
        }
    }
}
