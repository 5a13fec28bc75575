//! A route as `domain.toml` declares it: what it takes, what it changes, where it sends.

use std::path::PathBuf;

use base::{Purpose, SourceName};
use hl7v2::Message;
use hl7v2::edit::{Edit, Spot};
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::deid::{Deidentify, Method};
use crate::feed::Make;

/// One `[[route]]` of a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique within the domain; its position is kept under this name.
    pub name: SourceName,
    /// Sources whose messages it takes. Empty: all HL7 v2 sources of the domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<SourceName>,
    /// Messages that are made from silver, `ADT`, `ORU`, `VXU`, instead of those that came in. Empty: those that came in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub make: Vec<Make>,
    /// Types it takes, `ADT` or `ADT^A01`. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// What must hold of the fields, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
    /// `mllp://HOST:PORT`, `mllps://HOST:PORT`, `http://...` (this machine), `https://...`, or `file:FOLDER`.
    pub to: Target,
    /// Authorities that the receiver's certificate must come from: PEM, relative to the mesh folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
    /// Our own certificate and key, where the receiver asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// For which purpose the receiver gets it.
    pub purpose: Purpose,
    /// What happens with a message that policy does not let go to the receiver.
    #[serde(default, skip_serializing_if = "OnRefused::is_skip")]
    pub on_refused: OnRefused,
    /// The agreement that covers the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
    /// The hospital runs the receiver itself: only addresses of this machine or of private networks are connected to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    /// What is changed on the way, in this order.
    #[serde(default, rename = "change", skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How it is de-identified on the way, after the changes: `"safe-harbor"`, `"shifted-dates"`, `"limited-data-set"`, or
    /// a table with `profile`, `project` and `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deidentify: Option<Deidentify>,
    /// Begins with the journal's first entry, not with the next to come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub from_beginning: bool,
    /// How often a message is sent that the receiver answers with an error (`AE`, `CE`, HTTP 5xx) before it becomes a
    /// dead letter. A rejection (`AR`, `CR`, HTTP 4xx) makes it one at once; a receiver that is not there never does.
    #[serde(default = "tries")]
    pub tries: u32,
    /// For connecting, and for an answer: each.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// Entries behind, beyond which an alarm is logged.
    #[serde(default = "behind_max")]
    pub behind_max: u64,
}

/// What a route does with a message that policy refuses. It is never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefused {
    /// The message is kept among those refused, with the reason; the next one goes on.
    #[default]
    Skip,
    /// The route waits, with everything after it, until policy lets it go or a person says where to go on.
    Hold,
}

impl OnRefused {
    fn is_skip(&self) -> bool {
        *self == OnRefused::Skip
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn tries() -> u32 {
    3
}

fn timeout_seconds() -> u64 {
    30
}

fn behind_max() -> u64 {
    10_000
}

/// A change of fields. Exactly one of `set`, `remove` and `remove_segments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenChange", into = "WrittenChange")]
pub enum Change {
    Set { spot: Spot, text: Text },
    Remove(Spot),
    RemoveSegments(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    Given(String),
    /// What stands at another path.
    From(hl7v2::Path),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    /// With `set`: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// With `set`: the path whose text it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remove: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remove_segments: Option<String>,
}

impl TryFrom<WrittenChange> for Change {
    type Error = &'static str;

    fn try_from(written: WrittenChange) -> Result<Self, Self::Error> {
        const WRONG: &str = "a change is `set` with `to` or `from`, or `remove`, or `remove_segments`";
        const PATH: &str = "no field to change: write it like `PID-5.1` or `OBX[2]-5`; MSH-1 and MSH-2 stay";
        let spot = |text: String| text.parse::<Spot>().map_err(|_| PATH);
        match written {
            WrittenChange { set: Some(path), to: Some(text), from: None, remove: None, remove_segments: None } => {
                Ok(Change::Set { spot: spot(path)?, text: Text::Given(text) })
            }
            WrittenChange { set: Some(path), to: None, from: Some(from), remove: None, remove_segments: None } => {
                let from = from.parse().map_err(|_| PATH)?;
                Ok(Change::Set { spot: spot(path)?, text: Text::From(from) })
            }
            WrittenChange { set: None, to: None, from: None, remove: Some(path), remove_segments: None } => {
                Ok(Change::Remove(spot(path)?))
            }
            WrittenChange { set: None, to: None, from: None, remove: None, remove_segments: Some(id) }
                if id.len() == 3 && id != "MSH" =>
            {
                Ok(Change::RemoveSegments(id))
            }
            _ => Err(WRONG),
        }
    }
}

impl From<Change> for WrittenChange {
    fn from(change: Change) -> WrittenChange {
        let none = WrittenChange { set: None, to: None, from: None, remove: None, remove_segments: None };
        match change {
            Change::Set { spot, text: Text::Given(text) } => {
                WrittenChange { set: Some(spot.to_string()), to: Some(text), ..none }
            }
            Change::Set { spot, text: Text::From(path) } => {
                WrittenChange { set: Some(spot.to_string()), from: Some(path.to_string()), ..none }
            }
            Change::Remove(spot) => WrittenChange { remove: Some(spot.to_string()), ..none },
            Change::RemoveSegments(id) => WrittenChange { remove_segments: Some(id), ..none },
        }
    }
}

/// Where a route sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    pub scheme: Scheme,
    /// Empty for a folder.
    pub host: String,
    pub port: u16,
    /// Path of the URL, or the folder.
    pub path: String,
    written: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Mllp,
    Mllps,
    Http,
    Https,
    File,
}

impl Scheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Mllps | Scheme::Https)
    }
}

