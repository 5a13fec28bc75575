//! The small language of the guide's conditions: `IF PV1-2.1 EQUALS "P"`, `IF PID-33 AND PID-34 VALUED`,
//! `IF OBX-5 LST.count GREATER THAN 1`. Read once, when the tables are; asked for each message without a parse.

use hl7v2::Element;

/// What a condition may ask about.
pub trait Scene<'m> {
    /// The field of the segment of this id that is meant here; absent where there is no such segment.
    fn field(&self, segment: &str, field: usize) -> Element<'m>;
    /// Whether a segment of this id is in the group.
    fn has(&self, segment: &str) -> bool;
    /// The repetition at hand.
    fn own(&self) -> Element<'m>;
    fn absent(&self) -> Element<'m>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Valued(Operand),
    OneOf(Operand, Vec<String>),
    /// More repetitions than this.
    Repeats(Operand, usize),
    /// More characters than this.
    Longer(Operand, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// The field of the row.
    Own,
    /// A component of the repetition at hand: `CX.5`.
    Component(usize),
    /// `PID-11.9`, `ORC-1`.
    Field { segment: String, field: usize, component: usize },
    /// `RXO`.
    Segment(String),
}

impl Operand {
    fn element<'m>(&self, scene: &dyn Scene<'m>) -> Element<'m> {
        match self {
            Operand::Own => scene.own(),
            Operand::Component(n) => scene.own().component(*n),
            Operand::Field { segment, field, component: 0 } => scene.field(segment, *field),
            Operand::Field { segment, field, component } => scene.field(segment, *field).component(*component),
            Operand::Segment(_) => scene.absent(),
        }
    }
}

impl Condition {
    pub fn holds<'m>(&self, scene: &dyn Scene<'m>) -> bool {
        match self {
            Condition::All(all) => all.iter().all(|c| c.holds(scene)),
            Condition::Any(any) => any.iter().any(|c| c.holds(scene)),
            Condition::Not(inner) => !inner.holds(scene),
            Condition::Valued(Operand::Segment(id)) => scene.has(id),
            Condition::Valued(operand) => operand.element(scene).is_value(),
            Condition::OneOf(operand, words) => match operand.element(scene).first().value() {
                Some(text) => words.iter().any(|word| word == text.trim()),
                None => false,
            },
            Condition::Repeats(operand, n) => {
                operand.element(scene).repetitions().filter(|r| r.is_value()).nth(*n).is_some()
            }
            Condition::Longer(operand, n) => {
                operand.element(scene).first().value().is_some_and(|text| text.trim().chars().count() > *n)
            }
        }
    }

    /// Reads what the guide writes; the error names the word that is not understood.
    pub fn parse(text: &str) -> Result<Condition, String> {
        let mut reader = Reader { tokens: tokens(text), at: 0 };
        let condition = reader.any()?;
        match reader.peek() {
            None => Ok(condition),
            Some(token) => Err(format!("`{}` in `{text}`", token.text())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Open,
    Close,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) | Token::Quoted(text) => text,
            Token::Open => "(",
            Token::Close => ")",
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '(' | ')' => {
                tokens.push(if first == '(' { Token::Open } else { Token::Close });
                1
            }
            '"' | '\'' => {
                let end = rest[1..].find(first).map_or(rest.len(), |at| at + 1);
                tokens.push(Token::Quoted(rest[1..end].to_owned()));
                (end + 1).min(rest.len())
            }
            ',' => 1,
            '=' | '>' => {
                tokens.push(Token::Word(first.to_string()));
                1
            }
            _ => {
                let end = rest.find([' ', '(', ')', '"', ',', '=', '>']).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
        };
        rest = rest[taken..].trim_start();
    }
    tokens
}

/// What is said of an operand.
#[derive(Clone)]
enum Predicate {
    Valued,
    OneOf(Vec<String>),
    Repeats(usize),
    Longer(usize),
    Not(Box<Predicate>),
}

