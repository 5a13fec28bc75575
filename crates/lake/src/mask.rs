//! Masks on Arrow arrays: what a column shows when policy hides its values.
//!
//! Runs inside the barrier, on raw values, before anything else sees them. A masked column is text but for `Null`,
//! which keeps the type: a masked FHIR date is `YYYY` as text, since FHIR dates are text columns anyway. Lists and
//! structs are masked element by element. Which column is masked how is [`crate::table`]'s question.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait, StringArray};
use arrow::array::{StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use aws_lc_rs::hmac;
use base::{DataClass, MaskMethod, Timestamp, zip};

/// A mask made ready: its method, its key if it needs one, and today, for ages.
#[derive(Clone)]
pub struct Masker {
    method: MaskMethod,
    class: DataClass,
    key: Option<hmac::Key>,
    today: (i32, u32, u32),
}

impl Masker {
    /// `key` is asked for only by [`MaskMethod::KeyedHash`].
    pub fn new(method: MaskMethod, class: DataClass, key: impl FnOnce() -> [u8; 32], now: Timestamp) -> Self {
        let key = matches!(method, MaskMethod::KeyedHash).then(|| hmac::Key::new(hmac::HMAC_SHA256, &key()));
        Masker { method, class, key, today: base::time::civil_from_days(now.ms().div_euclid(86_400_000)) }
    }

    /// The field a masked column has: nullable, text where the method makes text.
    pub fn field(&self, raw: &Field) -> Field {
        Field::new(raw.name(), self.data_type(raw.data_type()), true)
    }

    fn data_type(&self, raw: &DataType) -> DataType {
        let item = |field: &FieldRef| Arc::new(self.field(field));
        match (&self.method, raw) {
            (MaskMethod::Null, _) => raw.clone(),
            (MaskMethod::Constant(_), _) => text_like(raw),
            (_, DataType::List(field)) => DataType::List(item(field)),
            (_, DataType::LargeList(field)) => DataType::LargeList(item(field)),
            (_, DataType::FixedSizeList(field, n)) => DataType::FixedSizeList(item(field), *n),
            (_, DataType::Struct(fields)) => DataType::Struct(fields.iter().map(item).collect::<Fields>()),
            (_, DataType::Dictionary(_, value)) => text_like(value),
            _ => text_like(raw),
        }
    }

    /// The masked column. A value the method does not fit becomes null, never itself.
    pub fn apply(&self, raw: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match (&self.method, raw.data_type()) {
            (MaskMethod::Null, data_type) => Ok(new_null_array(data_type, raw.len())),
            (MaskMethod::Constant(text), data_type) => {
                let constant = StringArray::from_iter_values(std::iter::repeat_n(text, raw.len()));
                cast(&constant, &text_like(data_type))
            }
            (_, DataType::List(_)) => self.list(raw.as_list::<i32>()),
            (_, DataType::LargeList(_)) => self.list(raw.as_list::<i64>()),
            (_, DataType::FixedSizeList(field, n)) => {
                let list = raw.as_fixed_size_list();
                let values = self.apply(list.values())?;
                let field = Arc::new(self.field(field));
                Ok(Arc::new(FixedSizeListArray::try_new(field, *n, values, list.nulls().cloned())?))
            }
            (_, DataType::Struct(fields)) => {
                let raw = raw.as_struct();
                let masked = raw.columns().iter().map(|c| self.apply(c)).collect::<Result<Vec<_>, _>>()?;
                let fields = fields.iter().map(|f| Arc::new(self.field(f))).collect::<Fields>();
                Ok(Arc::new(StructArray::try_new_with_length(fields, masked, raw.nulls().cloned(), raw.len())?))
            }
            (_, DataType::Dictionary(_, value)) => self.apply(&cast(raw, value)?),
            (_, data_type) if data_type.is_nested() => Ok(new_null_array(&text_like(data_type), raw.len())),
            (_, data_type) => {
                // An unfit value (binary that is no text) becomes null in a safe cast.
                let text = cast(raw, &DataType::Utf8)?;
                let mut last: Option<(&str, Option<String>)> = None;
                let masked: StringArray = text
                    .as_string::<i32>()
                    .iter()
                    .map(|value| {
                        let value = value?;
                        // Rows of one patient stand together, so values repeat.
                        if last.as_ref().is_none_or(|(seen, _)| *seen != value) {
                            last = Some((value, self.show(value)));
                        }
                        last.as_ref().and_then(|(_, masked)| masked.clone())
                    })
                    .collect();
                cast(&masked, &text_like(data_type))
            }
        }
    }

    fn list<O: OffsetSizeTrait>(&self, list: &GenericListArray<O>) -> Result<ArrayRef, ArrowError> {
        let values = self.apply(list.values())?;
        let field = Arc::new(Field::new("item", values.data_type().clone(), true));
        let field = match list.data_type() {
            DataType::List(raw) | DataType::LargeList(raw) => Arc::new(self.field(raw)),
            _ => field,
        };
        Ok(Arc::new(GenericListArray::<O>::try_new(field, list.offsets().clone(), values, list.nulls().cloned())?))
    }

    /// One value, for doors that show single values: the same as in a table.
    pub fn show(&self, value: &str) -> Option<String> {
        match &self.method {
            MaskMethod::Null => None,
            MaskMethod::Constant(text) => Some(text.clone()),
            // Half of the tag: 128 bits keep values apart and say nothing more.
            MaskMethod::KeyedHash => {
                let tag = hmac::sign(self.key.as_ref()?, value.as_bytes());
                Some(base::hex::encode(&tag.as_ref()[..16]))
            }
            MaskMethod::Last(n) => Some(last(value, usize::from(*n))),
            MaskMethod::YearOnly => self.year(value).map(|year| format!("{year:04}")),
            MaskMethod::Zip3 => Some(zip::zip3(value).to_owned()),
            MaskMethod::AgeBand => self.age(value).map(|age| match age {
                90.. => "90+".to_owned(),
                _ => format!("{}-{}", age / 10 * 10, age / 10 * 10 + 9),
            }),
        }
    }

    /// The year; birth years that tell an age over 89 all become the one of 90 (45 CFR 164.514(b)(2)(i)(C)).
    fn year(&self, value: &str) -> Option<i32> {
        let year = date(value)?.0;
        Some(if self.class == DataClass::BirthDate { year.max(self.today.0 - 90) } else { year })
    }

    /// Whole years; where month or day are not known, the most they can be.
    fn age(&self, value: &str) -> Option<i32> {
        let (year, month, day) = date(value)?;
        let (this_year, this_month, this_day) = self.today;
        let ahead = (month.unwrap_or(1), day.unwrap_or(1)) > (this_month, this_day);
        let age = this_year - year - i32::from(ahead);
        (age >= 0).then_some(age)
    }
}

/// Shows only the last `n` characters, and none of a value that has no more than that.
fn last(value: &str, n: usize) -> String {
    let length = value.chars().count();
    let hidden = if length > n { length - n } else { length };
    value.chars().enumerate().map(|(i, c)| if i < hidden { '*' } else { c }).collect()
}

/// The date parts of a FHIR date or dateTime: `YYYY`, `YYYY-MM`, `YYYY-MM-DD...`.
fn date(value: &str) -> Option<(i32, Option<u32>, Option<u32>)> {
    let digits = |from: usize, to: usize| {
        let part = value.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u32>().ok())?
    };
    let year = digits(0, 4)? as i32;
    if value.len() > 4 && value.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let month = digits(5, 7);
    Some((year, month, month.and(digits(8, 10))))
}

