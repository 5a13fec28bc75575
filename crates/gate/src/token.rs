//! Access tokens: ES256 (RFC 7518 §3.4) JWTs in the profile of RFC 9068, short-lived, made by [`TokenIssuer`] and
//! checked by [`TokenKeys`].
//!
//! Never here: where keys come from (the caller takes them from the vault), who the principal is (see `caller`).

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base::{Entropy, PrincipalId, Purpose, Role, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// A longer text is no token of ours.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Clocks of two nodes may differ by this much.
const SKEW_S: i64 = 30;
/// RFC 9068 §2.1.
const TYPE: &str = "at+jwt";

/// Why a caller is not known. To all but the log these look the same: 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    #[error("no access token was sent; send one as `Authorization: Bearer`")]
    Missing,
    #[error("the access token is not valid; ask for a new one")]
    Invalid,
    #[error("the access token has expired; ask for a new one")]
    Expired,
    #[error("the access token is not valid yet; check the clocks")]
    NotYet,
    #[error("the principal of this token is not known or not enabled; ask an administrator")]
    Unknown,
    #[error("the access token was revoked; sign in again")]
    Revoked,
    /// An outage, not a missing right.
    #[error("{0}")]
    Unavailable(crate::Outage),
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub sub: PrincipalId,
    /// Seconds since 1970, as are `nbf` and `exp`.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    pub jti: String,
    pub roles: Vec<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<base::DomainName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
    #[serde(default)]
    pub care_team: bool,
    /// Authenticator assurance level, 1 to 3.
    #[serde(default = "lowest")]
    pub assurance: u8,
    /// For whom the subject acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<PrincipalId>,
}

fn lowest() -> u8 {
    1
}

/// What a new token shall say.
#[derive(Debug, Clone)]
pub struct Issue {
    pub principal: PrincipalId,
    pub roles: Vec<Role>,
    pub domain: Option<base::DomainName>,
    pub purpose: Option<Purpose>,
    pub agreement: Option<String>,
    pub care_team: bool,
    pub assurance: u8,
    pub on_behalf: Option<PrincipalId>,
    pub ttl_ms: i64,
}

impl Issue {
    /// An hour for one principal in one role, to fill in.
    pub fn new(principal: PrincipalId, role: Role) -> Self {
        Issue {
            principal,
            roles: vec![role],
            domain: None,
            purpose: None,
            agreement: None,
            care_team: false,
            assurance: 2,
            on_behalf: None,
            ttl_ms: 3_600_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the signing key is not a P-256 key in PKCS#8; make a new one")]
    Key,
    #[error("a token lives at most {max_ms} ms; ask for less")]
    TooLong { max_ms: i64 },
    #[error("the token could not be signed; check the key")]
    Sign,
}

/// Makes tokens. Holds the private key; only the node that is the identity provider has one.
pub struct TokenIssuer {
    key: EncodingKey,
    public: Vec<u8>,
    kid: String,
    issuer: String,
    audience: String,
    ttl_ms_max: i64,
}

impl TokenIssuer {
    /// A new P-256 private key as PKCS#8, to be kept in the vault.
    pub fn new_key() -> Result<zeroize::Zeroizing<Vec<u8>>, TokenError> {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng);
        document.map(|document| zeroize::Zeroizing::new(document.as_ref().to_vec())).map_err(|_| TokenError::Key)
    }

    pub fn from_pkcs8(pkcs8: &[u8], issuer: &str, audience: &str, ttl_ms_max: i64) -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| TokenError::Key)?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(TokenIssuer {
            key: EncodingKey::from_ec_der(pkcs8),
            kid: kid(&public),
            public,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            ttl_ms_max,
        })
    }

    /// The public key, an uncompressed point (SEC 1 §2.3.3): what [`TokenKeys`] takes.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    pub fn issue(&self, issue: &Issue, now: Timestamp, entropy: &dyn Entropy) -> Result<String, TokenError> {
        if issue.ttl_ms > self.ttl_ms_max || issue.ttl_ms <= 0 {
            return Err(TokenError::TooLong { max_ms: self.ttl_ms_max });
        }
        let mut jti = [0; 16];
        entropy.fill(&mut jti);
        let iat = now.ms().div_euclid(1000);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: issue.principal.clone(),
            iat,
            nbf: iat,
            exp: iat + issue.ttl_ms / 1000,
            jti: base::hex::encode(&jti),
            roles: issue.roles.clone(),
            domain: issue.domain.clone(),
            purpose: issue.purpose,
            agreement: issue.agreement.clone(),
            care_team: issue.care_team,
            assurance: issue.assurance,
            on_behalf: issue.on_behalf.clone(),
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| TokenError::Sign)
    }
}