impl Predicate {
    fn of(&self, operand: Operand) -> Condition {
        match self {
            Predicate::Valued => Condition::Valued(operand),
            Predicate::OneOf(words) => Condition::OneOf(operand, words.clone()),
            Predicate::Repeats(n) => Condition::Repeats(operand, *n),
            Predicate::Longer(n) => Condition::Longer(operand, *n),
            Predicate::Not(inner) => Condition::Not(Box::new(inner.of(operand))),
        }
    }
}

/// A part of a chain of ANDs or ORs.
enum Part {
    Whole(Condition),
    /// An operand whose predicate comes later: `PID-33 AND PID-34 VALUED`.
    Waiting(Operand),
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn word(&self, offset: usize) -> Option<String> {
        match self.tokens.get(self.at + offset) {
            Some(Token::Word(word)) => Some(word.to_uppercase()),
            _ => None,
        }
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(n, w)| self.word(n).as_deref() == Some(*w));
        if found {
            self.at += words.len();
        }
        found
    }

    /// OR binds less than AND.
    fn any(&mut self) -> Result<Condition, String> {
        let mut chains: Vec<(Vec<Part>, bool)> = Vec::new();
        let mut last = Operand::Own;
        loop {
            let mut parts = Vec::new();
            loop {
                parts.push(self.part(&mut last)?);
                let again = self.take(&["AND"]) || self.begins_operand();
                if !again {
                    break;
                }
            }
            let or = self.take(&["OR"]);
            chains.push((parts, or));
            if !or {
                break;
            }
        }
        Ok(joined(chains))
    }

    fn begins_operand(&self) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if operand(word).is_some())
    }

    fn part(&mut self, last: &mut Operand) -> Result<Part, String> {
        self.take(&["IF"]);
        if self.peek() == Some(&Token::Open) {
            self.at += 1;
            let inner = self.any()?;
            if self.peek() == Some(&Token::Close) {
                self.at += 1;
            }
            return Ok(Part::Whole(inner));
        }
        if let Some(Token::Word(word)) = self.peek()
            && let Some(found) = operand(word)
        {
            self.at += 1;
            last.clone_from(&found);
            return Ok(match self.predicate()? {
                Some(predicate) => Part::Whole(predicate.of(found)),
                None => Part::Waiting(found),
            });
        }
        match self.predicate()? {
            Some(predicate) => Ok(Part::Whole(predicate.of(last.clone()))),
            None => Err(match self.peek() {
                Some(token) => format!("`{}`", token.text()),
                None => "nothing where a condition was expected".to_owned(),
            }),
        }
    }

    fn predicate(&mut self) -> Result<Option<Predicate>, String> {
        let negate = |not: bool, inner: Predicate| if not { Predicate::Not(Box::new(inner)) } else { inner };
        self.take(&["IS"]);
        if self.take(&["DOES", "NOT", "EXIST"]) {
            return Ok(Some(negate(true, Predicate::Valued)));
        }
        let not = self.take(&["NOT"]);
        if self.take(&["VALUED"]) || self.take(&["VALUE"]) {
            return Ok(Some(negate(not, Predicate::Valued)));
        }
        if self.take(&["EMPTY"]) {
            return Ok(Some(negate(!not, Predicate::Valued)));
        }
        let counts = self.take(&["LST.COUNT"]) || self.take(&["COUNT"]);
        let length = !counts && self.take(&["LENGTH"]);
        if counts || length {
            return self.comparison(counts).map(Some);
        }
        let named = self.take(&["EQUALS"]) || self.take(&["EQUAL", "TO"]) || self.take(&["="]) || self.take(&["IN"]);
        self.take(&["IN"]);
        match self.words() {
            words if !words.is_empty() => Ok(Some(negate(not, Predicate::OneOf(words)))),
            _ if named || not => Err("no value to compare with".to_owned()),
            _ => Ok(None),
        }
    }

    /// After `LST.count` or `LENGTH`: always brought to "more than n".
    fn comparison(&mut self, counts: bool) -> Result<Predicate, String> {
        let more = |n: usize| if counts { Predicate::Repeats(n) } else { Predicate::Longer(n) };
        let (not, exactly) = if self.take(&["LESS", "THAN", "OR", "EQUALS"]) {
            (true, false)
        } else if self.take(&["GREATER", "THAN"]) || self.take(&[">"]) {
            (false, false)
        } else if self.take(&["EQUALS"]) || self.take(&["="]) {
            (true, true)
        } else {
            return Err("no comparison".to_owned());
        };
        let number = self.word(0).and_then(|w| w.parse::<usize>().ok()).ok_or("no number to compare with")?;
        self.at += 1;
        // "Exactly one" is asked of what is there: not more than one.
        let _ = exactly;
        Ok(if not { Predicate::Not(Box::new(more(number))) } else { more(number) })
    }

    fn words(&mut self) -> Vec<String> {
        let open = self.peek() == Some(&Token::Open) && matches!(self.tokens.get(self.at + 1), Some(Token::Quoted(_)));
        if open {
            self.at += 1;
        }
        let mut words = Vec::new();
        while let Some(Token::Quoted(text)) = self.peek() {
            words.push(text.clone());
            self.at += 1;
            if !open {
                break;
            }
        }
        if open && self.peek() == Some(&Token::Close) {
            self.at += 1;
        }
        words
    }
}

