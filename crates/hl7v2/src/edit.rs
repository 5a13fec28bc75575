//! Changing fields of a message on its way to somebody else. What is not touched stays as it is, delimiters, character set
//! and line ends too.

use std::fmt;
use std::str::FromStr;

use crate::delimiters::Delimiters;
use crate::escape::escape;
use crate::message::Message;
use crate::path::{Path, PathError};

/// Where to change: a path, in every segment of that name unless one is named (`OBX[2]-5`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    path: Path,
    every: bool,
}

impl FromStr for Spot {
    type Err = PathError;

    /// MSH-1 and MSH-2 say how the message is written: they are no spot.
    fn from_str(text: &str) -> Result<Spot, PathError> {
        let path: Path = text.parse()?;
        if path.segment == "MSH" && path.field <= 2 {
            return Err(PathError);
        }
        Ok(Spot { every: !text.contains('['), path })
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first of several is written down, or it would read as all of them.
        match self.path.to_string().split_once('-') {
            Some((segment, rest)) if !self.every && self.path.occurrence == 1 => write!(f, "{segment}[1]-{rest}"),
            _ => self.path.fmt(f),
        }
    }
}

impl Spot {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A message being changed.
pub struct Edit<'m> {
    message: &'m Message<'m>,
    /// Each segment, and what stands between it and the next one.
    segments: Vec<(String, &'m str)>,
}

impl<'m> Edit<'m> {
    pub fn of(message: &'m Message<'m>) -> Self {
        let segments = message.segments().map(|segment| (segment.raw().to_owned(), segment.tail())).collect();
        Edit { message, segments }
    }

    /// Puts a text there, escaped. Fields before it that are missing are made.
    pub fn set(&mut self, spot: &Spot, text: &str) {
        let escaped = escape(text, self.message.delimiters()).into_owned();
        self.put(spot, &escaped);
    }

    /// Leaves nothing there: not valued, which is not null (`""`).
    pub fn remove(&mut self, spot: &Spot) {
        self.put(spot, "");
    }

    pub fn remove_segments(&mut self, id: &str) {
        let field = char::from(self.message.delimiters().field);
        self.segments.retain(|(text, _)| text.split(field).next() != Some(id) || id == "MSH");
    }

    /// The message in its own character set.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(self.message.as_text().len());
        text.push_str(self.message.lead());
        for (segment, tail) in &self.segments {
            text.push_str(segment);
            text.push_str(tail);
        }
        self.message.charset().encode(&text)
    }

    fn put(&mut self, spot: &Spot, raw: &str) {
        let delimiters = *self.message.delimiters();
        let mut occurrence = 0;
        for (text, _) in &mut self.segments {
            if text.split(char::from(delimiters.field)).next() != Some(spot.path.segment.as_str()) {
                continue;
            }
            occurrence += 1;
            if spot.every || occurrence == spot.path.occurrence {
                *text = with(text, &spot.path, raw, &delimiters);
            }
        }
    }
}

fn with(segment: &str, path: &Path, raw: &str, delimiters: &Delimiters) -> String {
    // In a header the separator itself is field 1.
    let is_header = matches!(path.segment.as_str(), "MSH" | "BHS" | "FHS");
    let at = usize::from(path.field) + usize::from(!is_header);
    let deeper = [
        (delimiters.repetition, path.repetition.or(path.component.map(|_| 1))),
        (delimiters.component, path.component),
        (delimiters.subcomponent, path.subcomponent),
    ];
    // A header keeps what declares its delimiters, valued or not.
    let least = if is_header { 2 } else { 1 };
    nth(segment, Some(delimiters.field), at, least, &|field| descend(field, &deeper, raw))
}

fn descend(text: &str, levels: &[(Option<u8>, Option<u16>)], raw: &str) -> String {
    match levels {
        [(delimiter, Some(n)), deeper @ ..] => {
            nth(text, *delimiter, usize::from(*n), 1, &|part| descend(part, deeper, raw))
        }
        // A level that the path does not name: the first part below it, where it goes on below; else all of it.
        [(_, None), deeper @ ..] if deeper.iter().any(|(_, n)| n.is_some()) => descend(text, deeper, raw),
        _ => raw.to_owned(),
    }
}

