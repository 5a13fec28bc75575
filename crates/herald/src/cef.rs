//! CEF, the Common Event Format (ArcSight, version 0): `CEF:0|vendor|product|version|class|name|severity|extension`.
//!
//! In the header `\` and `|` are escaped; in the extension `\`, `=` and line ends. Keys are CEF's own where it has them;
//! the rest of the record stands under keys that begin with `wm`.

use std::fmt::Write;

use gate::Outcome;

use crate::event::{Event, Kind, Place};

pub fn render(event: &Event<'_>, place: &Place) -> String {
    let record = event.record;
    let kind = Kind::of(record);
    let mut out = String::with_capacity(1024);
    let name = format!("{} {}", record.action, record.kinds.join(","));
    for field in ["CEF:0", "Wardmesh", "ward", place.version, &record.action, name.trim(), severity(event)] {
        header(&mut out, field);
    }
    let mut extension = Extension { out, begun: false };
    extension.put("rt", &record.at.ms().to_string());
    extension.put("externalId", &event.index.to_string());
    extension.put("deviceExternalId", &place.log);
    extension.put("dvchost", &place.mesh);
    extension.put("cat", kind.dicom().2);
    extension.put("act", &record.action);
    extension.put("outcome", record.outcome.code());
    extension.put("suser", event.user());
    match record.from {
        Some(std::net::IpAddr::V4(ip)) => extension.put("src", &ip.to_string()),
        Some(std::net::IpAddr::V6(ip)) => extension.labelled("c6a2", "Source IPv6 Address", &ip.to_string()),
        None => extension.put("shost", "localhost"),
    }
    let reason = if record.outcome == Outcome::Refused { "reason" } else { "msg" };
    extension.put(reason, &record.what);
    extension.put("sproc", event.service().unwrap_or_default());
    extension.put("cnt", &record.rows.to_string());
    let trace = record.trace.map(|trace| base::hex::encode(&trace)).unwrap_or_default();
    extension.labelled("cs1", "Purpose of use", record.purpose.map_or("", |purpose| purpose.code()));
    extension.labelled("cs2", "Policies", &record.policies.join(","));
    let tokens: Vec<String> = event.named().map(|token| base::hex::encode(&token)).collect();
    extension.labelled("cs3", &format!("Patient tokens of {}", record.patient_domain()), &tokens.join(","));
    extension.labelled("cs4", "Trace", &trace);
    extension.details(event);
    extension.out
}

/// 0 to 10.
fn severity(event: &Event<'_>) -> &'static str {
    match event.record.outcome {
        _ if event.record.emergency => "8",
        Outcome::Served | Outcome::NotFound => "2",
        Outcome::Refused => "5",
        Outcome::Failed | Outcome::Granted => "8",
    }
}

/// One header field with its bar. A line end cannot be written there: it is a space.
fn header(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' | '|' => {
                out.push('\\');
                out.push(c);
            }
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('|');
}

struct Extension {
    out: String,
    begun: bool,
}

impl Extension {
    /// Nothing for an empty value: `key=` followed by a space could be read two ways.
    fn put(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.begun, true) {
            self.out.push(' ');
        }
        self.out.push_str(key);
        self.out.push('=');
        for c in value.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '=' => self.out.push_str("\\="),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                c => self.out.push(c),
            }
        }
    }

    fn labelled(&mut self, key: &str, label: &str, value: &str) {
        if !value.is_empty() {
            self.put(&format!("{key}Label"), label);
            self.put(key, value);
        }
    }

    /// `patients-of` → `wmPatientsOf`; a name that repeats is numbered from its second on.
    fn details(&mut self, event: &Event<'_>) {
        let mut last = ("", 1);
        for (name, text) in event.details() {
            last = if last.0 == name { (name, last.1 + 1) } else { (name, 1) };
            let mut key = "wm".to_owned();
            for part in name.split('-') {
                let mut chars = part.chars();
                key.extend(chars.next().map(|first| first.to_ascii_uppercase()));
                key.extend(chars);
            }
            if last.1 > 1 {
                let _ = write!(key, "{}", last.1);
            }
            self.put(&key, &text);
        }
    }
}
