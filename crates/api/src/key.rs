//! A key inside a JSON shape.

use std::fmt;

use model::secret::Secret;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A base64 key that is a plain string on the wire and a [`Secret`] everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(pub Secret);

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_str().unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key as a base64 string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                Ok(Key(Secret::from(text)))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Key, E> {
                Ok(Key(Secret::from(text)))
            }
        }
        deserializer.deserialize_string(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_as_text_and_prints_as_nothing() {
        let key: Key = serde_json::from_str("\"c2VjcmV0\"").unwrap();
        assert_eq!(serde_json::to_string(&key).unwrap(), "\"c2VjcmV0\"");
        assert!(!format!("{key:?}").contains("c2Vj"));
    }
}
