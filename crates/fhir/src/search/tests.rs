//! Tables: what resources put into the index, and what queries become.

use proptest::prelude::*;

use super::*;
use crate::json::{Number, ParseLimits, Value, parse, to_string};

/// A row as a table writes it.
fn shown(value: &IndexValue) -> String {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    match value {
        IndexValue::Token { system, code, text } => format!("{}|{}|{}", or(system), or(code), or(text)),
        IndexValue::Reference { rtype, id } => format!("{rtype}/{id}"),
        IndexValue::AbsoluteRef { url } => format!("<{url}>"),
        IndexValue::IdentifierRef { system, code } => format!("identifier {}|{}", or(system), or(code)),
        IndexValue::Date { from_ms, to_ms } => format!("{from_ms}..{to_ms}"),
        IndexValue::String { folded, exact } => format!("{folded} ({exact})"),
        IndexValue::Number { low, high } => format!("{low}..{high}"),
        IndexValue::Quantity { value, low, high, system, code, unit } => {
            format!("{value} {low}..{high} {}|{}|{}", or(system), or(code), or(unit))
        }
        IndexValue::Uri(text) => text.clone(),
        IndexValue::Composite(parts) => parts.iter().map(shown).collect::<Vec<_>>().join(" & "),
    }
}

fn rows(resource: &Value, code: &str) -> Vec<String> {
    extract(resource).iter().filter(|(c, _)| *c == code).map(|(_, value)| shown(value)).collect()
}

#[test]
fn a_patient_is_indexed() {
    let patient = json!({
        "resourceType": "Patient",
        "id": "p1",
        "meta": {
            "lastUpdated": "1970-01-01T00:00:01Z",
            "tag": [{"system": "s", "code": "t"}],
            "profile": ["http://x/p|1"],
        },
        "identifier": [{"system": "urn:oid:1", "value": "A-1", "type": {"text": "MRN"}}, {"use": "old"}],
        "active": true,
        "name": [{"family": "Müller", "given": ["Ann", "É."], "text": ""}],
        "telecom": [{"system": "phone", "value": "555"}, {"system": "email", "value": "a@b"}],
        "gender": "female",
        "birthDate": "1970",
        "address": [{"line": ["1 Main St"], "city": "Zürich", "use": "home"}],
        "generalPractitioner": [
            {"reference": "Practitioner/d"},
            {"reference": "http://x/Organization/o"},
            {"identifier": {"system": "npi", "value": "7"}},
            {"reference": "#c"},
        ],
        "link": [{"other": {"reference": "Patient/p2/_history/3"}}],
    });
    for (code, want) in [
        ("_id", vec!["-|p1|-"]),
        ("_lastUpdated", vec!["1000..2000"]),
        ("_tag", vec!["s|t|-"]),
        ("_profile", vec!["http://x/p|1"]),
        ("identifier", vec!["urn:oid:1|A-1|mrn"]),
        ("active", vec!["-|true|-"]),
        ("name", vec!["muller (Müller)", "ann (Ann)", "e. (É.)"]),
        ("given", vec!["ann (Ann)", "e. (É.)"]),
        ("phone", vec!["-|555|-"]),
        ("telecom", vec!["-|555|-", "-|a@b|-"]),
        ("gender", vec!["http://hl7.org/fhir/administrative-gender|female|-"]),
        ("birthdate", vec!["0..31536000000"]),
        ("address", vec!["1 main st (1 Main St)", "zurich (Zürich)"]),
        ("address-use", vec!["http://hl7.org/fhir/address-use|home|-"]),
        ("deceased", vec!["-|false|-"]),
        ("general-practitioner", vec!["Practitioner/d", "<http://x/Organization/o>", "identifier npi|7"]),
        ("link", vec!["Patient/p2"]),
        ("death-date", vec![]),
    ] {
        assert_eq!(rows(&patient, code), want, "{code}");
    }
    for (died, want) in [
        (json!({"resourceType": "Patient", "deceasedBoolean": false}), "false"),
        (json!({"resourceType": "Patient", "deceasedBoolean": true}), "true"),
        (json!({"resourceType": "Patient", "deceasedDateTime": "2020"}), "true"),
    ] {
        assert_eq!(rows(&died, "deceased"), [format!("-|{want}|-")]);
    }
}

