//! What the suite of the specification does not ask: limits, hostile expressions, silence of errors about data, R4's
//! ways with references, primitives and contained resources.

use proptest::prelude::*;

use crate::json::{ParseLimits, Value, parse};

use super::{Context, Expr, Item, PathErrorKind, PathLimits, R4, Resolver, Structural, compile};

const PATIENT: &str = r##"{
    "resourceType": "Patient", "id": "p1", "active": true, "birthDate": "1974-12-25", "deceasedDateTime": "2015-02",
    "_birthDate": {"extension": [{"url": "http://example.org/time", "valueDateTime": "1974-12-25T14:35:45-05:00"}]},
    "name": [
        {"family": "SENTINELFAMILY", "given": [null, "Ann"], "_given": [{"extension": [{"url": "http://example.org/x"}]}, null]},
        {"family": "Other", "given": ["Bea"]}
    ],
    "multipleBirthInteger": 2,
    "contained": [{"resourceType": "Practitioner", "id": "d1", "gender": "female"}],
    "generalPractitioner": [{"reference": "#d1"}, {"reference": "Organization/o1"}]
}"##;

fn json(text: &str) -> Value {
    parse(text.as_bytes(), &ParseLimits::default()).expect("JSON")
}

struct Shelf(Value);

impl Resolver for Shelf {
    fn resolve(&self, reference: &str) -> Option<&Value> {
        (reference == "Organization/o1").then_some(&self.0)
    }
}

fn shown(expr: &Expr, root: &Value, context: &Context<'_>) -> Result<String, super::PathError> {
    let text = |item: &Item<'_>| item.to_text().map_or_else(|| "-".to_owned(), |t| t.into_owned());
    Ok(expr.eval(root, context)?.iter().map(text).collect::<Vec<_>>().join(" "))
}

