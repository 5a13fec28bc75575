//! Terminology over small systems whose answers are known.

use super::*;
use crate::json;

fn loaded() -> Loaded {
    let mut loaded = Loaded::default();
    // a ── b ── d      e (inactive, a child of c by property)      f (abstract)
    //   └─ c
    loaded.add(json!({
        "resourceType": "CodeSystem", "url": "http://s", "version": "1", "content": "complete", "status": "active",
        "property": [{"code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code"}],
        "concept": [
            {"code": "a", "display": "Animal", "concept": [
                {"code": "b", "display": "Bear", "concept": [{"code": "d", "display": "Dancing bear",
                    "designation": [{"language": "de", "value": "Tanzbär"}]}]},
                {"code": "c", "display": "Cat", "property": [{"code": "legs", "valueInteger": 4}]}]},
            {"code": "e", "display": "Extinct cat", "property": [{"code": "parent", "valueCode": "c"},
                {"code": "inactive", "valueBoolean": true}, {"code": "legs", "valueInteger": 4}]},
            {"code": "f", "display": "Flora", "property": [{"code": "notSelectable", "valueBoolean": true}]},
        ],
    }));
    loaded.add(json!({
        "resourceType": "ValueSet", "url": "http://cats",
        "compose": {"include": [{"system": "http://s", "filter": [{"property": "concept", "op": "is-a", "value": "c"}]}]},
    }));
    loaded.add(json!({
        "resourceType": "ValueSet", "url": "http://circle", "compose": {"include": [{"valueSet": ["http://circle"]}]},
    }));
    loaded
}

fn set(include: Value, exclude: Value) -> Value {
    json!({"resourceType": "ValueSet", "url": "http://set", "compose": {"include": include, "exclude": exclude}})
}

fn codes(set: &Value, options: Options) -> Result<Vec<String>, TermError> {
    let loaded = loaded();
    let terms = Terms::new(&loaded, &[set]);
    let expansion = expand(&terms, set, &Options { concepts_max: 10, ..options.clone() })?;
    let codes: Vec<String> = expansion.contains.iter().map(|entry| text(entry, "code").unwrap().to_owned()).collect();
    // What is listed is what is validated.
    let whole = options.filter.is_none() && !options.active_only && codes.len() == expansion.total;
    for code in ["a", "b", "c", "d", "e", "f", "x"] {
        let coding = Coding { system: Some("http://s".to_owned()), code: code.to_owned(), ..Coding::default() };
        let within = terms.validate(set, &coding)?.is_some();
        if whole {
            assert_eq!(within, codes.iter().any(|known| known == code), "{code}");
        }
    }
    Ok(codes)
}

#[test]
fn value_sets_hold_what_their_definition_says() {
    let filter = |property: &str, op: &str, value: &str| json!({"property": property, "op": op, "value": value});
    let filtered = |filters: Vec<Value>| json!([{"system": "http://s", "filter": filters}]);
    for (include, exclude, want) in [
        (json!([{"system": "http://s"}]), json!([]), "abdcef"),
        (json!([{"system": "http://s", "concept": [{"code": "c"}, {"code": "a"}]}]), json!([]), "ca"),
        (filtered(vec![filter("concept", "is-a", "b")]), json!([]), "bd"),
        (filtered(vec![filter("concept", "descendent-of", "a")]), json!([]), "bdce"),
        (filtered(vec![filter("concept", "is-not-a", "a")]), json!([]), "f"),
        (filtered(vec![filter("concept", "generalizes", "d")]), json!([]), "abd"),
        (filtered(vec![filter("concept", "in", "a, f")]), json!([]), "af"),
        (filtered(vec![filter("legs", "=", "4")]), json!([]), "ce"),
        (filtered(vec![filter("legs", "exists", "false")]), json!([]), "abdf"),
        (filtered(vec![filter("legs", "exists", "true"), filter("inactive", "=", "false")]), json!([]), "c"),
        (filtered(vec![filter("display", "regex", "[A-C].*")]), json!([]), "abc"),
        (filtered(vec![filter("code", "regex", "[de]")]), json!([]), "de"),
        (filtered(vec![filter("parent", "=", "c")]), json!([]), "e"),
        (json!([{"valueSet": ["http://cats"]}]), json!([]), "ce"),
        (
            json!([{"system": "http://s", "valueSet": ["http://cats"], "concept": [{"code": "a"}, {"code": "c"}]}]),
            json!([]),
            "c",
        ),
        (
            json!([{"valueSet": ["http://cats"]}, {"system": "http://s", "concept": [{"code": "c"}, {"code": "b"}]}]),
            json!([]),
            "ceb",
        ),
        (json!([{"system": "http://s"}]), json!([{"valueSet": ["http://cats"]}]), "abdf"),
        (json!([{"system": "http://s"}]), filtered(vec![filter("concept", "is-a", "a")]), "f"),
        (filtered(vec![filter("concept", "is-a", "nothing")]), json!([]), ""),
    ] {
        let set = set(include, exclude);
        assert_eq!(codes(&set, Options::default()).unwrap().concat(), want, "{}", json::to_string(&set));
    }
}

