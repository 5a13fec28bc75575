//! Files and batches (FHS, BHS, BTS, FTS; v2.8.2 §2.10.3) split into messages. The pieces, joined, are the input.

use base::{Limits, Timestamp};

use crate::delimiters::Delimiters;
use crate::error::{Malformed, code357};
use crate::time::format_utc;

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

/// The answer to a file or batch (v2.8.2 §2.10.3): its envelope turned round, an acknowledgement in the place of each
/// message. `answer` is asked once per message, in order; where it gives none, none stands there.
pub fn answer<'a>(
    batch: &Batch<'a>,
    control_id: &str,
    now: Timestamp,
    mut answer: impl FnMut(&'a [u8]) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let (mut out, mut messages, mut batches) = (Vec::new(), 0_u64, 0_u64);
    for piece in &batch.pieces {
        match Header::at(piece.bytes) {
            Some(Header::Message) | None => {
                if let Some(ack) = answer(piece.bytes) {
                    out.extend(ack);
                    messages += 1;
                }
            }
            Some(Header::File) => out.extend(turned_round(piece.bytes, "FHS", control_id, now)),
            Some(Header::Batch) => {
                messages = 0;
                batches += 1;
                out.extend(turned_round(piece.bytes, "BHS", control_id, now));
            }
            Some(Header::BatchEnd) => out.extend(trailer(piece.bytes, messages)),
            Some(Header::FileEnd) => out.extend(trailer(piece.bytes, batches)),
        }
    }
    out
}

/// Sender and receiver change places; the control id is referred to (BHS-12, FHS-12). Bytes, not text: what is copied
/// is in the sender's character set.
fn turned_round(header: &[u8], id: &str, control_id: &str, now: Timestamp) -> Vec<u8> {
    let line = header.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let separator = line.get(3).copied().unwrap_or(b'|');
    let fields: Vec<&[u8]> = line.split(|b| *b == separator).collect();
    // BHS-1 is the separator itself, so that field n stands at n - 1.
    let field = |n: usize| fields.get(n - 1).copied().unwrap_or_default();
    let time = format_utc(now);
    let turned: [&[u8]; 12] = [
        id.as_bytes(),
        field(2),
        field(5),
        field(6),
        field(3),
        field(4),
        time.as_bytes(),
        b"",
        b"",
        b"",
        control_id.as_bytes(),
        field(11),
    ];
    let mut out = turned.join(&separator);
    out.push(b'\r');
    out
}

fn trailer(line: &[u8], count: u64) -> Vec<u8> {
    let separator = line.get(3).copied().filter(u8::is_ascii_punctuation).unwrap_or(b'|');
    let mut out = line[..3].to_vec();
    out.push(separator);
    out.extend(format!("{count}\r").into_bytes());
    out
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

    #[test]
    fn an_answer_mirrors_the_file() {
        let text = "FHS|^~\\&|A|B|C|D|||||F1\rBHS|^~\\&|A|B|C|D|||||B1\rMSH|^~\\&|1\rMSH|^~\\&|2\rBTS|2\rBHS|^~\\&|A|B|C|D|||||B2\r\
                    MSH|^~\\&|3\rBTS|1\rFTS|2\r";
        let mut n = 0;
        let answered = answer(&cut(text), "W7", Timestamp(1_795_570_643_123), |message| {
            n += 1;
            assert!(message.starts_with(b"MSH"));
            (n != 2).then(|| format!("MSA|AA|{n}\r").into_bytes())
        });
        expect_test::expect![[r"
            FHS|^~\&|C|D|A|B|20261125013723.123+0000||||W7|F1
            BHS|^~\&|C|D|A|B|20261125013723.123+0000||||W7|B1
            MSA|AA|1
            BTS|1
            BHS|^~\&|C|D|A|B|20261125013723.123+0000||||W7|B2
            MSA|AA|3
            BTS|1
            FTS|2
        "]]
        .assert_eq(&String::from_utf8(answered).unwrap().replace('\r', "\n"));
        let none = answer(&cut("BHS$%\rMSH$%\rBTS$1\r"), "W", Timestamp(0), |_| None);
        assert!(none.starts_with(b"BHS$%$") && none.ends_with(b"$W$\rBTS$0\r"), "{}", none.escape_ascii());
    }

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
