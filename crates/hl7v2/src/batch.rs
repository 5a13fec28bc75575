//! Files and batches (FHS, BHS, BTS, FTS; v2.8.2 §2.10.3) split into messages. The pieces, joined, are the input.

use base::Limits;

use crate::delimiters::Delimiters;
use crate::error::{Malformed, code357};

/// What a piece of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// FHS, BHS, BTS, FTS segments and what stands before the first message.
    Envelope,
    Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    pub kind: PieceKind,
    pub bytes: &'a [u8],
}

/// A file of messages, cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch<'a> {
    pub pieces: Vec<Piece<'a>>,
    /// Counts in BTS-1 or FTS-1 that do not agree with what is there.
    pub deviations: Vec<Malformed>,
    /// Whether the input had an envelope (FHS or BHS).
    pub enveloped: bool,
}

impl<'a> Batch<'a> {
    /// The messages, each from its MSH to before the next header or trailer.
    pub fn messages(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.pieces.iter().filter(|p| p.kind == PieceKind::Message).map(|p| p.bytes)
    }
}

/// Cuts a file, a batch or a lone message. UTF-16 input is taken as one message.
pub fn split<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Batch<'a>, Malformed> {
    let mut batch = Batch::default();
    let mut cuts: Vec<(usize, Header)> = Vec::new();
    for start in line_starts(bytes) {
        if let Some(header) = Header::at(&bytes[start..]) {
            batch.enveloped |= matches!(header, Header::File | Header::Batch);
            cuts.push((start, header));
        }
    }
    if cuts.len() > limits.hl7_segments_max {
        let reason = "more messages in one file than this node takes: split the file";
        return Err(Malformed::new("", 0, 0, code357::INTERNAL, reason));
    }
    let mut begin = 0;
    let mut kind = PieceKind::Envelope;
    for (start, header) in &cuts {
        let lead = &bytes[begin..*start];
        // A byte order mark and line ends before the first header belong to it.
        if begin > 0 || !lead.iter().all(|b| matches!(b, 0xef | 0xbb | 0xbf | b'\r' | b'\n')) {
            batch.push(kind, lead);
            begin = *start;
        }
        kind = if *header == Header::Message { PieceKind::Message } else { PieceKind::Envelope };
    }
    // Without any header at all it is one message, which will be refused with its reason.
    batch.push(if cuts.is_empty() { PieceKind::Message } else { kind }, &bytes[begin..]);
    check_counts(bytes, &cuts, &mut batch.deviations);
    Ok(batch)
}

impl<'a> Batch<'a> {
    fn push(&mut self, kind: PieceKind, bytes: &'a [u8]) {
        if !bytes.is_empty() {
            self.pieces.push(Piece { kind, bytes });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    File,
    Batch,
    Message,
    BatchEnd,
    FileEnd,
}

impl Header {
    fn at(line: &[u8]) -> Option<Header> {
        let header = match line.get(..3)? {
            b"FHS" => Header::File,
            b"BHS" => Header::Batch,
            b"MSH" => Header::Message,
            b"BTS" => Header::BatchEnd,
            b"FTS" => Header::FileEnd,
            _ => return None,
        };
        line.get(3).is_none_or(|b| b.is_ascii_punctuation() || matches!(b, b'\r' | b'\n')).then_some(header)
    }
}

/// Offsets after CR, LF or a byte order mark.
fn line_starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let first = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    std::iter::once(first)
        .chain(bytes.iter().enumerate().filter(|(_, b)| matches!(b, b'\r' | b'\n')).map(|(at, _)| at + 1))
}

/// BTS-1 counts the messages of its batch, FTS-1 the batches of the file; where valued they must agree.
fn check_counts(bytes: &[u8], cuts: &[(usize, Header)], deviations: &mut Vec<Malformed>) {
    let (mut messages, mut batches, mut trailers) = (0, 0, 0);
    let mut delimiters = Delimiters::default();
    for (start, header) in cuts {
        let line = &bytes[*start..];
        let line = &line[..line.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(line.len())];
        match header {
            Header::Message => messages += 1,
            Header::Batch | Header::File => {
                if let Some(declared) = std::str::from_utf8(line).ok().and_then(|t| Delimiters::declared(t, "BHS").ok())
                {
                    delimiters = declared;
                }
                if *header == Header::Batch {
                    batches += 1;
                    messages = 0;
                }
            }
            Header::BatchEnd => {
                trailers += 1;
                if count(line, &delimiters).is_some_and(|said| said != messages) {
                    let reason = "the batch holds another number of messages than its trailer says";
                    deviations.push(Malformed::new("BTS", trailers, 1, code357::SEGMENT_SEQUENCE, reason));
                }
            }
            Header::FileEnd => {
                if count(line, &delimiters).is_some_and(|said| said != batches) {
                    let reason = "the file holds another number of batches than its trailer says";
                    deviations.push(Malformed::new("FTS", 1, 1, code357::SEGMENT_SEQUENCE, reason));
                }
            }
        }
    }
}

fn count(line: &[u8], delimiters: &Delimiters) -> Option<u64> {
    let field = line.split(|b| *b == delimiters.field).nth(1)?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Batch<'_> {
        split(text.as_bytes(), &Limits::default()).unwrap()
    }

    #[test]
    fn files_batches_and_bare_messages() {
        for (text, messages, deviations) in [
            ("MSH|^~\\&|A\rPID|1\r", 1, 0),
            ("\u{feff}MSH|^~\\&|A\r\nPID|1\r\n", 1, 0),
            ("MSH|^~\\&|A\rPID|1\rMSH|^~\\&|B\rPID|1\r", 2, 0),
            ("FHS|^~\\&|X\rBHS|^~\\&|X\rMSH|^~\\&|A\rMSH|^~\\&|B\rBTS|2\rFTS|1\r", 2, 0),
            ("BHS|^~\\&|X\nMSH|^~\\&|A\nBTS|1\n", 1, 0),
            ("FHS|^~\\&|X\rBHS|^~\\&|X\rMSH|^~\\&|A\rBTS|2\rBHS|^~\\&\rMSH|^~\\&|B\rBTS|1\rFTS|1\r", 2, 2),
            ("BHS$%*!@$X\rMSH$%*!@$A\rBTS$1\r", 1, 0),
            ("BHS|^~\\&|X\rBTS|0\r", 0, 0),
            ("no header at all", 1, 0),
            ("MSHX is no header\rMSH|^~\\&|A", 1, 0),
        ] {
            let batch = cut(text);
            assert_eq!((batch.messages().count(), batch.deviations.len()), (messages, deviations), "{text:?}");
        }
        let file = cut("FHS|^~\\&|X\rMSH|^~\\&|A\rPID|1\rFTS|\r");
        assert!(file.enveloped);
        assert_eq!(file.messages().next().unwrap(), b"MSH|^~\\&|A\rPID|1\r");
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_input(text in r"((MSH|FHS|BHS|BTS|FTS|PID)[|0-3]{0,3}[\r\n]{0,2}|.){0,40}") {
            let joined: Vec<u8> = cut(&text).pieces.iter().flat_map(|p| p.bytes.to_vec()).collect();
            prop_assert_eq!(joined, text.into_bytes());
        }
    }
}
