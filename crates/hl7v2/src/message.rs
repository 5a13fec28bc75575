//! A message: segments indexed once, fields found by their separators, everything else cut when asked.
//!
//! Linear in the size of the input. Never loses a byte: [`Message::raw`] is what came in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use base::Limits;

use crate::charset::{self, Charset};
use crate::delimiters::Delimiters;
use crate::element::{Context, Element, Level};
use crate::error::{Malformed, code357};
use crate::path::Path;

/// Fields of one segment; the standard's longest segments have fewer than 100.
const FIELDS_MAX: usize = 4_096;

/// Where the text comes from.
enum Source<'a> {
    /// The raw bytes are UTF-8 and are the text.
    Utf8(Cow<'a, str>),
    Decoded {
        raw: Cow<'a, [u8]>,
        text: String,
    },
}

struct Span {
    start: u32,
    end: u32,
    /// After the terminator as it came: CR, LF, CRLF or nothing.
    next: u32,
    /// Into `Message::separators`.
    separators: Range<u32>,
    occurrence: u32,
}

/// One HL7 v2 message. `{:?}` shows no content.
pub struct Message<'a> {
    source: Source<'a>,
    context: Context,
    segments: Vec<Span>,
    /// Offsets of all field separators, in order.
    separators: Vec<u32>,
    deviations: Vec<Malformed>,
}

/// A message that owns its bytes.
pub type OwnedMessage = Message<'static>;

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes, {} segments)", self.raw().len(), self.segments.len())
    }
}

/// Reads one message. It fails only where nothing can be read: no header, unusable delimiters, an unsupported
/// character set, a limit. Lesser faults are in [`Message::deviations`] and [`Message::check_header`].
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Message<'a>, Malformed> {
    if bytes.len() > limits.hl7_message_bytes_max || u32::try_from(bytes.len()).is_err() {
        return Err(whole(
            code357::INTERNAL,
            "the message is larger than this node takes: split it or raise the limit",
        ));
    }
    let (text, charset) = charset::decode(bytes)?;
    if u32::try_from(text.len()).is_err() {
        return Err(whole(
            code357::INTERNAL,
            "the message is larger than this node takes: split it or raise the limit",
        ));
    }
    let source = match text {
        Cow::Borrowed(text) => Source::Utf8(Cow::Borrowed(text)),
        Cow::Owned(text) => Source::Decoded { raw: Cow::Borrowed(bytes), text },
    };
    Message::index(source, charset, limits)
}

fn whole(code: u16, reason: &'static str) -> Malformed {
    Malformed::new("", 0, 0, code, reason)
}

/// A segment id and a field separator, or nothing more, stand at the start of `line`.
fn begins_segment(line: &[u8], separator: u8) -> bool {
    line.len() >= 3
        && line[0].is_ascii_uppercase()
        && line[1..3].iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && line.get(3).is_none_or(|b| *b == separator || matches!(b, b'\r' | b'\n'))
}

/// The end of the segment that starts at `from`, and where the next one starts. CR ends a segment (v2.8.2 §2.5.1);
/// so does CRLF, and LF where the message knows no CR or where the next segment visibly begins.
fn segment_end(bytes: &[u8], from: usize, separator: u8, has_cr: bool) -> (usize, usize) {
    let mut at = from;
    while let Some(found) = bytes[at..].iter().position(|b| matches!(b, b'\r' | b'\n')) {
        let end = at + found;
        let next = end + 1;
        if bytes[end] == b'\r' {
            return (end, if bytes.get(next) == Some(&b'\n') { next + 1 } else { next });
        }
        if !has_cr || next == bytes.len() || begins_segment(&bytes[next..], separator) {
            return (end, next);
        }
        at = next;
    }
    (bytes.len(), bytes.len())
}

/// Where the segment ends that a message begins with.
pub(crate) fn header_end(bytes: &[u8], separator: u8) -> usize {
    segment_end(bytes, 0, separator, bytes.contains(&b'\r')).0
}