/// A key's name: the start of its hash, so that no two keys share one.
fn kid(public: &[u8]) -> String {
    base::hex::encode(&digest::digest(&digest::SHA256, public).as_ref()[..8])
}

/// The keys whose tokens are believed, with issuer and audience. Several while keys rotate.
pub struct TokenKeys {
    keys: Vec<(String, DecodingKey)>,
    issuer: String,
    audience: String,
    ttl_ms_max: i64,
}

impl TokenKeys {
    /// `public` are uncompressed P-256 points.
    pub fn new(issuer: &str, audience: &str, public: &[&[u8]], ttl_ms_max: i64) -> Self {
        let keys = public.iter().map(|point| (kid(point), DecodingKey::from_ec_der(point))).collect();
        TokenKeys { keys, issuer: issuer.to_owned(), audience: audience.to_owned(), ttl_ms_max }
    }

    pub fn of(issuer: &TokenIssuer) -> Self {
        TokenKeys::with_previous(issuer, None)
    }

    /// The issuer's key, and the one before it (an uncompressed point) while tokens of that may live.
    pub fn with_previous(issuer: &TokenIssuer, previous: Option<&[u8]>) -> Self {
        let public: Vec<&[u8]> = std::iter::once(issuer.public_key()).chain(previous).collect();
        TokenKeys::new(&issuer.issuer, &issuer.audience, &public, issuer.ttl_ms_max)
    }

    /// Signature, type, key, issuer, audience and lifetime. The times are checked by [`check_times`], with our clock.
    pub fn verify(&self, token: &str) -> Result<Claims, Unauthenticated> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unauthenticated::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Unauthenticated::Invalid)?;
        // The algorithm is ours to say, never the token's (RFC 8725 §3.1); no header may bring a key along.
        let foreign = header.crit.is_some()
            || header.jwk.is_some()
            || header.jku.is_some()
            || header.x5u.is_some()
            || header.x5c.is_some();
        if header.alg != Algorithm::ES256 || header.typ.as_deref() != Some(TYPE) || foreign {
            return Err(Unauthenticated::Invalid);
        }
        let kid = header.kid.ok_or(Unauthenticated::Invalid)?;
        let (_, key) = self.keys.iter().find(|(known, _)| *known == kid).ok_or(Unauthenticated::Invalid)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
        let claims = decoded.map_err(|_| Unauthenticated::Invalid)?.claims;
        let lives_ms = claims.exp.saturating_sub(claims.iat).saturating_mul(1000);
        let sane = claims.jti.len() <= 64 && (1..=3).contains(&claims.assurance) && claims.roles.len() <= 32;
        if !sane || lives_ms <= 0 || lives_ms > self.ttl_ms_max {
            return Err(Unauthenticated::Invalid);
        }
        Ok(claims)
    }
}

