//! Obligations: the typed vocabulary of `@obligation("...")`, how it is read, and how several are joined.
//!
//! | written | what the enforcer does |
//! |---|---|
//! | `mask(CLASS, METHOD)` | shows elements of a class by a method: `null`, `keyed-hash`, `year-only`, `zip3`, `age-band`, `last, N`, `constant, TEXT` |
//! | `rows(RULE)` | keeps patients by rule: `not-restricted`, `care-team`, `restricted-in-care-team` |
//! | `hide(SENSITIVITY, ...)` | leaves out records marked `part2`, `mental-health`, `hiv`, `reproductive`, `restricted` |
//! | `rows-max(N)` | at most N rows or resources per answer |
//! | `group-min(N)` | rows only in groups of at least N patients |
//! | `de-identify(PROFILE)` | the output passes a de-identification profile |
//! | `notify(ROLE)` | those who hold a role are told |

use std::fmt;
use std::sync::Arc;

use base::{DataClass, MaskMethod, Role, Sensitivity};

/// Which patients stay, by the sets that `gate` looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowRule {
    /// Restricted patients are kept only where they are in the caller's care team.
    RestrictedInCareTeam,
    /// Restricted patients are left out.
    NotRestricted,
    /// Only the patients of the caller's care team.
    CareTeam,
}

impl RowRule {
    pub const ALL: &'static [RowRule] = &[RowRule::RestrictedInCareTeam, RowRule::NotRestricted, RowRule::CareTeam];

    pub fn code(self) -> &'static str {
        match self {
            RowRule::RestrictedInCareTeam => "restricted-in-care-team",
            RowRule::NotRestricted => "not-restricted",
            RowRule::CareTeam => "care-team",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Obligation {
    Mask { class: DataClass, method: MaskMethod },
    Rows(RowRule),
    Hide(Sensitivity),
    RowsMax(u64),
    GroupMin(u32),
    DeIdentify(String),
    Notify(Role),
}

/// An obligation with the policy that demands it and that policy's sentence for users.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Obliged {
    pub what: Obligation,
    pub policy: Arc<str>,
    pub reason: Arc<str>,
}

pub const SENSITIVITIES: &[(&str, Sensitivity)] = &[
    ("part2", Sensitivity::PART2),
    ("mental-health", Sensitivity::MENTAL_HEALTH),
    ("hiv", Sensitivity::HIV),
    ("reproductive", Sensitivity::REPRODUCTIVE),
    ("restricted", Sensitivity::RESTRICTED),
];

fn method_text(method: &MaskMethod) -> String {
    match method {
        MaskMethod::Null => "null".to_owned(),
        MaskMethod::Constant(text) => format!("constant, {text}"),
        MaskMethod::KeyedHash => "keyed-hash".to_owned(),
        MaskMethod::Last(n) => format!("last, {n}"),
        MaskMethod::YearOnly => "year-only".to_owned(),
        MaskMethod::Zip3 => "zip3".to_owned(),
        MaskMethod::AgeBand => "age-band".to_owned(),
    }
}

/// As it is written in a policy; [`parse`] reads it back.
impl fmt::Display for Obligation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obligation::Mask { class, method } => write!(f, "mask({class}, {})", method_text(method)),
            Obligation::Rows(rule) => write!(f, "rows({})", rule.code()),
            Obligation::Hide(hidden) => {
                let names: Vec<&str> =
                    SENSITIVITIES.iter().filter(|(_, bit)| bit.is_within(*hidden)).map(|(name, _)| *name).collect();
                write!(f, "hide({})", names.join(", "))
            }
            Obligation::RowsMax(n) => write!(f, "rows-max({n})"),
            Obligation::GroupMin(n) => write!(f, "group-min({n})"),
            Obligation::DeIdentify(profile) => write!(f, "de-identify({profile})"),
            Obligation::Notify(role) => write!(f, "notify({role})"),
        }
    }
}