impl<'a> Message<'a> {
    fn index(source: Source<'a>, charset: Charset, limits: &Limits) -> Result<Message<'a>, Malformed> {
        let text = match &source {
            Source::Utf8(text) => &**text,
            Source::Decoded { text, .. } => text,
        };
        let bytes = text.as_bytes();
        let lead = text.len() - text.trim_start_matches(['\u{feff}', '\r', '\n']).len();
        if !bytes[lead..].starts_with(b"MSH") {
            return Err(whole(code357::SEGMENT_SEQUENCE, "no message header: a message must begin with MSH"));
        }
        let has_cr = bytes.contains(&b'\r');
        let declared = bytes.get(lead + 3).copied().unwrap_or_default();
        let header_end = lead + header_end(&bytes[lead..], declared);
        let delimiters = Delimiters::declared(&text[lead..header_end], "MSH")?;
        let separator = delimiters.field;

        let (mut segments, mut separators) = (Vec::new(), Vec::new());
        let mut deviations = Vec::new();
        let mut counts: HashMap<&str, u32> = HashMap::new();
        let mut start = lead;
        while start < bytes.len() {
            let (end, next) = segment_end(bytes, start, separator, has_cr);
            if end == start {
                // An empty line: kept in raw, no segment.
                start = next;
                continue;
            }
            if segments.len() == limits.hl7_segments_max {
                return Err(whole(code357::INTERNAL, "more segments than this node takes: split the message"));
            }
            let name = segment_name(&text[start..end], separator);
            let occurrence = counts.entry(name).or_default();
            *occurrence += 1;
            if name == "MSH" && *occurrence > 1 {
                return Err(Malformed::new(
                    "MSH",
                    *occurrence,
                    0,
                    code357::SEGMENT_SEQUENCE,
                    "a second message header: split batches into messages first",
                ));
            }
            let from = separators.len();
            for (at, byte) in bytes[start..end].iter().enumerate() {
                if *byte == separator {
                    separators.push((start + at) as u32);
                }
            }
            if separators.len() - from > FIELDS_MAX {
                let place = if begins_segment(&bytes[start..end], separator) { name } else { "" };
                return Err(Malformed::new(place, *occurrence, 0, code357::DATA_TYPE, "a segment has too many fields"));
            }
            if !begins_segment(&bytes[start..end], separator) {
                deviations.push(whole(
                    code357::SEGMENT_SEQUENCE,
                    "a line is no segment: line breaks inside a field must be sent as escapes such as \\.br\\",
                ));
            }
            segments.push(Span {
                start: start as u32,
                end: end as u32,
                next: next as u32,
                separators: from as u32..separators.len() as u32,
                occurrence: *occurrence,
            });
            start = next;
        }
        drop(counts);
        Ok(Message { context: Context { delimiters, charset }, segments, separators, deviations, source })
    }

    /// The input, byte for byte.
    pub fn raw(&self) -> &[u8] {
        match &self.source {
            Source::Utf8(text) => text.as_bytes(),
            Source::Decoded { raw, .. } => raw,
        }
    }

    /// The input as text: decoded, nothing else changed.
    pub fn as_text(&self) -> &str {
        match &self.source {
            Source::Utf8(text) => text,
            Source::Decoded { text, .. } => text,
        }
    }

    /// Byte order marks and empty lines before the header.
    pub(crate) fn lead(&self) -> &str {
        &self.as_text()[..self.segments.first().map_or(0, |first| first.start as usize)]
    }

    pub fn delimiters(&self) -> &Delimiters {
        &self.context.delimiters
    }

    pub fn charset(&self) -> &Charset {
        &self.context.charset
    }

    /// What does not follow ER7 but did not keep the rest from being read.
    pub fn deviations(&self) -> &[Malformed] {
        &self.deviations
    }

    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> + Clone {
        (0..self.segments.len()).map(|index| Segment { message: self, index })
    }

    /// The segment at a place among all, from 0.
    pub fn segment_at(&self, index: usize) -> Option<Segment<'_>> {
        (index < self.segments.len()).then_some(Segment { message: self, index })
    }