#[test]
fn r4_specifics() {
    let (patient, shelf) =
        (json(PATIENT), Shelf(json(r#"{"resourceType": "Organization", "id": "o1", "name": "Ward"}"#)));
    let variables = [("limit", Item::Integer(1))];
    let context = Context { resolver: Some(&shelf), variables: &variables, ..Context::new() };
    for (path, expected) in [
        ("name.given", "- Ann Bea"),
        ("name.given.select(hasValue())", "false true true"),
        ("name.first().given.first().extension.url", "http://example.org/x"),
        ("birthDate.extension('http://example.org/time').value", "1974-12-25T14:35:45-05:00"),
        ("deceased is dateTime", "true"),
        ("deceased.ofType(boolean)", ""),
        ("(multipleBirth as integer) + 1", "3"),
        ("generalPractitioner.resolve().type().name", "Practitioner Organization"),
        ("generalPractitioner[0].resolve().gender", "female"),
        ("contained.ofType(Practitioner).gender", "female"),
        ("%resource.id & %context.id", "p1p1"),
        ("name.take(%limit).given.count()", "2"),
        ("getResourceKey()", "Patient/p1"),
        ("generalPractitioner.getReferenceKey(Organization)", "Organization/o1"),
        ("name[0].is(HumanName) and name[0].is(Element)", "true"),
        ("Resource.id | DomainResource.id", "p1"),
        ("birthDate < @1975 and birthDate.toString() = '1974-12-25'", "true"),
        ("deceased > birthDate", "true"),
        ("9223372036854775807 + 1", ""),
        ("'a' & 1.0", "a1.0"),
        ("descendants().where($this is HumanName).count()", "2"),
    ] {
        let expr = compile(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(shown(&expr, &patient, &context).unwrap_or_else(|e| panic!("{path}: {e}")), expected, "{path}");
    }
}

#[test]
fn a_bound_is_not_a_value() {
    let lab =
        json(r#"{"resourceType": "Observation", "valueQuantity": {"value": 5, "comparator": "<", "unit": "mg/L"}}"#);
    for (path, expected) in [
        ("value > 3 'mg/L'", ""),
        ("value = 5 'mg/L'", ""),
        ("value = value", "true"),
        ("value.ofType(Quantity).value > 3", "true"),
        ("value.comparator", "<"),
    ] {
        assert_eq!(shown(&compile(path).unwrap(), &lab, &Context::new()).unwrap(), expected, "{path}");
    }
}

#[test]
fn untyped_json_is_guessed_by_its_shape() {
    let patient = json(PATIENT);
    let context = Context { types: &Structural, ..Context::new() };
    for (path, expected) in [
        ("multipleBirth", "2"),
        ("deceased > @2014", "true"),
        ("birthDate < @1975-01-01", "true"),
        ("active is boolean", "true"),
    ] {
        assert_eq!(shown(&compile(path).unwrap(), &patient, &context).unwrap(), expected, "{path}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (path, kind, offset) in [
        ("", PathErrorKind::Syntax, 0),
        ("name.", PathErrorKind::Syntax, 5),
        ("name..given", PathErrorKind::Syntax, 5),
        ("name given", PathErrorKind::Syntax, 5),
        ("name.where(use = 'x'", PathErrorKind::Syntax, 20),
        ("'open", PathErrorKind::Syntax, 0),
        ("#", PathErrorKind::Syntax, 0),
        ("@2015-02-30", PathErrorKind::Syntax, 0),
        ("name.frist()", PathErrorKind::Semantic, 5),
        ("name.skip()", PathErrorKind::Semantic, 5),
        ("code.memberOf('x')", PathErrorKind::Unsupported, 5),
        ("99999999999999999999999999999999999999999", PathErrorKind::Syntax, 0),
    ] {
        let error = compile(path).unwrap_err();
        assert_eq!((error.kind, error.offset), (kind, offset), "{path}: {error}");
    }
}

#[test]
fn mistakes_are_found_without_data() {
    for (path, count) in [
        ("name.family", 0),
        ("name.famly", 1),
        ("name.where(use = 'official' and peroid.exists()).given", 1),
        ("Patient.contact.name.family", 0),
        ("Encounter.period", 1),
        ("deceasedBoolean", 1),
        ("deceased.ofType(boolean)", 0),
        ("extension('u').value.ofType(Coding).code", 0),
        ("contained.ofType(Observation).valu", 1),
        ("generalPractitioner.resolve().anything", 0),
        ("children().first()", 1),
        ("name.select(given | family)", 0),
        ("name.combine(contact.name).family", 0),
    ] {
        assert_eq!(compile(path).unwrap().check(Some("Patient"), &R4).len(), count, "{path}");
    }
}

#[test]
fn limits_hold() {
    let limit = |text: String| compile(&text).unwrap_err().kind;
    assert_eq!(limit("a".repeat(100_000)), PathErrorKind::Limit);
    for text in ["(".repeat(5_000), "-".repeat(5_000), "a.".repeat(5_000) + "a", "1+".repeat(5_000) + "1"] {
        assert_eq!(limit(text), PathErrorKind::Limit);
    }
    assert_eq!(limit("iif(true,".repeat(500) + "1" + &")".repeat(500)), PathErrorKind::Limit);
    // As deep as is allowed is not too deep for a thread's stack.
    let patient = json(PATIENT);
    for (open, middle, close) in [("iif(true,", "1", ")"), ("where(", "true", ")"), ("select(", "id", ")")] {
        let deep = format!("{}{middle}{}", open.repeat(90), close.repeat(90));
        assert_eq!(compile(&deep).unwrap().eval(&patient, &Context::new()).unwrap().len(), 1);
    }
    let limits = PathLimits { value_bytes_max: 10_000, steps_max: 10_000, items_max: 500, ..PathLimits::default() };
    let context = Context { limits, ..Context::new() };
    for path in [
        "descendants().select(%resource.descendants())",
        "(1|2).repeat($this + 1)",
        "(1|2|3|4|5|6|7|8|9).select(%resource.descendants()).aggregate($total & $total, 'abcdefgh')",
        "'a'.repeat($this + $this)",
        "'aaaa'.repeat(replace('', $this))",
        "'aaaa'.repeat(replaceMatches('a', $this))",
    ] {
        let error = compile(path).unwrap().eval(&patient, &context).unwrap_err();
        assert_eq!(error.kind, PathErrorKind::Limit, "{path}");
    }
}

#[test]
fn errors_never_hold_data() {
    let patient = json(PATIENT);
    for path in [
        "name.family.single()",
        "name[0].family + 1",
        "name[0].family > 1",
        "-name[0].family",
        "name[0].family.abs()",
        "name[0].family.skip('SENTINEL')",
        "iif(name[0].family, 1)",
        "name.family.allTrue()",
        "name[0].family.lowBoundary()",
        "name[0].substring(1)",
        "now()",
    ] {
        let error = compile(path).unwrap().eval(&patient, &Context::new()).unwrap_err();
        assert!(!error.to_string().contains("SENTINEL"), "{path}");
        assert!(!format!("{error:?} {:?}", Item::string("SENTINEL")).contains("SENTINEL"));
    }
}

#[test]
fn an_expression_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Expr>();
    shared::<crate::view::View>();
}

/// Pieces that make expressions which often parse.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "name",
        "given",
        ".",
        "(",
        ")",
        "[",
        "]",
        "0",
        "1",
        "-1",
        "1.5",
        "'a'",
        "''",
        "{}",
        "$this",
        "$index",
        "%resource",
        " + ",
        " - ",
        " * ",
        " / ",
        " div ",
        " mod ",
        " & ",
        " | ",
        " = ",
        " != ",
        " ~ ",
        " < ",
        " >= ",
        " and ",
        " or ",
        " implies ",
        " in ",
        " contains ",
        " is ",
        " as ",
        "string",
        "Quantity",
        "true",
        "@2015",
        "@T10:00",
        "4 days",
        "1 'mg'",
        ".where(",
        ".select(",
        ".first()",
        ".count()",
        ".exists()",
        ".not()",
        ".substring(",
        ",",
        ".repeat(",
        ".descendants()",
        ".ofType(",
        ".toString()",
        ".toQuantity()",
        ".power(",
        ".round(",
        ".matches(",
        ".replaceMatches(",
        ".sort(",
        ".aggregate(",
        "$total",
        ".lowBoundary()",
        ".highBoundary(",
        ".split(",
        ".join(",
        ".resolve()",
        ".type()",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_compiles_or_is_refused(text in "\\PC{0,60}") { let _ = compile(&text); }

    #[test]
    fn any_expression_ends_without_panic(pieces in prop::collection::vec(piece(), 1..14)) {
        if let Ok(expr) = compile(&pieces.concat()) {
            let patient = json(PATIENT);
            let limits = PathLimits { steps_max: 20_000, items_max: 2_000, ..PathLimits::default() };
            let context = Context { limits, now: Some(base::Timestamp(0)), ..Context::new() };
            let _ = expr.eval(&patient, &context);
            let _ = expr.check(Some("Patient"), &R4);
            let _ = expr.trail();
        }
    }
}
