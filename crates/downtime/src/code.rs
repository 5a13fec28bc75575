//! The code on the card: 125 random-looking bits in five groups, for one ward and one day.
//!
//! Never here: where it comes from. The node derives 32 bytes from its own secret by domain, ward and day, so that cards
//! can be printed ahead and nothing has to be kept.

use zeroize::Zeroizing;

/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARACTERS: usize = 25;

/// 25 characters; never in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Zeroizing<String>);

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Code(..)")
    }
}

impl Code {
    /// From 32 bytes that nobody can guess: the first 125 bits.
    pub fn derived(secret: &[u8; 32]) -> Code {
        let bit = |n: usize| secret[n / 8] >> (7 - n % 8) & 1;
        let character = |n: usize| (0..5).fold(0, |value, k| value << 1 | usize::from(bit(n * 5 + k)));
        Code(Zeroizing::new((0..CHARACTERS).map(|n| char::from(ALPHABET[character(n)])).collect()))
    }

    /// As a person types it: any case, spaces and dashes, and the letters that are mistaken for digits.
    pub fn parse(text: &str) -> Option<Code> {
        let mut code = Zeroizing::new(String::with_capacity(CHARACTERS));
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let c = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                c => c,
            };
            if !c.is_ascii() || !ALPHABET.contains(&(c as u8)) || code.len() == CHARACTERS {
                return None;
            }
            code.push(c);
        }
        (code.len() == CHARACTERS).then_some(Code(code))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// In groups of five, for the card.
    pub fn printed(&self) -> Zeroizing<String> {
        let mut printed = Zeroizing::new(String::with_capacity(CHARACTERS + 4));
        for (n, c) in self.0.chars().enumerate() {
            if n > 0 && n % 5 == 0 {
                printed.push('-');
            }
            printed.push(c);
        }
        printed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_however_it_is_typed() {
        let code = Code::derived(&[0xa5; 32]);
        let printed = code.printed();
        assert_eq!(printed.len(), 29);
        assert_eq!(Code::parse(&printed), Some(code.clone()));
        assert_eq!(Code::parse(&printed.to_lowercase().replace('-', " ")), Some(code));
        let zero = Code::derived(&[0; 32]);
        assert_eq!(Code::parse("ooooo-OOOOO-00000-00000-00000"), Some(zero));
        for wrong in ["", "00000", "00000-00000-00000-00000-0000U", "00000-00000-00000-00000-000000", "ü"] {
            assert_eq!(Code::parse(wrong), None);
        }
        assert_ne!(Code::derived(&[1; 32]), Code::derived(&[2; 32]));
    }
}
