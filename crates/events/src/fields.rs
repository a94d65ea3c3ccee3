//! JSON objects that leave out the fields without a value.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

/// The value of a field.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// An object of `N` fields, in this order.
#[derive(Debug)]
pub struct Fields<'a, const N: usize>(pub [(&'static str, Option<Value<'a>>); N]);

impl<const N: usize> Serialize for Fields<'_, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.iter();
        serializer.collect_map(fields.filter_map(|(name, value)| Some((name, value.as_ref()?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_a_value_are_left_out() {
        let fields = Fields([
            ("b", Some("text".into())),
            ("absent", None),
            ("a", Some(7.into())),
        ]);
        let written = serde_json::to_string(&fields).expect("JSON");
        assert_eq!(written, r#"{"b":"text","a":7}"#);
    }
}