/// Gives waiting operands the predicate that stands at the end of their chain.
fn joined(chains: Vec<(Vec<Part>, bool)>) -> Condition {
    let mut any = Vec::new();
    let mut later: Option<Condition> = None;
    for (parts, _) in chains.into_iter().rev() {
        let mut all = Vec::new();
        for part in parts.into_iter().rev() {
            all.push(match part {
                Part::Whole(condition) => {
                    later = Some(condition.clone());
                    condition
                }
                Part::Waiting(operand) => later
                    .as_ref()
                    .map_or_else(|| Condition::Valued(operand.clone()), |condition| said_of(condition, &operand)),
            });
        }
        all.reverse();
        any.push(match all.pop() {
            Some(one) if all.is_empty() => one,
            Some(last) => {
                all.push(last);
                Condition::All(all)
            }
            None => Condition::All(all),
        });
    }
    any.reverse();
    match any.pop() {
        Some(one) if any.is_empty() => one,
        Some(last) => {
            any.push(last);
            Condition::Any(any)
        }
        None => Condition::All(any),
    }
}

/// The same said of another operand.
fn said_of(condition: &Condition, operand: &Operand) -> Condition {
    let operand = operand.clone();
    match condition {
        Condition::Not(inner) => Condition::Not(Box::new(said_of(inner, &operand))),
        Condition::OneOf(_, words) => Condition::OneOf(operand, words.clone()),
        Condition::Repeats(_, n) => Condition::Repeats(operand, *n),
        Condition::Longer(_, n) => Condition::Longer(operand, *n),
        _ => Condition::Valued(operand),
    }
}

