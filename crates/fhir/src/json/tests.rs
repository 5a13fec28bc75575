//! Tables and properties of the JSON reader and writer.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Value, JsonError> {
    parse(text.as_bytes(), &ParseLimits::default())
}

#[test]
fn the_text_comes_back_as_it_was() {
    for text in [
        "null",
        r#"{"a":1.50,"b":[1e-7,-0,0.10,123456789012345678901234567890.0],"c":{},"d":[]}"#,
        r#""\"\\\n\r\tä😀/""#,
        r#"{"z":1,"a":2,"m":3}"#,
    ] {
        assert_eq!(to_string(&read(text).unwrap()), text);
    }
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (text, offset) in [
        ("", 0),
        ("{", 1),
        ("[1,]", 3),
        ("{\"a\":1,}", 7),
        ("{\"a\":1,\"a\":2}", 12),
        ("[1] 2", 4),
        ("01", 1),
        ("1.", 0),
        ("-", 0),
        ("+1", 0),
        ("1e", 0),
        ("nul", 0),
        ("\"a\nb\"", 2),
        ("\"\\x\"", 1),
        ("\"\\ud800\"", 1),
        ("\"\\ud800\\u0041\"", 1),
        ("\"\\udc00\"", 1),
        ("\"abc", 4),
        ("{a:1}", 1),
        ("NaN", 0),
    ] {
        assert_eq!(read(text).map_err(|e| e.offset), Err(offset), "{text}");
    }
    let error = parse(b"\"\xff\"", &ParseLimits::default()).unwrap_err();
    assert_eq!((error.offset, error.line, error.column), (1, 1, 2));
    assert_eq!(read("{\n \"a\": x}").unwrap_err().to_string(), "expected a value at line 2, column 7");
}

#[test]
fn limits_hold() {
    let limits = ParseLimits { bytes_max: 100, depth_max: 3, nodes_max: 5 };
    let ok = |text: &str| parse(text.as_bytes(), &limits).is_ok();
    assert!(ok("[[[1]]]") && !ok("[[[[1]]]]"));
    assert!(ok("[1,2,3,4]") && !ok("[1,2,3,4,5]"));
    assert!(!ok(&" ".repeat(101)));
    let boundless = ParseLimits { bytes_max: usize::MAX, depth_max: usize::MAX, nodes_max: usize::MAX };
    assert!(parse("[".repeat(1 << 20).as_bytes(), &boundless).is_err());
    let many: Vec<String> = (0..50_000).map(|i| format!("\"k{i}\":0")).collect();
    assert_eq!(read(&format!("{{{}}}", many.join(","))).unwrap().as_object().unwrap().len(), 50_000);
    assert!(read(&format!("{{{},\"k7\":0}}", many.join(","))).is_err());
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert_eq!(read("\u{feff} true").unwrap(), Value::Bool(true));
}

#[test]
fn debug_shows_shape_only() {
    let value = json!({"family": "EVERYWOMAN", "given": ["EVE"], "n": 4711});
    let shown = format!("{value:?} {:?} {:?}", value.get("n"), value.as_object());
    assert!(!shown.contains("EVE") && !shown.contains("4711") && !shown.contains("family"), "{shown}");
}

#[test]
fn the_macro_writes_json() {
    let n = 2;
    let key = String::from("k");
    let none: Option<&str> = None;
    let value =
        json!({"a": [1, null, {"b": n + 1}, [], "x".to_owned()], "c": none, (key): {"d": true,}, "e": -1.5, "f": {},});
    assert_eq!(to_string(&value), r#"{"a":[1,null,{"b":3},[],"x"],"c":null,"k":{"d":true},"e":-1.5,"f":{}}"#);
    assert_eq!(value.path(&["a", "2", "b"]).and_then(Value::as_i64), Some(3));
    assert_eq!(to_string(&json!([])), "[]");
    assert_eq!(to_string_pretty(&json!({"a": [1], "b": {}})), "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
}

#[test]
fn objects_keep_order_and_compare_without_it() {
    let mut object: Object = [("b", 1), ("a", 2)].into_iter().collect();
    assert_eq!(object.insert("b", 3).and_then(|v| v.as_i64()), Some(1));
    assert_eq!(object.keys().collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(json!({"a": 2, "b": 3}), Value::Object(object.clone()));
    assert_ne!(json!({"a": 2, "c": 3}), Value::Object(object.clone()));
    assert_eq!(object.remove("b").and_then(|v| v.as_i64()), Some(3));
    assert_eq!(object.len(), 1);
}

fn number() -> impl Strategy<Value = Value> {
    "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?".prop_map(|t| Value::from(Number::parse(&t)))
}

/// Any JSON value, for tests of whatever reads one.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::Bool), number(), ".*".prop_map(Value::from)];
    leaf.prop_recursive(6, 80, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec((".{0,6}", inner), 0..8).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn values_round_trip_to_the_text_of_their_numbers(value in any_value()) {
        let text = to_string(&value);
        let back = read(&text).unwrap();
        prop_assert!(back == value);
        prop_assert_eq!(to_string(&back), text.clone());
        prop_assert!(read(&to_string_pretty(&value)).unwrap() == value);
        let theirs: Result<serde_json::Value, _> = serde_json::from_str(&text);
        prop_assert!(theirs.is_ok() || text.contains('e') || text.contains('E'));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, &ParseLimits::default());
    }

    #[test]
    fn what_we_take_of_near_json_others_take_too(text in r#"[\[\]{}",:0-9eE+.\\u\-ntrfals ]{0,40}"#) {
        if read(&text).is_ok() {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert!(theirs.as_ref().err().is_none_or(|e| e.to_string().contains("out of range")), "{}", text);
        }
    }
}