#[test]
fn an_observation_is_indexed() {
    let observation = json!({
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "loinc", "code": "85354-9", "display": "Blood Pressure"}], "text": "BP"},
        "subject": {"reference": "Patient/1"},
        "effectivePeriod": {"start": "1970-01-01"},
        "valueQuantity": {"value": 7.50, "comparator": "<", "unit": "mg", "system": "ucum", "code": "mg"},
        "component": [
            {"code": {"coding": [{"code": "a"}, {"code": "b"}]}, "valueQuantity": {"value": 120, "unit": "mmHg"}},
            {"code": {"coding": [{"code": "c"}]}, "valueString": "x"},
        ],
    });
    for (code, want) in [
        ("code", vec!["loinc|85354-9|blood pressure", "-|-|bp"]),
        ("patient", vec!["Patient/1"]),
        ("subject", vec!["Patient/1"]),
        ("date", vec!["0..9223372036854775807"]),
        ("value-quantity", vec!["7.5 -inf..7.5 ucum|mg|mg"]),
        ("combo-value-quantity", vec!["7.5 -inf..7.5 ucum|mg|mg", "120 119.5..120.5 -|-|mmHg"]),
        (
            "component-code-value-quantity",
            vec!["-|a|- & 120 119.5..120.5 -|-|mmHg", "-|b|- & 120 119.5..120.5 -|-|mmHg"],
        ),
        (
            "code-value-quantity",
            vec!["loinc|85354-9|blood pressure & 7.5 -inf..7.5 ucum|mg|mg", "-|-|bp & 7.5 -inf..7.5 ucum|mg|mg"],
        ),
        ("status", vec!["http://hl7.org/fhir/observation-status|final|-"]),
    ] {
        assert_eq!(rows(&observation, code), want, "{code}");
    }
}

#[test]
fn rarer_types_are_indexed() {
    for (resource, code, want) in [
        (
            json!({"resourceType": "Observation", "valueSampledData": {"origin": {"value": 10, "unit": "mV"}, "factor": 2, "data": "1 -1 E 3"}}),
            "value-quantity",
            vec!["12 8..16 -|-|mV"],
        ),
        (
            json!({"resourceType": "Condition", "onsetRange": {"low": {"value": 3, "code": "a"}, "high": {"value": 5}}}),
            "onset-age",
            vec!["4 3..5 -|a|-"],
        ),
        (
            json!({"resourceType": "Condition", "onsetRange": {"high": {"value": 5, "code": "a"}}}),
            "onset-age",
            vec!["5 -inf..5 -|a|-"],
        ),
        (
            json!({"resourceType": "ServiceRequest", "occurrenceTiming": {"event": ["1970-01-03", "1970-01-01"]}}),
            "occurrence",
            vec!["0..259200000"],
        ),
        (
            json!({"resourceType": "Invoice", "totalNet": {"value": Number::parse("5.00"), "currency": "EUR"}}),
            "totalnet",
            vec!["5 4.995..5.005 urn:iso:std:iso:4217|EUR|EUR"],
        ),
        (
            json!({"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Composition", "id": "c"}}, {"resource": {"resourceType": "Patient", "id": "p"}}]}),
            "composition",
            vec!["Composition/c"],
        ),
        (
            json!({"resourceType": "Library", "relatedArtifact": [{"type": "depends-on", "resource": "http://x/L|2"}, {"type": "successor", "resource": "http://y"}]}),
            "depends-on",
            vec!["<http://x/L>"],
        ),
        (
            json!({"resourceType": "RiskAssessment", "prediction": [{"probabilityDecimal": Number::parse("0.50")}]}),
            "probability",
            vec!["0.495..0.505"],
        ),
        (
            json!({
                "resourceType": "MolecularSequence",
                "referenceSeq": {"chromosome": {"coding": [{"code": "21"}]}},
                "variant": [{"start": 5, "end": 6}],
            }),
            "chromosome-variant-coordinate",
            vec!["-|21|- & 4.5..5.5 & 5.5..6.5"],
        ),
        (json!({"resourceType": "Patient", "birthDate": "1970-02-31"}), "birthdate", vec![]),
        (json!({"resourceType": "Nothing", "id": "x"}), "_id", vec![]),
    ] {
        assert_eq!(rows(&resource, code), want, "{code} of {}", to_string(&resource));
    }
}