/// `PID-11.9`, `CX.5`, `RXO`; nothing for words of the language.
fn operand(word: &str) -> Option<Operand> {
    let is_id = |text: &str| {
        text.len() == 3
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    if is_id(word) && !matches!(word, "AND" | "NOT") {
        return Some(Operand::Segment(word.to_owned()));
    }
    if let Some((segment, place)) = word.split_once('-') {
        let mut numbers = place.split('.').map(|n| n.parse::<usize>().ok());
        let (field, component) = (numbers.next()??, numbers.next().flatten().unwrap_or(0));
        let named = is_id(segment);
        return named.then(|| Operand::Field { segment: segment.to_owned(), field, component });
    }
    let (kind, n) = word.split_once('.')?;
    let is_type = (2..=3).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_uppercase());
    is_type.then(|| n.parse().ok().map(Operand::Component)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(condition: &Condition) -> String {
        let operand = |o: &Operand| match o {
            Operand::Own => "own".to_owned(),
            Operand::Component(n) => format!(".{n}"),
            Operand::Field { segment, field, component: 0 } => format!("{segment}-{field}"),
            Operand::Field { segment, field, component } => format!("{segment}-{field}.{component}"),
            Operand::Segment(id) => id.clone(),
        };
        let list =
            |all: &[Condition], word: &str| format!("({})", all.iter().map(shown).collect::<Vec<_>>().join(word));
        match condition {
            Condition::All(all) => list(all, " & "),
            Condition::Any(any) => list(any, " | "),
            Condition::Not(inner) => format!("!{}", shown(inner)),
            Condition::Valued(o) => operand(o),
            Condition::OneOf(o, words) => format!("{}={}", operand(o), words.join(",")),
            Condition::Repeats(o, n) => format!("#{}>{n}", operand(o)),
            Condition::Longer(o, n) => format!("len({})>{n}", operand(o)),
        }
    }

    #[test]
    fn the_guides_ways_of_saying_it() {
        for (text, meant) in [
            ("IF PV1-2.1 EQUALS \"P\"", "PV1-2.1=P"),
            ("IF PV1-2.1 NOT EQUALS \"P\"", "!PV1-2.1=P"),
            ("IF PID-33 AND PID-34 VALUED", "(PID-33 & PID-34)"),
            ("IF TQ1-7 AND TQ1-8 NOT VALUED", "(!TQ1-7 & !TQ1-8)"),
            ("IF PRT-9 VALUED OR IF PRT-14 VALUED", "(PRT-9 | PRT-14)"),
            ("IF PV1-3.2 OR PV1-3.3 VALUED", "(PV1-3.2 | PV1-3.3)"),
            ("IF PV1-20 VALUE", "PV1-20"),
            ("IF XCN.19 NOT VALUED XCN.20 NOT VALUED", "(!.19 & !.20)"),
            ("IF XCN.19 DOES NOT EXIST AND IF XCN.20 DOES NOT EXIST", "(!.19 & !.20)"),
            ("IF OBX-5 LST.count LESS THAN OR EQUALS 1 OR OBX-2 IS \"NA\"", "(!#OBX-5>1 | OBX-2=NA)"),
            ("IF OBX-33 COUNT>1", "#OBX-33>1"),
            ("IF PID-7 LENGTH GREATER THAN 8", "len(PID-7)>8"),
            ("IF NK1-3.1 NOT IN (\"EMR\", \"E\")", "!NK1-3.1=EMR,E"),
            ("IF IAM-15 VALUED AND NOT \"SEL\"", "(IAM-15 & !IAM-15=SEL)"),
            ("IF NOT VALUED AND RXA-21 NOT EQUALS \"D\"", "(!own & !RXA-21=D)"),
            ("IF CWE.3 IS \"HL70276\"", ".3=HL70276"),
            ("IF RXO-2 IS VALUED AND (IF RXO-4.1 IS VALUED OR RXO-4.3 IS VALUED)", "(RXO-2 & (RXO-4.1 | RXO-4.3))"),
            ("IF TXA-19 = \"AV\"", "TXA-19=AV"),
            ("IF RXO NOT VALUED", "!RXO"),
            ("IF TQ1-3.9 IS EMPTY", "!TQ1-3.9"),
        ] {
            assert_eq!(Condition::parse(text).map(|c| shown(&c)), Ok(meant.to_owned()), "{text}");
        }
        for text in ["c", "IF CX.4 IN http://x", "IF PRT-5 AND PRT-6 AREA NOT VALUED", "IF"] {
            assert!(Condition::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(IF|AND|OR|NOT|VALUED|IN|EQUALS|IS|COUNT|LENGTH|[(),=><\"]|[A-Z0-9]{2,3}[-.][0-9.]{0,4}| |.){0,30}") {
            let _ = Condition::parse(&text);
        }
    }
}
