//! What was proved, against what, and what was not: in sentences and in JSON.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Stop;
use crate::tree::Hash;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub file: PathBuf,
    pub offset: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything fits.
    Whole,
    Tampered(Finding),
    /// It could not be verified; nothing is known.
    Unreadable(Finding),
}

impl Outcome {
    fn exit_code(&self) -> u8 {
        match self {
            Outcome::Whole => 0,
            Outcome::Tampered(_) => 1,
            Outcome::Unreadable(_) => 2,
        }
    }
}

/// The result of [`crate::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub dir: PathBuf,
    pub key_name: String,
    pub origin: String,
    /// Known keys that signed the published checkpoint.
    pub signers: Vec<String>,
    pub outcome: Outcome,
    /// Entries read and their root; meaningful when whole.
    pub size: u64,
    pub root: Hash,
    /// Size of the published checkpoint.
    pub published: Option<u64>,
    /// Outside checkpoints that the log agrees with: name and size.
    pub outside: Vec<(String, u64)>,
    pub segments: u64,
    pub frames: u64,
    pub parts: u64,
    /// What was seen and has no bearing on the result.
    pub notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(dir: &Path, key_name: &str) -> Report {
        Report {
            dir: dir.to_owned(),
            key_name: key_name.to_owned(),
            origin: String::new(),
            signers: Vec::new(),
            outcome: Outcome::Whole,
            size: 0,
            root: [0; 32],
            published: None,
            outside: Vec::new(),
            segments: 0,
            frames: 0,
            parts: 0,
            notes: Vec::new(),
        }
    }

    /// 0 whole, 1 tampered, 2 unreadable.
    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code()
    }

    pub fn is_whole(&self) -> bool {
        self.outcome == Outcome::Whole
    }

    /// The largest outside checkpoint that the log agrees with.
    fn newest_outside(&self) -> Option<&(String, u64)> {
        self.outside.iter().max_by_key(|(_, size)| *size)
    }

    /// The result for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        match &self.outcome {
            Outcome::Whole => {
                let _ = writeln!(out, "ok: {}", self.proved());
                let _ = writeln!(out, "not proved: {}", self.unproved());
                let _ = writeln!(out, "root: {}", STANDARD.encode(self.root));
            }
            Outcome::Tampered(finding) => {
                let _ = writeln!(out, "TAMPERED: {}", place(finding));
                let _ = writeln!(out, "keep the folder as it is; compare with a backup and with other checkpoints");
            }
            Outcome::Unreadable(finding) => {
                let _ = writeln!(out, "cannot verify: {}", place(finding));
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    fn proved(&self) -> String {
        let (size, published) = (self.size, self.published.unwrap_or(0));
        let mut text = format!(
            "all {size} entries of `{}` ({} parts, {} frames, {} segments) are in order and unchanged since they were \
             signed by `{}`; the published checkpoint (size {published}), its tiles and its entry bundles agree",
            self.origin,
            self.parts,
            self.frames,
            self.segments,
            self.signers.join("`, `")
        );
        if let Some((name, at)) = self.newest_outside() {
            let _ = write!(text, "; the first {at} are those of the outside checkpoint `{name}`");
            if self.outside.len() > 1 {
                let _ = write!(text, ", the newest of {} that agree", self.outside.len());
            }
        }
        text
    }

    fn unproved(&self) -> String {
        let size = self.size;
        match self.newest_outside() {
            Some((_, at)) if *at == size => {
                "nothing within the log; what was never appended leaves no trace".to_owned()
            }
            Some((_, at)) => format!(
                "entries {at} to {} against an operator who holds the signing key: no outside checkpoint covers them yet",
                size.saturating_sub(1)
            ),
            None if size == 0 => "that the log was always empty: no outside checkpoint was given".to_owned(),
            None => {
                "that history was not rewritten by an operator who holds the signing key: no outside checkpoint was \
                     given (--checkpoint, --witness)"
                    .to_owned()
            }
        }
    }

    /// The result for programs.
    pub fn json(&self) -> String {
        let outcome = match &self.outcome {
            Outcome::Whole => "ok",
            Outcome::Tampered(_) => "tampered",
            Outcome::Unreadable(_) => "unreadable",
        };
        let mut fields = vec![
            format!("\"outcome\":{}", quote(outcome)),
            format!("\"log\":{}", quote(&self.dir.display().to_string())),
            format!("\"origin\":{}", quote(&self.origin)),
            format!("\"key\":{}", quote(&self.key_name)),
            format!("\"signers\":[{}]", quoted(&self.signers)),
        ];
        match &self.outcome {
            Outcome::Whole => fields.extend([
                format!("\"size\":{}", self.size),
                format!("\"root\":{}", quote(&STANDARD.encode(self.root))),
                format!("\"published\":{}", self.published.unwrap_or(0)),
                format!("\"proved\":{}", quote(&self.proved())),
                format!("\"unproved\":{}", quote(&self.unproved())),
                format!("\"parts\":{},\"frames\":{},\"segments\":{}", self.parts, self.frames, self.segments),
            ]),
            Outcome::Tampered(finding) | Outcome::Unreadable(finding) => {
                fields.push(format!("\"what\":{}", quote(&finding.what)));
                fields.push(format!("\"file\":{}", quote(&finding.file.display().to_string())));
                fields.push(format!("\"offset\":{}", finding.offset.map_or("null".to_owned(), |at| at.to_string())));
            }
        }
        let outside = self.outside.iter().map(|(name, size)| format!("{{\"name\":{},\"size\":{size}}}", quote(name)));
        fields.push(format!("\"outside\":[{}]", outside.collect::<Vec<_>>().join(",")));
        fields.push(format!("\"notes\":[{}]", quoted(&self.notes)));
        format!("{{{}}}\n", fields.join(","))
    }
}