/// Part `n`, from 1, made anew; a level without a delimiter has one part. When a part was emptied, empty ones at the end go,
/// down to `least` parts.
fn nth(text: &str, delimiter: Option<u8>, n: usize, least: usize, change: &dyn Fn(&str) -> String) -> String {
    let Some(delimiter) = delimiter.map(char::from) else {
        return if n == 1 { change(text) } else { text.to_owned() };
    };
    let mut parts: Vec<String> = text.split(delimiter).map(str::to_owned).collect();
    if parts.len() < n {
        parts.resize(n, String::new());
    }
    parts[n - 1] = change(&parts[n - 1]);
    if parts[n - 1].is_empty() {
        while parts.len() > least && parts.last().is_some_and(String::is_empty) {
            parts.pop();
        }
    }
    parts.join(delimiter.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Limits;
    use proptest::prelude::*;

    fn edited(text: &str, change: impl FnOnce(&mut Edit<'_>)) -> String {
        let message = crate::parse(text.as_bytes(), &Limits::default()).unwrap();
        let mut edit = Edit::of(&message);
        change(&mut edit);
        String::from_utf8(edit.bytes()).unwrap()
    }

    const MESSAGE: &str =
        "MSH|^~\\&|A|B|C|D|20200101||ADT^A01|1|P|2.5\rPID|1||M1^^^X&1.2&ISO~M2||Doe^Jo\rOBX|1|ST|c||a|u\nOBX|2|ST|c||b";

    #[test]
    fn fields_at_every_depth() {
        for (spot, value, old, new) in [
            ("MSH-5", "LAB", "|C|D|", "|LAB|D|"),
            ("PID-5", "Roe", "Doe^Jo", "Roe"),
            ("PID-5.2", "Al", "Doe^Jo", "Doe^Al"),
            ("PID-5.3", "x|y", "Doe^Jo", "Doe^Jo^x\\F\\y"),
            ("PID-3(2)", "M3", "~M2|", "~M3|"),
            ("PID-3(2).4", "Y", "~M2|", "~M2^^^Y|"),
            ("PID-3.1", "N1", "|M1^^^", "|N1^^^"),
            ("PID-3(1).4.2", "9", "X&1.2&ISO", "X&9&ISO"),
            ("PID-7", "1970", "Doe^Jo", "Doe^Jo||1970"),
            ("OBX[2]-5", "z", "|b", "|z"),
        ] {
            let expected = MESSAGE.replacen(old, new, 1);
            assert_eq!(edited(MESSAGE, |edit| edit.set(&spot.parse().unwrap(), value)), expected, "{spot}");
        }
    }

    #[test]
    fn every_segment_or_one_and_none_left() {
        let all = edited(MESSAGE, |edit| edit.set(&"OBX-5".parse().unwrap(), "z"));
        assert_eq!(all, MESSAGE.replace("||a|", "||z|").replace("||b", "||z"));
        let first = edited(MESSAGE, |edit| edit.remove(&"OBX[1]-6".parse().unwrap()));
        assert_eq!(first, MESSAGE.replace("||a|u", "||a"));
        assert!(!edited(MESSAGE, |edit| edit.remove_segments("OBX")).contains("OBX"));
        assert_eq!(edited(MESSAGE, |edit| edit.remove_segments("MSH")), MESSAGE);
        // A header that declares no more than its separator keeps it.
        for bare in ["MSH|", "MSH|^~\\&", "MSH|^"] {
            assert_eq!(
                edited(&format!("{bare}\rPID|1"), |edit| edit.remove(&"MSH-9.2".parse().unwrap())),
                format!("{bare}\rPID|1")
            );
        }
        let odd = format!("\u{feff}\u{feff}\r\n{}", MESSAGE.replace("\rPID", "\r\n\r\nPID"));
        assert_eq!(edited(&odd, |edit| edit.set(&"OBX[2]-5".parse().unwrap(), "b")), odd);
        for text in ["MSH-1", "MSH-2", "PID", ""] {
            assert!(text.parse::<Spot>().is_err(), "{text}");
        }
        for text in ["OBX-5", "OBX[1]-5", "OBX[2]-5.1"] {
            assert_eq!(text.parse::<Spot>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_was_set_is_read_and_nothing_else_changes(
            value in "[ -~]{0,12}", field in 3u16..30, component in prop::option::of(1u16..5),
        ) {
            let spot = match component {
                Some(component) => format!("PID-{field}.{component}"),
                None => format!("PID-{field}"),
            };
            let text = edited(MESSAGE, |edit| edit.set(&spot.parse().unwrap(), &value));
            let message = crate::parse(text.as_bytes(), &Limits::default()).unwrap();
            let read = message.get(&spot).unwrap_or_default().into_owned();
            // Null is written as `""`, which a text of two quotes is not told from.
            if value != "\"\"" {
                // A value without a component of its own is read whole, unless it holds none of its own delimiters.
                prop_assert_eq!(read, value);
            }
            for (n, segment) in MESSAGE.split(['\r', '\n']).enumerate().filter(|(n, _)| *n != 1) {
                prop_assert_eq!(text.split(['\r', '\n']).nth(n).unwrap(), segment);
            }
        }
    }
}
