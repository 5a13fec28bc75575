//! Cuts the text of a FHIRPath expression into tokens (FHIRPath 2.0 §9, grammar). Never looks at their meaning:
//! see `parse`.

use std::borrow::Cow;

use super::error::PathError;

/// One token and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'s> {
    pub offset: usize,
    pub kind: TokenKind<'s>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TokenKind<'s> {
    /// A name; quoted when it stood in back-ticks and so is never a keyword.
    Name {
        text: Cow<'s, str>,
        quoted: bool,
    },
    String(Cow<'s, str>),
    Number(&'s str),
    /// The text after `@`.
    DateTime(&'s str),
    /// The text after `@T`.
    Time(&'s str),
    /// `$this`, `$index`, `$total`, without the dollar sign.
    Special(&'s str),
    /// `%name`, without the percent sign.
    Variable(Cow<'s, str>),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 24] = [
    "<=", ">=", "!=", "!~", "(", ")", "[", "]", "{", "}", ".", ",", "+", "-", "*", "/", "|", "&", "<", ">", "=", "~",
    ";", ":",
];

pub struct Lexer<'s> {
    text: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub fn new(text: &'s str) -> Self {
        Lexer { text, at: 0 }
    }

    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    fn take_while(&mut self, mut keep: impl FnMut(char) -> bool) -> &'s str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// The next token; [`TokenKind::End`] after the last.
    pub fn next(&mut self) -> Result<Token<'s>, PathError> {
        self.skip_blank()?;
        let offset = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok(Token { offset, kind: TokenKind::End }) };
        let kind = match first {
            'A'..='Z' | 'a'..='z' | '_' => TokenKind::Name { text: Cow::Borrowed(self.word()), quoted: false },
            '`' => TokenKind::Name { text: self.quoted('`')?, quoted: true },
            '\'' => TokenKind::String(self.quoted('\'')?),
            '0'..='9' => TokenKind::Number(self.number()),
            '@' => self.temporal(offset)?,
            '$' => {
                self.at += 1;
                TokenKind::Special(self.word())
            }
            '%' => self.variable(offset)?,
            _ => {
                let symbol = SYMBOLS.iter().find(|s| self.rest().starts_with(**s));
                let symbol = *symbol.ok_or_else(|| PathError::syntax(offset, "this character means nothing here"))?;
                self.at += symbol.len();
                TokenKind::Symbol(symbol)
            }
        };
        Ok(Token { offset, kind })
    }

    fn word(&mut self) -> &'s str {
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn skip_blank(&mut self) -> Result<(), PathError> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("//") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest().starts_with("/*") {
                let end = self.rest().find("*/");
                let end = end.ok_or_else(|| PathError::syntax(self.at, "this comment has no end, add `*/`"))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn number(&mut self) -> &'s str {
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        let rest = self.rest().as_bytes();
        if rest.first() == Some(&b'.') && rest.get(1).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        &self.text[start..self.at]
    }

    /// `@2015-02-04T14:34:28.123+10:00`, `@2015T`, `@T14:34`. A dot belongs to it only before a digit.
    fn temporal(&mut self, offset: usize) -> Result<TokenKind<'s>, PathError> {
        self.at += 1;
        let time_only = self.rest().starts_with('T');
        if time_only {
            self.at += 1;
        }
        let start = self.at;
        let mut seen_t = time_only;
        loop {
            let bytes = self.rest().as_bytes();
            match bytes.first() {
                Some(b'0'..=b'9' | b':') => self.at += 1,
                Some(b'T') if !seen_t => {
                    seen_t = true;
                    self.at += 1;
                }
                // A zone or the dash of a date, never a dash with blank after it.
                Some(b'-' | b'+') if !time_only && bytes.get(1).is_some_and(u8::is_ascii_digit) => self.at += 1,
                Some(b'Z') if seen_t && !time_only => {
                    self.at += 1;
                    break;
                }
                Some(b'.') if seen_t && bytes.get(1).is_some_and(u8::is_ascii_digit) => self.at += 1,
                _ => break,
            }
        }
        let text = &self.text[start..self.at];
        if text.is_empty() {
            return Err(PathError::syntax(offset, "`@` begins a date or time: write it as in @2015-02-04T14:34:28Z"));
        }
        Ok(if time_only { TokenKind::Time(text) } else { TokenKind::DateTime(text) })
    }

    fn variable(&mut self, offset: usize) -> Result<TokenKind<'s>, PathError> {
        self.at += 1;
        let name = match self.rest().chars().next() {
            Some('`') => self.quoted('`')?,
            Some('\'') => self.quoted('\'')?,
            // `%vs-name` and `%ext-name` were written without quotes in FHIR's older expressions.
            _ if self.rest().starts_with("vs-") || self.rest().starts_with("ext-") => {
                Cow::Borrowed(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            }
            _ => Cow::Borrowed(self.word()),
        };
        if name.is_empty() {
            return Err(PathError::syntax(offset, "a variable needs a name after `%`"));
        }
        Ok(TokenKind::Variable(name))
    }

    /// Text between quotes, with its escapes replaced.
    fn quoted(&mut self, quote: char) -> Result<Cow<'s, str>, PathError> {
        let start = self.at;
        self.at += 1;
        let body = self.take_while(|c| c != quote && c != '\\');
        if self.rest().starts_with(quote) {
            self.at += 1;
            return Ok(Cow::Borrowed(body));
        }
        let mut text = body.to_owned();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(PathError::syntax(start, format!("this text has no end, add {quote}")));
            };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(Cow::Owned(text)),
                '\\' => text.push(self.escape()?),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, PathError> {
        let at = self.at - 1;
        let wrong = || {
            PathError::syntax(at, "this escape is unknown, use one of \\' \\\" \\` \\r \\n \\t \\f \\/ \\\\ \\uXXXX")
        };
        let c = self.rest().chars().next().ok_or_else(wrong)?;
        self.at += c.len_utf8();
        Ok(match c {
            '\'' | '"' | '`' | '\\' | '/' => c,
            'r' => '\r',
            'n' => '\n',
            't' => '\t',
            'f' => '\u{c}',
            'u' => {
                let first = self.unit().ok_or_else(wrong)?;
                if !(0xD800..0xDC00).contains(&first) {
                    return char::from_u32(first).ok_or_else(wrong);
                }
                // A surrogate pair: the second half must follow.
                self.at += self.rest().starts_with("\\u").then_some(2).ok_or_else(wrong)?;
                let second = self.unit().filter(|u| (0xDC00..0xE000).contains(u)).ok_or_else(wrong)?;
                char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let hex = self.rest().get(..4).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(hex, 16).ok()
    }
}