/// The text type for a masked value: that of the column where it is text already.
fn text_like(raw: &DataType) -> DataType {
    match raw {
        DataType::Utf8 | DataType::LargeUtf8 => raw.clone(),
        _ => DataType::Utf8View,
    }
}

/// The label under which a domain's key for a class is derived: equal values stay equal across products and doors.
pub fn label(domain: &str, class: DataClass) -> String {
    format!("mask/{domain}/{class}")
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    const NOW: Timestamp = Timestamp(1_795_564_800_000); // 2026-11-25

    fn masker(method: MaskMethod) -> Masker {
        Masker::new(method, DataClass::BirthDate, || [7; 32], NOW)
    }

    fn texts(array: &ArrayRef) -> Vec<Option<String>> {
        let text = cast(array, &DataType::Utf8).unwrap();
        text.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect()
    }

    #[test]
    fn every_method_on_text() {
        for (method, value, shown) in [
            (MaskMethod::Null, "x", None),
            (MaskMethod::Constant("hidden".into()), "x", Some("hidden")),
            (MaskMethod::Last(4), "999-12-3456", Some("*******3456")),
            (MaskMethod::Last(4), "3456", Some("****")),
            (MaskMethod::Last(2), "äöü", Some("*öü")),
            (MaskMethod::YearOnly, "1985-03-07", Some("1985")),
            (MaskMethod::YearOnly, "1985", Some("1985")),
            (MaskMethod::YearOnly, "1920-01-01", Some("1936")),
            (MaskMethod::YearOnly, "19850307", None),
            (MaskMethod::YearOnly, "unknown", None),
            (MaskMethod::Zip3, "02139-1234", Some("021")),
            (MaskMethod::Zip3, "03601", Some("000")),
            (MaskMethod::AgeBand, "1985-03-07", Some("40-49")),
            (MaskMethod::AgeBand, "2026-11-26", None),
            (MaskMethod::AgeBand, "1986-11-26", Some("30-39")),
            (MaskMethod::AgeBand, "1936-11-25", Some("90+")),
            (MaskMethod::AgeBand, "1936-11-26", Some("80-89")),
            (MaskMethod::AgeBand, "1936", Some("90+")),
        ] {
            let raw: ArrayRef = Arc::new(StringViewArray::from(vec![Some(value), None]));
            let masked = masker(method.clone()).apply(&raw).unwrap();
            assert_eq!(masked.data_type(), &DataType::Utf8View);
            assert_eq!(texts(&masked)[0].as_deref(), shown, "{method:?} {value}");
        }
    }

    #[test]
    fn keyed_hashes_join_equal_values_and_only_under_one_key() {
        let raw: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(2), None]));
        let one = texts(&masker(MaskMethod::KeyedHash).apply(&raw).unwrap());
        assert_eq!(one[0], one[1]);
        assert_ne!(one[0], one[2]);
        assert_eq!(one[3], None);
        assert_eq!(one[0].as_ref().unwrap().len(), 32);
        let other = Masker::new(MaskMethod::KeyedHash, DataClass::Identifier, || [8; 32], NOW);
        assert_ne!(one[0], texts(&other.apply(&raw).unwrap())[0]);
    }

    #[test]
    fn nested_values_and_dates_are_masked_inside() {
        let days = base::time::days_from_civil(1985, 3, 7) as i32;
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![days]));
        assert_eq!(texts(&masker(MaskMethod::YearOnly).apply(&dates).unwrap()), [Some("1985".into())]);

        let names: ArrayRef = Arc::new(StringArray::from(vec!["SECRETNAME", "OTHER"]));
        let inner = Field::new("zip", DataType::Utf8, false);
        let info: ArrayRef = Arc::new(StructArray::from(vec![(Arc::new(inner), names)]));
        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(123456)]), None]));
        for method in [MaskMethod::Null, MaskMethod::KeyedHash, MaskMethod::Last(1), MaskMethod::Zip3] {
            for raw in [&info, &list] {
                let masker = masker(method.clone());
                let masked = masker.apply(raw).unwrap();
                assert_eq!(
                    masked.data_type(),
                    masker.field(&Field::new("x", raw.data_type().clone(), false)).data_type()
                );
                let shown = format!("{masked:?}");
                assert!(!shown.contains("SECRETNAME") && !shown.contains("123456"), "{method:?}");
            }
        }
    }
}
