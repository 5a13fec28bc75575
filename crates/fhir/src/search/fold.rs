//! Folding of text for string search (R4 §3.1.1.4.8): case and accents do not count, nor does the amount of white
//! space. Latin letters only have their accents taken off; other scripts are put in lower case.

/// The letters under those of U+00C0 to U+024F.
const LATIN: &str = "aaaaaaæceeeeiiiidnooooo×ouuuuyþßaaaaaaæceeeeiiiidnooooo÷ouuuuyþyaaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiiiĳĳjjkkkllllllŀŀllnnnnnnnnnooooooœœrrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzsbbbbƅƅoccddddƍǝəeffgɣƕiikklƛɯnnoooƣƣppʀƨƨʃƪttttuuʊvyyzzʒƹƹƺƻƽƽƾƿǀǁǂǃǆǆǆǉǉǉǌǌǌaaiioouuuuuuuuuuǝaaaaææggggkkooooʒʒjǳǳǳggƕƿnnaaææooaaaaeeeeiiiioooorrrruuuussttȝȝhhndȣȣzzaaeeooooooooyylntjȸȹaccltszɂɂbuʌeejjqqrryy";

/// The letters under those of U+1E00 to U+1EFF.
const LATIN_ADDITIONAL: &str = "aabbbbbbccddddddddddeeeeeeeeeeffgghhhhhhhhhhiiiikkkkkkllllllllmmmmmmnnnnnnnnoooooooopppprrrrrrrrssssssssssttttttttuuuuuuuuuuvvvvwwwwwwwwwwxxxxyyzzzzzzhtwyasssßẟaaaaaaaaaaaaaaaaaaaaaaaaeeeeeeeeeeeeeeeeiiiioooooooooooooooooooooooouuuuuuuuuuuuuuyyyyyyyyllvvyy";

/// The text in lower case, without accents, with single spaces.
pub fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() {
            gap = !out.is_empty();
            continue;
        }
        if gap {
            out.push(' ');
            gap = false;
        }
        fold_char(c, &mut out);
    }
    out
}

fn fold_char(c: char, out: &mut String) {
    match c {
        '\0'..='\u{7f}' => out.push(c.to_ascii_lowercase()),
        'ß' | 'ẞ' => out.push_str("ss"),
        'æ' | 'Æ' | 'ǽ' | 'Ǽ' | 'ǣ' | 'Ǣ' => out.push_str("ae"),
        'œ' | 'Œ' => out.push_str("oe"),
        'þ' | 'Þ' => out.push_str("th"),
        'ĳ' | 'Ĳ' => out.push_str("ij"),
        // Combining marks: the letter stands before them.
        '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' => {}
        '\u{c0}'..='\u{24f}' => out.push(letter(c, '\u{c0}', LATIN)),
        '\u{1e00}'..='\u{1eff}' => out.push(letter(c, '\u{1e00}', LATIN_ADDITIONAL)),
        other => {
            for lower in other.to_lowercase() {
                // The lower case may be a letter of the ranges above: U+212B gives å.
                if lower == other { out.push(lower) } else { fold_char(lower, out) }
            }
        }
    }
}

fn letter(c: char, first: char, table: &str) -> char {
    table.chars().nth((u32::from(c) - u32::from(first)) as usize).unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_and_accents_do_not_count() {
        assert_eq!((LATIN.chars().count(), LATIN_ADDITIONAL.chars().count()), (0x190, 0x100));
        for (text, folded) in [
            ("  Ann\t MARIE ", "ann marie"),
            ("Müller", "muller"),
            ("Mu\u{308}ller", "muller"),
            ("STRAẞE Straße", "strasse strasse"),
            ("Łukasz Żółć", "lukasz zolc"),
            ("Nguyễn Thị Ánh", "nguyen thi anh"),
            ("Ærø Þórr Œuvre", "aero thorr oeuvre"),
            ("ÇĞİŞ ığ", "cgis ig"),
            ("ΑΘΗΝΑ Москва 東京", "αθηνα москва 東京"),
        ] {
            assert_eq!(fold(text), folded);
        }
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in ".*") {
            let folded = fold(&text);
            prop_assert_eq!(fold(&folded), folded);
        }
    }
}