impl TryFrom<String> for Target {
    type Error = &'static str;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        const WRONG: &str =
            "no address of a receiver: write mllp://HOST:PORT, mllps://HOST:PORT, https://HOST/PATH or file:FOLDER";
        if let Some(folder) = written.strip_prefix("file:") {
            let path = folder.to_owned();
            return if path.is_empty() {
                Err(WRONG)
            } else {
                Ok(Target { scheme: Scheme::File, host: String::new(), port: 0, path, written })
            };
        }
        let (scheme, rest) = written.split_once("://").ok_or(WRONG)?;
        let (scheme, port) = match scheme {
            "mllp" => (Scheme::Mllp, None),
            "mllps" => (Scheme::Mllps, None),
            "http" => (Scheme::Http, Some(80)),
            "https" => (Scheme::Https, Some(443)),
            _ => return Err(WRONG),
        };
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        // A query would hold what must not stand in a URL; a user would be a secret in a file.
        if authority.contains('@') || rest.contains(['?', '#']) {
            return Err(WRONG);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, port),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let has_path_rightly = path.is_empty() || matches!(scheme, Scheme::Http | Scheme::Https);
        match port.filter(|port: &u16| *port > 0) {
            Some(port) if !host.is_empty() && has_path_rightly => {
                let path = format!("/{path}");
                Ok(Target { scheme, host, port, path, written })
            }
            _ => Err(WRONG),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.written
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written)
    }
}

/// `ADT` or `ADT^A01`, as sources and routes name what they take.
pub fn is_message_type(word: &str) -> bool {
    let is_word = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let parts: Vec<&str> = word.split('^').collect();
    parts.len() <= 2 && parts.into_iter().all(is_word)
}

impl Route {
    /// Whether a message of this source goes this way.
    pub fn takes(&self, source: &str, message: &Message<'_>) -> bool {
        if !self.from.is_empty() && !self.from.iter().any(|from| from.as_str() == source) {
            return false;
        }
        let info = message.info();
        let is_type = |word: &String| {
            let mut parts = word.split('^');
            parts.next() == Some(info.code.as_str()) && parts.next().is_none_or(|trigger| trigger == info.trigger)
        };
        (self.types.is_empty() || self.types.iter().any(is_type)) && self.when.iter().all(|when| when.holds(message))
    }

    /// The message as it leaves; without changes the very bytes that came.
    pub fn changed(&self, message: &Message<'_>) -> Vec<u8> {
        if self.changes.is_empty() {
            return message.raw().to_vec();
        }
        let mut edit = Edit::of(message);
        for change in &self.changes {
            match change {
                Change::Set { spot, text: Text::Given(text) } => edit.set(spot, text),
                Change::Set { spot, text: Text::From(path) } => {
                    edit.set(spot, &message.at(path).value().unwrap_or_default());
                }
                Change::Remove(spot) => edit.remove(spot),
                Change::RemoveSegments(id) => edit.remove_segments(id),
            }
        }
        edit.bytes()
    }