/// What is wrong with an obligation's text, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadObligation {
    pub what: String,
    pub help: String,
}

fn bad(what: impl Into<String>, help: impl Into<String>) -> BadObligation {
    BadObligation { what: what.into(), help: help.into() }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    format!("one of: {}", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// Reads `mask(birth-date, year-only); rows(not-restricted); rows-max(10000)`.
pub fn parse(text: &str) -> Result<Vec<Obligation>, BadObligation> {
    let mut obligations = Vec::new();
    for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        obligations.push(parse_one(item)?);
    }
    if obligations.is_empty() {
        return Err(bad("the obligation is empty", "write one, such as `mask(name, null)`, or drop the annotation"));
    }
    Ok(obligations)
}

fn parse_one(item: &str) -> Result<Obligation, BadObligation> {
    let shape = || bad(format!("`{item}` is not an obligation"), "write it as name(argument, ...), separated by `;`");
    let (name, rest) = item.split_once('(').ok_or_else(shape)?;
    let arguments: Vec<&str> = rest.strip_suffix(')').ok_or_else(shape)?.split(',').map(str::trim).collect();
    let one = || match arguments.as_slice() {
        [only] if !only.is_empty() => Ok(*only),
        _ => Err(bad(format!("`{}` takes one argument", name.trim()), "write it as name(argument)")),
    };
    match name.trim() {
        "mask" => parse_mask(&arguments),
        "rows" => {
            let rule = one()?;
            let known = RowRule::ALL.iter().copied().find(|known| known.code() == rule);
            known.map(Obligation::Rows).ok_or_else(|| {
                bad(format!("`{rule}` is not a row rule"), list(RowRule::ALL.iter().map(|rule| rule.code())))
            })
        }
        "hide" => {
            let mut hidden = Sensitivity::NONE;
            for name in &arguments {
                let bit = SENSITIVITIES.iter().find(|(known, _)| known == name).map(|(_, bit)| *bit);
                hidden = hidden.with(bit.ok_or_else(|| {
                    bad(format!("`{name}` is not a sensitivity"), list(SENSITIVITIES.iter().map(|(name, _)| *name)))
                })?);
            }
            Ok(Obligation::Hide(hidden))
        }
        "rows-max" => number(one()?).map(Obligation::RowsMax),
        "group-min" => {
            let n = number(one()?)?;
            u32::try_from(n).map(Obligation::GroupMin).map_err(|_| bad("the group is too large", "at most 4294967295"))
        }
        "de-identify" => Ok(Obligation::DeIdentify(slug(one()?)?)),
        "notify" => {
            let role = one()?;
            Role::parse(role)
                .map(Obligation::Notify)
                .ok_or_else(|| bad(format!("`{role}` is not a role"), list(Role::ALL.iter().map(|role| role.code()))))
        }
        other => Err(bad(
            format!("`{other}` is not a known obligation"),
            list(["mask", "rows", "hide", "rows-max", "group-min", "de-identify", "notify"]),
        )),
    }
}

fn parse_mask(arguments: &[&str]) -> Result<Obligation, BadObligation> {
    let [class, method, extra @ ..] = arguments else {
        return Err(bad("`mask` takes a class and a method", "write it as mask(name, null)"));
    };
    let class = DataClass::parse(class).ok_or_else(|| {
        bad(format!("`{class}` is not a data class"), list(DataClass::ALL.iter().map(|class| class.code())))
    })?;
    let method = match (*method, extra) {
        ("null", []) => MaskMethod::Null,
        ("keyed-hash", []) => MaskMethod::KeyedHash,
        ("year-only", []) => MaskMethod::YearOnly,
        ("zip3", []) => MaskMethod::Zip3,
        ("age-band", []) => MaskMethod::AgeBand,
        ("last", [n]) => MaskMethod::Last(
            n.parse().map_err(|_| bad("`last` takes a number up to 255", "mask(identifier, last, 4)"))?,
        ),
        ("constant", [text]) if !text.is_empty() => MaskMethod::Constant((*text).to_owned()),
        (other, _) => {
            return Err(bad(
                format!("`{other}` with these arguments is not a mask method"),
                "one of: null, keyed-hash, year-only, zip3, age-band, last with a number, constant with a text",
            ));
        }
    };
    let fits = match method {
        MaskMethod::YearOnly => matches!(class, DataClass::BirthDate | DataClass::Date),
        MaskMethod::AgeBand => class == DataClass::BirthDate,
        MaskMethod::Zip3 => class == DataClass::PostalCode,
        _ => true,
    };
    if !fits {
        return Err(bad(
            format!("`{}` does not fit the class `{class}`", method_text(&method)),
            "year-only is for date and birth-date, age-band for birth-date, zip3 for postal-code",
        ));
    }
    Ok(Obligation::Mask { class, method })
}

fn number(text: &str) -> Result<u64, BadObligation> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(bad(format!("`{text}` is not a positive whole number"), "write digits only, such as 10000")),
    }
}