/// A fact of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Number(u64),
    Text(String),
}

/// The result of a question about one record or about two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub outcome: Outcome,
    pub proved: String,
    pub unproved: String,
    pub facts: Vec<(&'static str, Fact)>,
    pub notes: Vec<String>,
    /// The proof as a file that stands alone, where one was made.
    pub proof: Option<String>,
}

impl Default for Claim {
    fn default() -> Claim {
        Claim {
            outcome: Outcome::Whole,
            proved: String::new(),
            unproved: String::new(),
            facts: Vec::new(),
            notes: Vec::new(),
            proof: None,
        }
    }
}

impl From<Result<Claim, Stop>> for Claim {
    fn from(result: Result<Claim, Stop>) -> Claim {
        result.unwrap_or_else(|stop| Claim { outcome: stop.into(), ..Claim::default() })
    }
}

impl Claim {
    /// 0 proved, 1 refuted, 2 unreadable.
    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code()
    }

    /// The result for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        match &self.outcome {
            Outcome::Whole => {
                let _ = writeln!(out, "ok: {}", self.proved);
                let _ = writeln!(out, "not proved: {}", self.unproved);
                for (name, fact) in &self.facts {
                    let _ = match fact {
                        Fact::Number(number) => writeln!(out, "{name}: {number}"),
                        Fact::Text(text) => writeln!(out, "{name}: {text}"),
                    };
                }
            }
            Outcome::Tampered(finding) => {
                let _ = writeln!(out, "REFUTED: {}", place(finding));
            }
            Outcome::Unreadable(finding) => {
                let _ = writeln!(out, "cannot verify: {}", place(finding));
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }

    /// The result for programs.
    pub fn json(&self) -> String {
        let mut fields = Vec::new();
        match &self.outcome {
            Outcome::Whole => {
                fields.push("\"outcome\":\"ok\"".to_owned());
                fields.push(format!("\"proved\":{},\"unproved\":{}", quote(&self.proved), quote(&self.unproved)));
                fields.extend(self.facts.iter().map(|(name, fact)| match fact {
                    Fact::Number(number) => format!("{}:{number}", quote(name)),
                    Fact::Text(text) => format!("{}:{}", quote(name), quote(text)),
                }));
            }
            Outcome::Tampered(finding) | Outcome::Unreadable(finding) => {
                let outcome = if self.exit_code() == 1 { "refuted" } else { "unreadable" };
                fields.push(format!("\"outcome\":{},\"what\":{}", quote(outcome), quote(&finding.what)));
                fields.push(format!("\"file\":{}", quote(&finding.file.display().to_string())));
            }
        }
        fields.push(format!("\"notes\":[{}]", quoted(&self.notes)));
        format!("{{{}}}\n", fields.join(","))
    }
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(",")
}

fn place(finding: &Finding) -> String {
    let file = finding.file.display();
    match finding.offset {
        Some(offset) => format!("`{file}` at byte {offset}: {}", finding.what),
        None => format!("`{file}`: {}", finding.what),
    }
}

/// A JSON string (RFC 8259 §7).
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