/// A criterion as a table writes it.
fn criterion_text(criterion: &Criterion) -> String {
    match criterion {
        Criterion::Clause(c) => clause(c),
        Criterion::Chain(chain) => {
            let branches: Vec<_> = chain.branches.iter().map(|(t, c)| format!("{t}[{}]", criterion_text(c))).collect();
            format!("{} -> {}", chain.param, branches.join(" or "))
        }
        Criterion::Has(has) => format!("{}.{} <- {}", has.rtype, has.param, criterion_text(&has.criterion)),
        Criterion::Any(any) => {
            let all = |clauses: &Vec<Clause>| clauses.iter().map(clause).collect::<Vec<_>>().join(" and ");
            any.iter().map(all).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn clause(clause: &Clause) -> String {
    let modifier = clause.modifier.as_ref().map(|m| format!(":{m:?}")).unwrap_or_default();
    let values: Vec<_> = clause.values.iter().map(value).collect();
    format!("{}{modifier} = {}", clause.param, values.join(" or "))
}

fn value(value: &ClauseValue) -> String {
    use ClauseValue as V;
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "*".to_owned());
    let system = |system: &Option<Option<String>>| match system {
        None => "*".to_owned(),
        Some(None) => "none".to_owned(),
        Some(Some(system)) => system.clone(),
    };
    match value {
        V::Token { system: s, code } => format!("{} {}", system(s), or(code)),
        V::Text(text) => format!("text {text}"),
        V::Reference { rtype, id } => format!("{}/{id}", or(rtype)),
        V::AbsoluteRef(url) => format!("<{url}>"),
        V::Date { prefix, from_ms, to_ms } => format!("{prefix:?} {from_ms}..{to_ms}"),
        V::String { folded, exact } => format!("{folded} ({exact})"),
        V::Number { prefix, value, low, high } => format!("{prefix:?} {value} {low}..{high}"),
        V::Quantity { prefix, value, low, high, system: s, code } => {
            format!("{prefix:?} {value} {low}..{high} {} {}", system(s), or(code))
        }
        V::Uri(uri) => uri.clone(),
        V::Composite(parts) => parts.iter().map(self::value).collect::<Vec<_>>().join(" & "),
        V::Missing(missing) => format!("missing {missing}"),
    }
}

fn query(rtype: &str, pairs: &[(&str, &str)]) -> Result<Query, String> {
    let pairs: Vec<_> = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    parse_query(rtype, &pairs, &base::Limits::default(), false)
        .map_err(|issue| format!("{} {}", issue.code, issue.text))
}

#[test]
fn criteria_are_read() {
    for (rtype, name, text, want) in [
        ("Patient", "name", "Ann,Émile", "name = ann (Ann) or emile (Émile)"),
        ("Patient", "name:exact", r"a\,b\\\c", r"name:Exact = a,b\\c (a,b\\c)"),
        ("Patient", "family:contains", "ü", "family:Contains = u (ü)"),
        ("Patient", "identifier", "urn:x|1,|2,3,urn:y|", "identifier = urn:x 1 or none 2 or * 3 or urn:y *"),
        ("Patient", "identifier", r"a\|b|c\$", "identifier = a|b c$"),
        ("Patient", "_id", "p1,p2", "_id = * p1 or * p2"),
        ("Patient", "_lastUpdated", "gt1970-01-02", "_lastUpdated = Gt 86400000..172800000"),
        ("Patient", "birthdate", "ap1970-01-02", "birthdate = Ap 0..259200000"),
        ("Patient", "birthdate:missing", "true", "birthdate:Missing = missing true"),
        ("Patient", "gender:not", "male", "gender:Not = * male"),
        ("Patient", "organization", "o1", "organization = Organization/o1"),
        ("Patient", "general-practitioner", "o1", "general-practitioner = */o1"),
        (
            "Patient",
            "general-practitioner:Practitioner",
            "d",
            "general-practitioner:Type(\"Practitioner\") = Practitioner/d",
        ),
        ("Patient", "general-practitioner:identifier", "s|7", "general-practitioner:Identifier = s 7"),
        ("Observation", "patient", "Patient/1,http://x/Patient/2", "patient = Patient/1 or <http://x/Patient/2>"),
        ("Observation", "code:text", "Blood  P", "code:Text = text blood p"),
        ("Observation", "value-quantity", "le5.40|ucum|mg", "value-quantity = Le 5.4 5.395..5.405 ucum mg"),
        ("Observation", "value-quantity", "5||mg", "value-quantity = Eq 5 4.5..5.5 * mg"),
        ("Observation", "value-quantity", "ap100", "value-quantity = Ap 100 90..110 * *"),
        ("Observation", "code-value-quantity", "l|a$gt5", "code-value-quantity = l a & Gt 5 4.5..5.5 * *"),
        ("RiskAssessment", "probability", "gt0.8", "probability = Gt 0.8 0.75..0.85"),
        ("ValueSet", "url", "http://x/y", "url = http://x/y"),
        ("Observation", "subject:Patient.name", "x", "subject -> Patient[name = x (x)]"),
        ("Observation", "patient.identifier", "s|1", "patient -> Patient[identifier = s 1]"),
        (
            "Observation",
            "subject.identifier:missing",
            "false",
            "subject -> Group[identifier:Missing = missing false] or Device[identifier:Missing = missing false] \
             or Patient[identifier:Missing = missing false] or Location[identifier:Missing = missing false]",
        ),
        (
            "Observation",
            "encounter:Encounter.patient.family",
            "x",
            "encounter -> Encounter[patient -> Patient[family = x (x)]]",
        ),
        ("Patient", "_has:Observation:patient:code", "c", "Observation.patient <- code = * c"),
        (
            "Patient",
            "_has:Observation:patient:_has:Provenance:target:agent:Practitioner.name",
            "x",
            "Observation.patient <- Provenance.target <- agent -> Practitioner[name = x (x)]",
        ),
        (
            "Patient",
            "_has:Observation:subject:encounter.class",
            "x",
            "Observation.subject <- encounter -> Encounter[class = * x]",
        ),
    ] {
        let got = query(rtype, &[(name, text)]).map(|q| {
            let clauses = q.clauses.into_iter().map(Criterion::Clause);
            let chains = q.chains.into_iter().map(Criterion::Chain);
            clauses
                .chain(chains)
                .chain(q.has.into_iter().map(Criterion::Has))
                .map(|c| criterion_text(&c))
                .collect::<String>()
        });
        assert_eq!(got.as_deref(), Ok(want), "{rtype}?{name}");
    }
}

#[test]
fn results_are_shaped() {
    let query = query(
        "Encounter",
        &[
            ("_sort", "-date,_id"),
            ("_count", "5000"),
            ("_total", "accurate"),
            ("_summary", "data"),
            ("_elements", "status,period"),
            ("_include", "Encounter:subject:Patient"),
            ("_include:iterate", "Patient:organization"),
            ("_include", "*"),
            ("_revinclude", "Observation:encounter"),
            ("_revinclude", "Provenance:*"),
            ("_cursor", "abc"),
            ("_format", "json"),
        ],
    )
    .unwrap();
    assert_eq!(query.sort, [("date", true), ("_id", false)]);
    assert_eq!((query.count, query.total, query.summary), (Some(1000), Total::Accurate, Summary::Data));
    assert_eq!(query.elements, ["status", "period"]);
    let includes: Vec<_> = query.includes.iter().map(|i| (i.param, i.target.as_deref(), i.iterate)).collect();
    assert_eq!(
        includes,
        [(Some("subject"), Some("Patient"), false), (Some("organization"), None, true), (None, None, false)]
    );
    assert_eq!(query.revincludes[1].param, None);
    assert_eq!(query.cursor.as_deref(), Some("abc"));
    assert!(query.clauses.is_empty() && format!("{query:?}").len() < 60);
}

#[test]
fn what_is_wrong_is_named_without_its_value() {
    const SECRET: &str = "EVERYWOMAN^";
    for (rtype, name, text, want) in [
        ("Nothing", "name", SECRET, "not-supported unknown resource type"),
        ("Patient", "nmae", SECRET, "not-found nmae is not a search parameter of Patient"),
        ("Patient", "a EVERYWOMAN", "x", "not-found (not a name) is not"),
        ("Patient", "name:in", SECRET, "invalid name:in has a modifier"),
        ("Patient", "identifier:above", SECRET, "not-supported identifier:above has a modifier that is not supported"),
        ("Patient", "gender:exact", SECRET, "invalid gender:exact has a modifier"),
        ("Patient", "organization:Patient", SECRET, "invalid organization:Patient has a modifier"),
        ("Patient", "birthdate", SECRET, "value birthdate needs a date"),
        ("Patient", "birthdate", "xx1970", "value birthdate needs a date"),
        ("Patient", "birthdate", "1970,", "value birthdate needs a value"),
        ("Patient", "birthdate:missing", SECRET, "value birthdate:missing with :missing needs"),
        ("Patient", "name", "", "value name needs a value"),
        ("Patient", "identifier", "a|b|EVERYWOMAN", "value identifier needs code"),
        ("Patient", "identifier", "|", "value identifier needs code"),
        ("Patient", "organization", SECRET, "value organization needs Type/id"),
        ("Observation", "subject:Patient", "Group/1", "value subject:Patient needs a reference to the type"),
        ("Observation", "value-quantity", "5|mg", "value value-quantity needs number"),
        ("Observation", "value-quantity", SECRET, "value value-quantity needs a number"),
        ("Observation", "code-value-quantity", "a", "value code-value-quantity needs as many"),
        ("Location", "near", "1|2", "not-supported near is not supported"),
        ("Patient", "_text", SECRET, "not-supported _text is not supported"),
        ("Patient", "_content:x", SECRET, "not-supported _content:x is not supported"),
        ("Patient", "name.family", SECRET, "invalid name.family chains from what is not a reference"),
        ("Patient", "organization.nope", SECRET, "not-found nope is not a search parameter of Organization"),
        ("Observation", "subject:Organization.name", SECRET, "invalid subject:Organization.name chains to a type"),
        (
            "Observation",
            "encounter.part-of.part-of.part-of.part-of",
            "x",
            "too-costly part-of.part-of has more than 3 steps",
        ),
        ("Task", "focus:Task.owner.organization.partof.name", SECRET, "too-costly"),
        ("Patient", "_has:Observation:patient", SECRET, "invalid _has:Observation:patient needs the form"),
        ("Patient", "_has:Nope:patient:code", SECRET, "invalid _has:Nope:patient:code names an unknown"),
        (
            "Patient",
            "_has:Observation:encounter:code",
            SECRET,
            "invalid _has:Observation:encounter:code names a parameter",
        ),
        ("Patient", "_sort", "EVERYWOMAN", "value _sort needs search parameters"),
        ("Patient", "_count", "-1", "value _count needs a whole number"),
        ("Patient", "_elements", "EVERYWOMAN", "value _elements names an unknown element"),
        ("Patient", "_include", "EVERYWOMAN", "value _include needs the form"),
        ("Patient", "_include", "Patient:name", "value _include names a parameter that is not a reference"),
        ("Patient", "_revinclude", "*", "value _revinclude needs the form"),
    ] {
        let error = query(rtype, &[(name, text)]).map(|_| ()).unwrap_err();
        assert!(error.starts_with(want), "{name}: {error}");
        assert!(!error.contains("EVERYWOMAN"), "{error}");
    }
    assert!(query("Patient", &[("_count", "1"), ("_count", "2")]).unwrap_err().contains("once"));
    assert!(query("Patient", &[("name", &"a,".repeat(2000))]).unwrap_err().starts_with("too-costly"));
    assert!(query("Patient", &[("name", "a"); 101]).unwrap_err().starts_with("too-costly"));
    let pairs =
        [("nmae".to_owned(), "x".to_owned()), ("a b".to_owned(), "x".to_owned()), ("name".to_owned(), "x".to_owned())];
    let lenient = parse_query("Patient", &pairs, &base::Limits::default(), true).unwrap();
    assert_eq!((lenient.ignored, lenient.clauses.len()), (vec!["nmae".to_owned(), "(not a name)".to_owned()], 1));
}

#[test]
fn synthea_resources_are_found_by_what_they_hold() {
    let (mut resources, mut count) = (0, 0);
    for (name, bytes) in crate::testing::synthea() {
        let bundle = parse(&bytes, &ParseLimits::default()).unwrap();
        for entry in bundle.get("entry").unwrap().items() {
            let resource = entry.get("resource").unwrap();
            let rtype = resource.get("resourceType").and_then(Value::as_str).unwrap();
            let rows = extract(resource);
            assert!(rows.iter().any(|(code, _)| *code == "_id"), "{name}");
            let outside = ["Patient", "Organization", "Practitioner"].contains(&rtype);
            let typed = crate::reference::patient_parameters(rtype).len();
            assert_eq!(outside, typed == 0 || rtype == "Patient", "{name}: {rtype}");
            resources += 1;
            count += rows.len();
        }
    }
    assert!(count >= resources * 4, "{count} rows of {resources} resources");
}

proptest! {
    #[test]
    fn extraction_takes_any_json(resource in crate::testing::any_resource()) {
        extract(&resource);
        crate::reference::patient_reference(&resource);
        crate::reference::for_each_reference(&resource, &mut |_, _| {});
    }

    #[test]
    fn extraction_takes_json_that_is_no_resource(value in crate::json::tests::any_value()) {
        extract(&value);
        crate::validate::validate(&value);
    }

    #[test]
    fn no_query_makes_it_panic(name in "(_has:|[a-z]{1,4}[:.]){0,4}[a-z_:.]{0,12}|.*", text in r"[a-z0-9|$,\\.:/é]{0,30}|.*") {
        for rtype in ["Patient", "Observation", "ValueSet"] {
            for name in [name.as_str(), "birthdate", "identifier", "value-quantity", "code-value-quantity", "subject", "url"] {
                let _ = query(rtype, &[(name, &text)]);
            }
        }
    }

    #[test]
    fn escaping_is_undone(texts in prop::collection::vec("[a-z,|$\\\\]{1,6}", 1..5)) {
        let escape = |text: &String| text.replace('\\', r"\\").replace(',', r"\,").replace('|', r"\|").replace('$', r"\$");
        let joined = texts.iter().map(escape).collect::<Vec<_>>().join(",");
        let back: Vec<String> = super::value::split(&joined, ',').into_iter().map(super::value::unescape).collect();
        prop_assert_eq!(back, texts);
    }
}