    /// The first segment with this id.
    pub fn segment(&self, id: &str) -> Option<Segment<'_>> {
        self.segments().find(|s| s.id() == id)
    }

    /// All segments with this id, in order.
    pub fn segments_named<'m>(&'m self, id: &'m str) -> impl Iterator<Item = Segment<'m>> + Clone {
        self.segments().filter(move |s| s.id() == id)
    }

    /// What stands at a path; an absent element where nothing stands.
    pub fn at(&self, path: &Path) -> Element<'_> {
        let missing = Element::new("", Level::Field, &self.context);
        let nth = path.occurrence.saturating_sub(1) as usize;
        let Some(segment) = self.segments().filter(|s| s.id() == path.segment).nth(nth) else {
            return missing;
        };
        let mut element = segment.field(path.field.into());
        if let Some(n) = path.repetition {
            element = element.repetition(n.into());
        }
        if let Some(n) = path.component {
            element = element.component(n.into());
        }
        if let Some(n) = path.subcomponent {
            element = element.subcomponent(n.into());
        }
        element
    }

    /// The text at `PID-3(2).4.1`, unescaped; `None` where it is absent or null, or where this is no path.
    pub fn get(&self, path: &str) -> Option<Cow<'_, str>> {
        path.parse().ok().and_then(|path: Path| self.at(&path).value())
    }

    /// The message that owns its bytes.
    pub fn into_owned(self) -> OwnedMessage {
        Message {
            source: match self.source {
                Source::Utf8(text) => Source::Utf8(Cow::Owned(text.into_owned())),
                Source::Decoded { raw, text } => Source::Decoded { raw: Cow::Owned(raw.into_owned()), text },
            },
            context: self.context,
            segments: self.segments,
            separators: self.separators,
            deviations: self.deviations,
        }
    }
}

/// Up to the first separator.
fn segment_name(line: &str, separator: u8) -> &str {
    line.split(char::from(separator)).next().unwrap_or(line)
}

/// One segment of a message.
#[derive(Clone, Copy)]
pub struct Segment<'m> {
    message: &'m Message<'m>,
    index: usize,
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({}, {} bytes)", self.index, self.raw().len())
    }
}

impl<'m> Segment<'m> {
    fn span(self) -> &'m Span {
        &self.message.segments[self.index]
    }

    /// Its id: `PID`. For a line that is no segment, whatever stands before the first separator.
    pub fn id(self) -> &'m str {
        segment_name(self.raw(), self.message.context.delimiters.field)
    }

    /// Whether it has the shape of a segment: three characters of A-Z and 0-9.
    pub fn is_segment(self) -> bool {
        begins_segment(self.raw().as_bytes(), self.message.context.delimiters.field)
    }

    /// Its place among all segments, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// Which of the segments with this id it is, from 1.
    pub fn occurrence(self) -> u32 {
        self.span().occurrence
    }

    /// Its text without the terminator.
    pub fn raw(self) -> &'m str {
        let span = self.span();
        &self.message.as_text()[span.start as usize..span.end as usize]
    }

    /// CR, LF, CRLF, or empty for a last segment without one.
    pub fn terminator(self) -> &'m str {
        let span = self.span();
        &self.message.as_text()[span.end as usize..span.next as usize]
    }

    /// From its end to where the next one begins: the terminator and the empty lines after it.
    pub(crate) fn tail(self) -> &'m str {
        let text = self.message.as_text();
        let next = self.message.segments.get(self.index + 1).map_or(text.len(), |next| next.start as usize);
        &text[self.span().end as usize..next]
    }

    /// The number of the last field that the segment spells out, empty ones included.
    pub fn fields_len(self) -> usize {
        let separators = self.span().separators.len();
        if self.is_header() { separators + 1 } else { separators }
    }

    /// Field `n`, from 1. In MSH, field 1 is the field separator itself and field 2 is never cut (v2.8.2 §2.14.9).
    pub fn field(self, n: usize) -> Element<'m> {
        let context = &self.message.context;
        let header = self.is_header();
        let absent = Element::new("", Level::Field, context);
        let separators = &self.message.separators[range(&self.span().separators)];
        let text = self.message.as_text();
        if header && n == 1 {
            return match separators.first() {
                Some(at) => Element::new(&text[*at as usize..*at as usize + 1], Level::Subcomponent, context),
                None => absent,
            };
        }
        let Some(nth) = n.checked_sub(if header { 2 } else { 1 }) else { return absent };
        let Some(from) = separators.get(nth) else { return absent };
        let end = separators.get(nth + 1).map_or(self.span().end, |at| *at);
        let level = if header && n == 2 { Level::Subcomponent } else { Level::Field };
        Element::new(&text[*from as usize + 1..end as usize], level, context)
    }

    /// All fields that the segment spells out, with their numbers.
    pub fn fields(self) -> impl Iterator<Item = (usize, Element<'m>)> {
        (1..=self.fields_len()).map(move |n| (n, self.field(n)))
    }

    /// MSH, FHS and BHS declare their delimiters in fields 1 and 2.
    fn is_header(self) -> bool {
        matches!(self.id(), "MSH" | "FHS" | "BHS")
    }
}