#[test]
fn expansions_are_narrowed_and_paged() {
    let all = set(json!([{"system": "http://s"}]), json!([]));
    let options = Options::default;
    for (options, want) in [
        (Options { filter: Some("CAT".to_owned()), ..options() }, "ce"),
        (Options { filter: Some("tanzbar".to_owned()), language: Some("de".to_owned()), ..options() }, "d"),
        (Options { active_only: true, ..options() }, "abdcf"),
        (Options { offset: 2, count: Some(2), ..options() }, "dc"),
        (Options { offset: 9, ..options() }, ""),
        (Options { count: Some(0), ..options() }, ""),
    ] {
        assert_eq!(codes(&all, options.clone()).unwrap().concat(), want, "{options:?}");
    }
    let loaded = loaded();
    let terms = Terms::new(&loaded, &[&all]);
    let page = expand(&terms, &all, &Options { count: Some(1), concepts_max: 6, ..options() }).unwrap();
    assert_eq!((page.total, page.used.as_slice()), (6, ["http://s|1".to_owned()].as_slice()));
    let german = expand(
        &terms,
        &all,
        &Options { concepts_max: 6, language: Some("de".to_owned()), designations: true, ..options() },
    );
    let german = german.unwrap();
    assert_eq!(
        (text(&german.contains[2], "display"), items(&german.contains[2], "designation").len()),
        (Some("Tanzbär"), 1)
    );
    assert_eq!(german.contains[5].get("abstract").and_then(Value::as_bool), Some(true));
    let few = expand(&terms, &all, &Options { concepts_max: 5, ..options() });
    assert_eq!(few.unwrap_err().code, "too-costly");
}

#[test]
fn what_cannot_be_told_is_an_error_and_no_guess() {
    let filter = |op: &str, value: &str| json!([{"system": "http://s", "filter": [{"property": "concept", "op": op, "value": value}]}]);
    for (include, code) in [
        (json!([{"system": "http://unknown"}]), "not-found"),
        (json!([{"system": "http://s", "version": "2"}]), "not-found"),
        (json!([{"valueSet": ["http://unknown"]}]), "not-found"),
        (json!([{"valueSet": ["http://circle"]}]), "too-costly"),
        (json!([{}]), "invalid"),
        (filter("regex", "("), "invalid"),
        (filter("nothing", "x"), "not-supported"),
    ] {
        assert_eq!(codes(&set(include, json!([])), Options::default()).unwrap_err().code, code);
    }
    // A list needs no system: it says itself what is in.
    let listed = set(json!([{"system": "http://unknown", "concept": [{"code": "x"}]}]), json!([]));
    assert_eq!(codes_of_any(&listed), ["x"]);
    let stored = json!({"resourceType": "ValueSet", "expansion": {"contains": [
        {"system": "http://u", "code": "1", "contains": [{"system": "http://u", "code": "2"}]}]}});
    assert_eq!(codes_of_any(&stored), ["1", "2"]);
}

fn codes_of_any(set: &Value) -> Vec<String> {
    let loaded = Loaded::default();
    let terms = Terms::new(&loaded, &[set]);
    let expansion = expand(&terms, set, &Options { concepts_max: 10, ..Options::default() }).unwrap();
    expansion.contains.iter().map(|entry| text(entry, "code").unwrap().to_owned()).collect()
}