fn slug(text: &str) -> Result<String, BadObligation> {
    let fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(text.to_owned()) } else { Err(bad(format!("`{text}` is not a profile's name"), "use a-z, 0-9 and -")) }
}

/// How much a set of obligations takes away, greatest first: de-identification, patients, records, small groups, masks
/// (nulls before partial ones), caps. Among the ways in, the lightest is taken. Notifying takes nothing from the
/// caller, yet weighs before everything: a way that raises an alarm is used only when no other is open.
pub fn weight(obligations: &[Obliged]) -> [u64; 8] {
    let mut weight = [0u64; 8];
    for obliged in obligations {
        match &obliged.what {
            Obligation::Notify(_) => weight[0] += 1,
            Obligation::DeIdentify(_) => weight[1] += 1,
            Obligation::Rows(rule) => weight[2] = weight[2].max(1 + *rule as u64),
            Obligation::Hide(hidden) => weight[3] += u64::from(hidden.0.count_ones()),
            Obligation::GroupMin(n) => weight[4] = weight[4].max(u64::from(*n)),
            Obligation::Mask { method: MaskMethod::Null | MaskMethod::Constant(_), .. } => weight[5] += 1,
            Obligation::Mask { .. } => weight[6] += 1,
            Obligation::RowsMax(n) => weight[7] = weight[7].max(u64::MAX - n),
        }
    }
    weight
}

/// Joins obligations that all hold: the stricter of two caps; of two masks for one class by different methods `null`,
/// since neither is known to hide what the other hides. `Err` names two de-identification profiles that exclude each
/// other. The result is sorted by its text, so equal sets are equal lists.
pub fn join(all: Vec<Obliged>) -> Result<Vec<Obliged>, String> {
    let mut joined: Vec<Obliged> = Vec::new();
    for next in all {
        let rival = joined.iter_mut().find(|held| same_subject(&held.what, &next.what));
        let Some(held) = rival else {
            joined.push(next);
            continue;
        };
        match (&mut held.what, &next.what) {
            (Obligation::Mask { method: a, .. }, Obligation::Mask { method: b, .. }) if a != b => {
                if *b == MaskMethod::Null {
                    *held = next;
                } else {
                    *a = MaskMethod::Null;
                }
            }
            (Obligation::Hide(a), Obligation::Hide(b)) => *a = a.with(*b),
            (Obligation::RowsMax(a), Obligation::RowsMax(b)) if b < a => *held = next,
            (Obligation::GroupMin(a), Obligation::GroupMin(b)) if b > a => *held = next,
            (Obligation::DeIdentify(a), Obligation::DeIdentify(b)) if a != b => {
                return Err(format!("the policies ask for two de-identification profiles at once, {a} and {b}"));
            }
            _ => {}
        }
    }
    joined.sort_by_cached_key(|obliged| obliged.what.to_string());
    Ok(joined)
}