    /// What is wrong with the route itself, and what to do.
    pub fn findings(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut find = |what: &str, help: &str| out.push((format!("route `{}` {what}", self.name), help.to_owned()));
        if let Some(word) = self.types.iter().find(|word| !is_message_type(word)) {
            find(&format!("takes `{word}`, which is no message type"), "write it as ADT or ADT^A01");
        }
        if self.to.scheme.is_tls() && self.authority.is_none() {
            find("sends over TLS and trusts nobody", "add authority = \"PATH\", the receiver's CA in PEM");
        }
        if self.certificate.is_some() != self.key.is_some() {
            find("has a certificate without its key, or a key without its certificate", "give both or none");
        }
        if self.agreement.is_none()
            && self.deidentify.as_ref().is_some_and(|declared| declared.profile == Method::LimitedDataSet)
        {
            find("sends a limited data set without an agreement", "name the data use agreement: agreement = \"ID\"");
        }
        if !(1..=100).contains(&self.tries) || !(1..=600).contains(&self.timeout_seconds) {
            find("has a number out of bounds", "tries is 1 to 100, timeout_seconds 1 to 600");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, host, port, path) in [
            ("mllp://lab.example.org:2575", "lab.example.org", 2575, "/"),
            ("mllps://[::1]:2576", "::1", 2576, "/"),
            ("https://lab.example.org/hl7/in", "lab.example.org", 443, "/hl7/in"),
            ("http://127.0.0.1:8080/in", "127.0.0.1", 8080, "/in"),
            ("file:out/lab", "", 0, "out/lab"),
        ] {
            let target = Target::try_from(text.to_owned()).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.path.as_str()), (host, port, path), "{text}");
        }
        for text in [
            "",
            "file:",
            "mllp://lab",
            "mllp://lab:0",
            "mllp://lab:2575/x",
            "https://u:p@lab/",
            "https://lab/?id=1",
            "ftp://x:1",
        ] {
            assert!(Target::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_route_takes_and_changes() {
        let route: Route = toml::from_str(
            r#"
            name = "to-lab"
            from = ["adt-main"]
            types = ["ADT^A01", "ORU"]
            when = ["PV1-2 = I"]
            to = "mllp://127.0.0.1:2575"
            purpose = "TREAT"
            internal = true
            change = [
                { set = "MSH-5", to = "LAB" }, { set = "PID-2.1", from = "PID-3.1" }, { remove = "PID-19" },
                { remove_segments = "GT1" },
            ]"#,
        )
        .unwrap();
        let text = |class: &str, event: &str| {
            format!(
                "MSH|^~\\&|A|B|C|D|20200101||ADT^{event}|1|P|2.5\rPID|1||M1^^^X||Doe||||||||||||||123\rPV1|1|{class}\rGT1|1|x\r"
            )
        };
        let takes = |from: &str, class: &str, event: &str| {
            let text = text(class, event);
            route.takes(from, &hl7v2::parse(text.as_bytes(), &base::Limits::default()).unwrap())
        };
        assert!(takes("adt-main", "I", "A01"));
        assert!(!takes("other", "I", "A01") && !takes("adt-main", "O", "A01") && !takes("adt-main", "I", "A08"));
        let text = text("I", "A01");
        let message = hl7v2::parse(text.as_bytes(), &base::Limits::default()).unwrap();
        assert_eq!(
            String::from_utf8(route.changed(&message)).unwrap(),
            "MSH|^~\\&|A|B|LAB|D|20200101||ADT^A01|1|P|2.5\rPID|1|M1|M1^^^X||Doe\rPV1|1|I\r"
        );
        assert!(route.findings().is_empty());
        for change in [
            "{ set = \"MSH-1\", to = \"x\" }",
            "{ set = \"PID-3\" }",
            "{ remove = \"PID\" }",
            "{ remove_segments = \"MSH\" }",
        ] {
            let text = format!("change = [{change}]");
            #[derive(Deserialize)]
            struct Changes {
                #[allow(dead_code)]
                change: Vec<Change>,
            }
            assert!(toml::from_str::<Changes>(&text).is_err(), "{change}");
        }
    }
}