#[test]
fn concepts_stand_to_each_other() {
    let loaded = loaded();
    let system = loaded.system("http://s").unwrap();
    for (a, b, want) in [
        ("a", "a", Some("equivalent")),
        ("a", "d", Some("subsumes")),
        ("d", "a", Some("subsumed-by")),
        ("a", "e", Some("subsumes")),
        ("b", "c", Some("not-subsumed")),
        ("a", "x", None),
        ("A", "a", None),
    ] {
        assert_eq!(system.relation(a, b).map(Relation::code), want, "{a} {b}");
    }
    assert!(
        system.is_display(system.find("d").unwrap(), "tanzbar")
            && !system.is_display(system.find("d").unwrap(), "Bear")
    );
    let mut insensitive =
        json!({"resourceType": "CodeSystem", "url": "u", "caseSensitive": false, "concept": [{"code": "Ab"}]});
    assert!(System::of(&insensitive).find("aB").is_some());
    insensitive.as_object_mut().unwrap().insert("caseSensitive", true);
    assert!(System::of(&insensitive).find("aB").is_none());
    // A circle of properties ends.
    let circle = json!({"resourceType": "CodeSystem", "url": "u", "concept": [
        {"code": "1", "property": [{"code": "parent", "valueCode": "2"}]},
        {"code": "2", "property": [{"code": "parent", "valueCode": "1"}]}]});
    assert_eq!(System::of(&circle).relation("1", "2"), Some(Relation::Subsumes));
}

#[test]
fn maps_translate_both_ways() {
    let map = json!({"resourceType": "ConceptMap", "url": "http://m", "group": [
        {"source": "http://s", "target": "http://t", "targetVersion": "3", "element": [
            {"code": "a", "target": [{"code": "1", "equivalence": "wider"}, {"code": "2", "equivalence": "equal",
                "dependsOn": [{"property": "p", "value": "v"}]}]},
            {"code": "b", "target": [{"code": "1", "equivalence": "unmatched"}]},
            {"code": "c", "target": [{"equivalence": "unmatched"}]}],
         "unmapped": {"mode": "fixed", "code": "other"}},
        {"source": "http://s", "target": "http://u", "unmapped": {"mode": "other-map", "url": "http://n"}, "element": [
            {"code": "a", "target": [{"code": "9", "equivalence": "equal"}]}]}]});
    let mut loaded = Loaded::default();
    loaded.add(json!({"resourceType": "ConceptMap", "url": "http://n", "group": [
        {"source": "http://s", "target": "http://u", "unmapped": {"mode": "provided"}, "element": []}]}));
    let coding = |system: &str, code: &str| Coding {
        system: Some(system.to_owned()),
        code: code.to_owned(),
        ..Coding::default()
    };
    let run = |coding: &Coding, target: Option<&str>, reverse: bool| {
        let translation = translate(&loaded, &map, coding, target, reverse).unwrap();
        let shown = translation.matches.iter().map(|m| format!("{} {}", m.equivalence, m.concept.code));
        (translation.succeeds(), shown.collect::<Vec<_>>().join(", "))
    };
    let shown = |truth: bool, text: &str| (truth, text.to_owned());
    assert_eq!(run(&coding("http://s", "a"), None, false), shown(true, "wider 1, equal 9"));
    assert_eq!(run(&coding("http://s", "a"), Some("http://t"), false), shown(true, "wider 1"));
    assert_eq!(run(&coding("http://s", "b"), Some("http://t"), false), shown(false, "unmatched 1"));
    assert_eq!(run(&coding("http://s", "c"), Some("http://t"), false), shown(false, ""));
    assert_eq!(run(&coding("http://s", "x"), Some("http://t"), false), shown(true, "relatedto other"));
    assert_eq!(run(&coding("http://s", "x"), Some("http://u"), false), shown(true, "equal x"));
    assert_eq!(run(&coding("http://else", "a"), None, false), shown(false, ""));
    assert_eq!(run(&coding("http://t", "1"), None, true), shown(true, "narrower a, unmatched b"));
    let to_n = translate(&Loaded::default(), &map, &coding("http://s", "x"), Some("http://u"), false);
    assert_eq!(to_n.unwrap_err().code, "not-found");
    let version = translate(&loaded, &map, &coding("http://s", "a"), Some("http://t"), false).unwrap();
    assert_eq!(version.matches[0].concept.version.as_deref(), Some("3"));
    assert_eq!(loaded.wanted(&map), []);
    assert_eq!(Loaded::default().wanted(&map), [("ConceptMap", "http://n".to_owned())]);
}
