//! Bodies that an SDK fills from its caller's object, read as Azure reads them.
//!
//! Names of fields and values of enums match in any letter case, for SDKs and people differ in
//! it and a name left aside for its case would mean something else than its author thinks.
//! Fields that the shape does not know are left aside, and told to whoever reads: clients are
//! newer than us, or send more than any service wants. A value that a known field cannot have
//! is refused, and so is a field that is there twice.
//!
//! Shapes that only our own clients fill are strict instead (`deny_unknown_fields`): there, a
//! stranger is a mistake of ours.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// Most unknown fields of one body that are told by name; further ones are left aside unnamed.
pub const IGNORED_FIELDS_MAX: usize = 32;

/// A body as far as its shape goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// What was read.
    pub value: T,
    /// Fields that were left aside, as `outer.inner`, at most [`IGNORED_FIELDS_MAX`].
    pub ignored: Vec<String>,
}

/// Reads `body` as a `T`.
///
/// # Errors
/// That the body is no JSON, names a field twice, lacks one, or gives one a value that it
/// cannot have; the words name the field.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<Taken<T>, Error> {
    let root = model::json::parse(body)?;
    let ignored = RefCell::default();
    let value = T::deserialize(Reader { value: root, place: String::new(), ignored: &ignored })?;
    Ok(Taken { value, ignored: ignored.into_inner() })
}

/// The one of `known` that `name` means.
fn spelled(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let exact = known.iter().find(|known| **known == name);
    exact.or_else(|| known.iter().find(|known| known.eq_ignore_ascii_case(name))).copied()
}

fn kind(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

/// A value, and where it stands in the body.
struct Reader<'a> {
    value: Value,
    place: String,
    ignored: &'a RefCell<Vec<String>>,
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(items) => visitor.visit_seq(Items {
                rest: items.into_iter(),
                place: self.place,
                ignored: self.ignored,
            }),
            other => other.deserialize_seq(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(fields) => visitor.visit_map(Fields {
                rest: fields.into_iter(),
                known,
                seen: Vec::new(),
                next: None,
                place: self.place,
                ignored: self.ignored,
            }),
            // A list would otherwise fill the fields by their order.
            other => Err(Error::invalid_type(kind(&other), &"an object")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let meant = self.value.as_str().and_then(|text| spelled(text, variants));
        match meant {
            Some(variant) => {
                let variant: StrDeserializer<'_, Error> = variant.into_deserializer();
                visitor.visit_enum(variant)
            }
            None => self.value.deserialize_enum(name, variants, visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    rest: std::vec::IntoIter<Value>,
    place: String,
    ignored: &'a RefCell<Vec<String>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        let place = format!("{}[]", self.place);
        seed.deserialize(Reader { value, place, ignored: self.ignored }).map(Some)
    }
}

struct Fields<'a> {
    rest: serde_json::map::IntoIter,
    known: &'static [&'static str],
    seen: Vec<&'static str>,
    next: Option<(&'static str, Value)>,
    place: String,
    ignored: &'a RefCell<Vec<String>>,
}

impl Fields<'_> {
    fn place_of(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    fn leave_aside(&self, name: &str) {
        let mut ignored = self.ignored.borrow_mut();
        if ignored.len() < IGNORED_FIELDS_MAX {
            ignored.push(self.place_of(name));
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        while let Some((name, value)) = self.rest.next() {
            let Some(known) = spelled(&name, self.known) else {
                self.leave_aside(&name);
                continue;
            };
            if self.seen.contains(&known) {
                let place = self.place_of(known);
                return Err(Error::custom(format!("`{place}` is there twice")));
            }
            self.seen.push(known);
            self.next = Some((known, value));
            let name: StrDeserializer<'_, Error> = known.into_deserializer();
            return seed.deserialize(name).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (name, value) =
            self.next.take().ok_or_else(|| Error::custom("a value without a name"))?;
        let place = self.place_of(name);
        let reader = Reader { value, place, ignored: self.ignored };
        // Each level puts its name in front: `authentication: type: unknown variant …`.
        seed.deserialize(reader).map_err(|error| Error::custom(format!("{name}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::InvokeMethod;
    use crate::registry::{AuthenticationKind, Device, Status};

    #[test]
    fn names_and_values_match_in_any_case_and_strangers_are_named() {
        let body = br#"{"DEVICEID":"d","status":"Disabled","connectionString":"x",
            "authentication":{"Type":"SELFSIGNED","a":{"b":1},
                "x509thumbprint":{"primaryThumbprint":"p","c":null}}}"#;
        let taken = read::<Device>(body).unwrap();
        assert_eq!(taken.value.device_id.as_deref(), Some("d"));
        assert_eq!(taken.value.status, Some(Status::Disabled));
        let authentication = taken.value.authentication.unwrap();
        assert_eq!(authentication.kind, Some(AuthenticationKind::SelfSigned));
        let thumbprint = authentication.x509_thumbprint.unwrap().primary_thumbprint;
        assert_eq!(thumbprint.as_deref(), Some("p"));
        let strangers = ["connectionString", "authentication.a", "authentication.x509Thumbprint.c"];
        assert_eq!(taken.ignored, strangers);
    }

    #[test]
    fn a_list_is_read_item_by_item_with_the_same_patience() {
        let taken =
            read::<Vec<Device>>(br#"[{"status":"ENABLED","x":1},{"status":null}]"#).unwrap();
        assert_eq!(taken.value.first().unwrap().status, Some(Status::Enabled));
        assert_eq!(taken.value.get(1).unwrap().status, None);
        assert_eq!(taken.ignored, ["[].x"]);
    }

    #[test]
    fn what_means_nothing_or_two_things_is_refused_by_name() {
        let check = |body: &str, expected: &str| {
            let words = read::<Device>(body.as_bytes()).unwrap_err().to_string();
            assert!(words.starts_with(expected), "{body}: {words}");
        };
        check(r#"{"status":"off"}"#, "status: unknown variant `off`");
        check(r#"{"status":1}"#, "status: invalid type");
        check(r#"{"authentication":{"type":"key"}}"#, "authentication: type: unknown variant");
        check(r#"{"status":"enabled","Status":"disabled"}"#, "`status` is there twice");
        check(r#"{"status":"enabled","status":"disabled"}"#, "the name \"status\" stands twice");
        check(r#"{"capabilities":{"iotEdge":"yes"}}"#, "capabilities: iotEdge: invalid type");
        check("[]", "invalid type: sequence, expected an object");
        check(r#"{"authentication":[]}"#, "authentication: invalid type: sequence");
        check("{", "EOF");
    }

    #[test]
    fn a_payload_stays_as_it_was_sent() {
        let body = br#"{"methodName":"m","Payload":{"Status":1,"status":2},"timeoutInSeconds":3}"#;
        let taken = read::<InvokeMethod>(body).unwrap();
        assert_eq!(taken.value.payload, serde_json::json!({"Status": 1, "status": 2}));
        assert_eq!(taken.ignored, ["timeoutInSeconds"]);
    }

    #[test]
    fn a_body_full_of_strangers_is_told_up_to_a_bound() {
        let names: Vec<String> = (0..100).map(|n| format!("\"x{n}\":0")).collect();
        let taken = read::<Device>(format!("{{{}}}", names.join(",")).as_bytes()).unwrap();
        assert_eq!(taken.ignored.len(), IGNORED_FIELDS_MAX);
    }
}