fn same_subject(a: &Obligation, b: &Obligation) -> bool {
    match (a, b) {
        (Obligation::Mask { class: a, .. }, Obligation::Mask { class: b, .. }) => a == b,
        (Obligation::Rows(a), Obligation::Rows(b)) => a == b,
        (Obligation::Notify(a), Obligation::Notify(b)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obliged(text: &str) -> Vec<Obliged> {
        let bind = |what| Obliged { what, policy: "p".into(), reason: "r".into() };
        parse(text).unwrap().into_iter().map(bind).collect()
    }

    fn text(obligations: &[Obliged]) -> String {
        obligations.iter().map(|obliged| obliged.what.to_string()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let all = "mask(name, null); mask(identifier, last, 4); mask(contact, constant, hidden); \
                   mask(birth-date, age-band); mask(date, year-only); mask(postal-code, zip3); \
                   mask(national-id, keyed-hash); rows(not-restricted); rows(care-team); hide(part2, hiv); \
                   rows-max(10000); group-min(5); de-identify(safe-harbor); notify(privacy-officer)";
        let read = parse(all).unwrap();
        let written = read.iter().map(|o| o.to_string()).collect::<Vec<_>>().join("; ");
        assert_eq!(parse(&written).unwrap(), read);
        assert_eq!(read.len(), 14);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        for (wrong, what) in [
            ("", "the obligation is empty"),
            ("mask", "`mask` is not an obligation"),
            ("mask(name)", "`mask` takes a class and a method"),
            ("mask(nmae, null)", "`nmae` is not a data class"),
            ("mask(name, blur)", "`blur` with these arguments is not a mask method"),
            ("mask(name, zip3)", "`zip3` does not fit the class `name`"),
            ("mask(date, age-band)", "`age-band` does not fit the class `date`"),
            ("rows(mine)", "`mine` is not a row rule"),
            ("rows-max(0)", "`0` is not a positive whole number"),
            ("rows-max(-1)", "`-1` is not a positive whole number"),
            ("hide(vip)", "`vip` is not a sensitivity"),
            ("notify(boss)", "`boss` is not a role"),
            ("sing(loud)", "`sing` is not a known obligation"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.what, what, "{wrong}");
            assert!(!error.help.is_empty());
        }
    }

    #[test]
    fn joining_keeps_the_stricter() {
        for (left, right, joined) in [
            ("mask(name, null)", "mask(name, null)", "mask(name, null)"),
            ("mask(birth-date, year-only)", "mask(birth-date, age-band)", "mask(birth-date, null)"),
            ("mask(identifier, keyed-hash)", "mask(identifier, null)", "mask(identifier, null)"),
            ("rows-max(10)", "rows-max(5)", "rows-max(5)"),
            ("group-min(5)", "group-min(11)", "group-min(11)"),
            ("rows(care-team)", "rows(not-restricted)", "rows(care-team); rows(not-restricted)"),
            ("hide(part2)", "hide(hiv)", "hide(part2, hiv)"),
        ] {
            for (a, b) in [(left, right), (right, left)] {
                let both = obliged(a).into_iter().chain(obliged(b)).collect();
                assert_eq!(text(&join(both).unwrap()), joined);
            }
        }
        let two = obliged("de-identify(safe-harbor); de-identify(limited)");
        assert!(join(two).is_err());
    }

    #[test]
    fn ways_in_are_ordered_by_what_they_take_away() {
        let order = [
            "rows-max(1000)",
            "rows-max(10)",
            "mask(date, year-only)",
            "mask(date, year-only); mask(birth-date, age-band)",
            "mask(name, null)",
            "group-min(5)",
            "hide(part2)",
            "rows(restricted-in-care-team)",
            "rows(care-team)",
            "de-identify(safe-harbor)",
            "notify(privacy-officer)",
        ];
        for pair in order.windows(2) {
            assert!(weight(&obliged(pair[0])) < weight(&obliged(pair[1])), "{pair:?}");
        }
        assert!(weight(&[]) < weight(&obliged(order[0])));
    }
}
