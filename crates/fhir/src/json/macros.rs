//! `json!`: a value written as JSON, with Rust expressions in it.

/// `json!({"resourceType": "Patient", "active": true, "name": [{"family": family}]})`.
///
/// Values are JSON literals or expressions that convert into [`Value`](crate::json::Value); a name is a literal or
/// an expression in parentheses.
#[macro_export]
macro_rules! json {
    (null) => { $crate::json::Value::Null };
    ([ $($items:tt)* ]) => {{
        #[allow(unused_mut)]
        let mut array = ::std::vec::Vec::<$crate::json::Value>::from([]);
        $crate::json_items!(array; $($items)*);
        $crate::json::Value::Array(array)
    }};
    ({ $($members:tt)* }) => {{
        #[allow(unused_mut)]
        let mut object = $crate::json::Object::new();
        $crate::json_members!(object; $($members)*);
        $crate::json::Value::Object(object)
    }};
    ($value:expr) => { $crate::json::Value::from($value) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! json_items {
    ($array:ident;) => {};
    ($array:ident; null $(, $($rest:tt)*)?) => {
        $array.push($crate::json::Value::Null);
        $crate::json_items!($array; $($($rest)*)?);
    };
    ($array:ident; [ $($items:tt)* ] $(, $($rest:tt)*)?) => {
        $array.push($crate::json!([ $($items)* ]));
        $crate::json_items!($array; $($($rest)*)?);
    };
    ($array:ident; { $($members:tt)* } $(, $($rest:tt)*)?) => {
        $array.push($crate::json!({ $($members)* }));
        $crate::json_items!($array; $($($rest)*)?);
    };
    ($array:ident; $value:expr $(, $($rest:tt)*)?) => {
        $array.push($crate::json::Value::from($value));
        $crate::json_items!($array; $($($rest)*)?);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! json_members {
    ($object:ident;) => {};
    ($object:ident; ($key:expr) : $($rest:tt)*) => { $crate::json_member!($object; ($key); $($rest)*); };
    ($object:ident; $key:literal : $($rest:tt)*) => { $crate::json_member!($object; ($key); $($rest)*); };
}

#[doc(hidden)]
#[macro_export]
macro_rules! json_member {
    ($object:ident; ($key:expr); null $(, $($rest:tt)*)?) => {
        $object.insert($key, $crate::json::Value::Null);
        $crate::json_members!($object; $($($rest)*)?);
    };
    ($object:ident; ($key:expr); [ $($items:tt)* ] $(, $($rest:tt)*)?) => {
        $object.insert($key, $crate::json!([ $($items)* ]));
        $crate::json_members!($object; $($($rest)*)?);
    };
    ($object:ident; ($key:expr); { $($members:tt)* } $(, $($rest:tt)*)?) => {
        $object.insert($key, $crate::json!({ $($members)* }));
        $crate::json_members!($object; $($($rest)*)?);
    };
    ($object:ident; ($key:expr); $value:expr $(, $($rest:tt)*)?) => {
        $object.insert($key, $crate::json::Value::from($value));
        $crate::json_members!($object; $($($rest)*)?);
    };
}