fn range(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Presence;
    use proptest::prelude::*;

    fn read(text: &str) -> OwnedMessage {
        parse(text.as_bytes(), &Limits::default()).unwrap().into_owned()
    }

    const ADT: &str = "MSH|^~\\&|APP^1.2&x|FAC|||20200101||ADT^A01^ADT_A01|C1|P|2.5\r\
        PID|1||A1^^^H&1.2&ISO^MR~B2^^^H2|\"\"|EVERY\\T\\MAN^ADAM~|||^^|~|\"\"^\"\"\r\
        OBX|1|NM|X||5\r\nOBX|2|TX|Y||line\\.br\\two||\nZB1||local\n";

    #[test]
    fn paths_reach_every_depth() {
        let message = read(ADT);
        for (path, text) in [
            ("MSH-1", Some("|")),
            ("MSH-2", Some("^~\\&")),
            ("MSH-3.1", Some("APP")),
            ("MSH-3.2.1", Some("1.2")),
            ("MSH-9", Some("ADT^A01^ADT_A01")),
            ("PID-3(2).1", Some("B2")),
            ("PID-3(1).4.2", Some("1.2")),
            ("PID-3.4.3", Some("ISO")),
            ("PID-3(3).1", None),
            ("PID-5.1", Some("EVERY&MAN")),
            ("OBX[2]-5", Some("line\ntwo")),
            ("OBX[3]-5", None),
            ("ZB1-2", Some("local")),
            ("ZB1-2.1.1", Some("local")),
            ("PID-99", None),
            ("EVN-1", None),
        ] {
            assert_eq!(message.get(path).as_deref(), text, "{path}");
        }
        assert_eq!(message.segments().map(|s| s.id()).collect::<Vec<_>>(), ["MSH", "PID", "OBX", "OBX", "ZB1"]);
        assert_eq!(message.segments().map(|s| s.terminator()).collect::<Vec<_>>(), ["\r", "\r", "\r\n", "\n", "\n"]);
        assert_eq!(message.info().sending_application, "APP");
    }

    #[test]
    fn null_is_not_absent() {
        let message = read(ADT);
        let pid = message.segment("PID").unwrap();
        for (field, presence) in [
            (2, Presence::Absent),
            (4, Presence::Null),
            (8, Presence::Absent),
            (9, Presence::Absent),
            (10, Presence::Null),
            (30, Presence::Absent),
        ] {
            assert_eq!(pid.field(field).presence(), presence, "{field}");
        }
        assert_eq!(pid.field(5).repetitions().count(), 2);
        assert_eq!(pid.fields_len(), 10);
    }

    #[test]
    fn line_feeds_inside_text_stay_where_cr_ends_segments() {
        let message = read("MSH|^~\\&|A\rNTE|1||one\ntwo\rPID|1\nPV1|1\r");
        assert_eq!(message.get("NTE-3").as_deref(), Some("one\ntwo"));
        assert_eq!(message.segments().count(), 4);
        assert!(message.deviations().is_empty());
        let broken = read("MSH|^~\\&|A\rNTE|1||one\rtwo three\rPID|1\r");
        assert_eq!(broken.deviations().len(), 1);
        assert!(!broken.deviations()[0].to_string().contains("two"));
        assert_eq!(broken.get("PID-1").as_deref(), Some("1"));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_place() {
        let small = Limits { hl7_message_bytes_max: 40, hl7_segments_max: 2, ..Limits::default() };
        for (text, limits, segment, field, code) in [
            ("", &Limits::default(), "", 0, code357::SEGMENT_SEQUENCE),
            ("PID|1\r", &Limits::default(), "", 0, code357::SEGMENT_SEQUENCE),
            ("MSH", &Limits::default(), "MSH", 1, code357::REQUIRED_FIELD_MISSING),
            ("MSH|^^~|", &Limits::default(), "MSH", 2, code357::DATA_TYPE),
            ("MSH|^~\\&|A\rMSH|^~\\&|B\r", &Limits::default(), "MSH", 0, code357::SEGMENT_SEQUENCE),
            ("MSH|^~\\&|A\rPID|1\rPV1|1\r", &small, "", 0, code357::INTERNAL),
            ("MSH|^~\\&|AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &small, "", 0, code357::INTERNAL),
        ] {
            let fault = parse(text.as_bytes(), limits).unwrap_err();
            assert_eq!((fault.segment.as_str(), fault.field, fault.code357), (segment, field, code), "{text}");
        }
        let wide = format!("MSH|^~\\&|A\rPID{}\r", "|".repeat(FIELDS_MAX + 1));
        assert_eq!(parse(wide.as_bytes(), &Limits::default()).unwrap_err().segment, "PID");
    }

    #[test]
    fn the_header_is_checked_by_field() {
        let faults = |text: &str| read(text).check_header().iter().map(|f| (f.field, f.code357)).collect::<Vec<_>>();
        assert_eq!(faults("MSH|^~\\&|A|B|C|D|1||ADT^A01|1|P|2.5.1"), []);
        assert_eq!(faults("MSH|^~\\&|A|B|C|D|1|||1|P|2.5"), [(9, 101)]);
        assert_eq!(faults("MSH|^~\\&|A|B|C|D|1||ADT^A01||X|3.0"), [(10, 101), (11, 202), (12, 203)]);
    }

    /// The text of a message put together again from its smallest parts.
    fn rebuilt(message: &Message<'_>) -> String {
        let delimiters = message.delimiters();
        let join = |parts: Vec<String>, d: Option<u8>| match d {
            Some(d) => parts.join(&char::from(d).to_string()),
            None => parts.concat(),
        };
        let mut out = String::new();
        for segment in message.segments() {
            out.push_str(segment.id());
            let header = segment.id() == "MSH";
            for (n, field) in segment.fields() {
                if header && n == 1 {
                    continue;
                }
                out.push(char::from(delimiters.field));
                let repetitions = field.repetitions().map(|repetition| {
                    let components = repetition.components().map(|component| {
                        join(component.subcomponents().map(|s| s.raw().to_owned()).collect(), delimiters.subcomponent)
                    });
                    join(components.collect(), delimiters.component)
                });
                out.push_str(&join(repetitions.collect(), delimiters.repetition));
            }
            out.push_str(segment.terminator());
        }
        out
    }

    const PIECE: &str = r"[|^~\\&#]|MSH|PID|OBX|ZZ9|[A-Za-z0-9 .]{1,3}|ü|山|[\r\n]|\r\n";

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..60) {
            let _ = parse(&bytes, &Limits::default());
            let mut message = ADT.as_bytes()[..cut.min(ADT.len())].to_vec();
            message.extend(&bytes);
            if let Ok(read) = parse(&message, &Limits::default()) {
                prop_assert_eq!(read.raw(), &message[..]);
                for segment in read.segments() {
                    for (_, field) in segment.fields() {
                        field.presence();
                        field.component(2).subcomponent(1).text();
                    }
                }
                read.info();
                read.check_header();
            }
        }

        #[test]
        fn a_parsed_message_is_its_input(parts in prop::collection::vec(PIECE, 0..80), header in "MSH\\|\\^~.&(#)?\\|") {
            let text = format!("{header}{}", parts.concat());
            if let Ok(message) = parse(text.as_bytes(), &Limits::default()) {
                prop_assert_eq!(message.raw(), text.as_bytes());
                let line_ends = |c: char| c == '\r' || c == '\n';
                // Empty lines are no segments; all else comes back from the parts.
                let kept: String = message.segments().map(|s| format!("{}{}", s.raw(), s.terminator())).collect();
                prop_assert_eq!(rebuilt(&message), kept.clone());
                prop_assert_eq!(kept.replace(line_ends, ""), text.replace(line_ends, ""));
            }
        }
    }
}