/// Whether a token is of now. The issuer's clock may be ahead by [`SKEW_S`]; an expired token is expired.
pub(crate) fn check_times(claims: &Claims, now: Timestamp) -> Result<(), Unauthenticated> {
    let now_s = now.ms().div_euclid(1000);
    if now_s >= claims.exp {
        Err(Unauthenticated::Expired)
    } else if claims.nbf.max(claims.iat) > now_s + SKEW_S {
        Err(Unauthenticated::NotYet)
    } else {
        Ok(())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use base::SeededEntropy;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const TTL_MS: i64 = 3_600_000;

    fn issuer() -> TokenIssuer {
        TokenIssuer::from_pkcs8(&TokenIssuer::new_key().unwrap(), "https://id.test", "ward", TTL_MS).unwrap()
    }

    fn issue(issuer: &TokenIssuer) -> String {
        let issue = Issue::new(PrincipalId::parse("dr-lee").unwrap(), Role::Physician);
        issuer.issue(&issue, NOW, &SeededEntropy::new(1)).unwrap()
    }

    /// The token with another header, claims or signature.
    fn forge(token: &str, header: Option<&str>, claims: impl Fn(String) -> String, keep_signature: bool) -> String {
        let mut parts = token.split('.').map(str::to_owned).collect::<Vec<_>>();
        if let Some(header) = header {
            parts[0] = URL_SAFE_NO_PAD.encode(header);
        }
        let old = String::from_utf8(URL_SAFE_NO_PAD.decode(&parts[1]).unwrap()).unwrap();
        parts[1] = URL_SAFE_NO_PAD.encode(claims(old));
        if !keep_signature {
            parts[2] = String::new();
        }
        parts.join(".")
    }

    #[test]
    fn a_token_round_trips() {
        let issuer = issuer();
        let claims = TokenKeys::of(&issuer).verify(&issue(&issuer)).unwrap();
        assert_eq!((claims.sub.as_str(), claims.roles.as_slice()), ("dr-lee", [Role::Physician].as_slice()));
        for (ms, expected) in [
            (-SKEW_S * 1000 - 1000, Err(Unauthenticated::NotYet)),
            (-SKEW_S * 1000, Ok(())),
            (0, Ok(())),
            (TTL_MS - 1000, Ok(())),
            (TTL_MS, Err(Unauthenticated::Expired)),
        ] {
            assert_eq!(check_times(&claims, NOW.plus_ms(ms)), expected, "{ms}");
        }
    }

    #[test]
    fn tampered_and_confused_tokens_are_refused() {
        let issuer = issuer();
        let keys = TokenKeys::of(&issuer);
        let good = issue(&issuer);
        let kid = &issuer.kid;
        let same = |claims: String| claims;
        let es256 = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}"}}"#);
        let head = |alg: &str| format!(r#"{{"alg":"{alg}","typ":"at+jwt","kid":"{kid}"}}"#);
        // RFC 8725 §2.1: the public key used as an HMAC secret.
        let mut hmac_header = Header::new(Algorithm::HS256);
        (hmac_header.typ, hmac_header.kid) = (Some(TYPE.into()), Some(kid.clone()));
        let claims = keys.verify(&good).unwrap();
        let hmac = jsonwebtoken::encode(&hmac_header, &claims, &EncodingKey::from_secret(issuer.public_key())).unwrap();
        let mut flipped = good.clone().into_bytes();
        let last = flipped.len() - 10;
        flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
        let cases = [
            ("empty", String::new()),
            ("no token", "abc".into()),
            ("two parts", "a.b".into()),
            ("none", forge(&good, Some(&head("none")), same, false)),
            ("None", forge(&good, Some(&head("None")), same, false)),
            ("hmac header", forge(&good, Some(&head("HS256")), same, true)),
            ("hmac by public key", hmac),
            ("other curve", forge(&good, Some(&head("ES384")), same, true)),
            ("no signature", forge(&good, None, same, false)),
            ("more roles", forge(&good, None, |c| c.replace("physician", "administrator"), true)),
            ("longer", forge(&good, None, |c| c.replace("\"exp\":17", "\"exp\":27"), true)),
            ("no kid", forge(&good, Some(r#"{"alg":"ES256","typ":"at+jwt"}"#), same, true)),
            ("other kid", forge(&good, Some(&es256.replace(kid, "0011223344556677")), same, true)),
            ("id token", forge(&good, Some(&es256.replace("at+jwt", "JWT")), same, true)),
            ("flipped bit", String::from_utf8(flipped).unwrap()),
            ("oversize", format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX))),
        ];
        for (name, token) in cases {
            assert_eq!(keys.verify(&token), Err(Unauthenticated::Invalid), "{name}");
        }
    }

    #[test]
    fn another_issuer_audience_or_key_is_refused() {
        let issuer = issuer();
        let public = issuer.public_key();
        let token = issue(&issuer);
        assert!(TokenKeys::new("https://id.test", "ward", &[public], TTL_MS).verify(&token).is_ok());
        let other = self::issuer();
        for (name, keys) in [
            ("issuer", TokenKeys::new("https://other.test", "ward", &[public], TTL_MS)),
            ("audience", TokenKeys::new("https://id.test", "other", &[public], TTL_MS)),
            ("key", TokenKeys::of(&other)),
            ("no key", TokenKeys::new("https://id.test", "ward", &[], TTL_MS)),
            ("lifetime", TokenKeys::new("https://id.test", "ward", &[public], TTL_MS - 1)),
        ] {
            assert_eq!(keys.verify(&token), Err(Unauthenticated::Invalid), "{name}");
        }
    }

    #[test]
    fn a_token_beyond_the_limit_is_not_made() {
        let mut issue = Issue::new(PrincipalId::parse("dr-lee").unwrap(), Role::Physician);
        for ttl_ms in [0, -1, TTL_MS + 1] {
            issue.ttl_ms = ttl_ms;
            let made = issuer().issue(&issue, NOW, &SeededEntropy::new(1));
            assert_eq!(made, Err(TokenError::TooLong { max_ms: TTL_MS }));
        }
    }
}
