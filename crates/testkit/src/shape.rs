//! The shape of a JSON message as text, taken from its type: for golden files.
//!
//! [`shape`] reads a value of the type out of nothing: every field is there, every option is
//! set, every list has one item. Its JSON and the variants of its enums change whenever the
//! type's wire form does, so a golden file of it notices fields that are added, renamed, removed
//! or of another type.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde::de::value::Error;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected,
    IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Deepest nesting of a sample; deeper options are left out and lists are empty.
const DEPTH_MAX: usize = 12;
/// What every text says.
const TEXT: &str = "text";
/// What texts say that must be special, by what their type says it expects.
const SPECIAL: &[(&str, &str)] = &[
    ("IPv4 socket address", "10.0.0.1:1"),
    ("IPv6 socket address", "[::1]:1"),
    ("socket address", "10.0.0.1:1"),
    ("IPv4 address", "10.0.0.1"),
    ("IPv6 address", "::1"),
    ("IP address", "10.0.0.1"),
];

/// The JSON of a sample of `T`, then a line per enum with its variants.
///
/// # Panics
/// If no sample can be read, for instance because a text of `T` must be special.
pub fn shape<T: DeserializeOwned + Serialize>() -> String {
    shape_with::<T>(&[])
}

/// As [`shape`], for types that hold others flattened, which hides their fields: `flat` gives
/// the JSON of each such type by its name.
///
/// # Panics
/// As [`shape`].
pub fn shape_with<T: DeserializeOwned + Serialize>(flat: Flat) -> String {
    let seen = RefCell::default();
    let mut text = sample::<T>(&seen, 0, flat);
    write_enums(&mut text, seen);
    text
}

/// As [`shape`], of every variant of the enum `T`.
///
/// # Panics
/// As [`shape`].
pub fn variants<T: DeserializeOwned + Serialize>() -> String {
    let seen = Enums::default();
    let mut text = sample::<T>(&seen, 0, &[]);
    let name = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    let count = seen.borrow().get(name).map_or(0, |variants| variants.len());
    for pick in 1..count {
        text.push_str(&sample::<T>(&seen, pick, &[]));
    }
    write_enums(&mut text, seen);
    text
}

fn sample<T: DeserializeOwned + Serialize>(enums: &Enums, pick: usize, flat: Flat) -> String {
    let sampler = Sampler { enums, depth: 0, pick, flat };
    let sample = T::deserialize(sampler).unwrap_or_else(|error| {
        unreachable!("no sample of {}: {error}", std::any::type_name::<T>())
    });
    serde_json::to_string_pretty(&sample).expect("samples are JSON") + "\n"
}

fn write_enums(text: &mut String, seen: Enums) {
    for (name, variants) in seen.into_inner() {
        writeln!(text, "{name}: {}", variants.join(" | ")).expect("text takes text");
    }
}

type Enums = RefCell<BTreeMap<&'static str, &'static [&'static str]>>;

#[derive(Clone, Copy)]
struct Sampler<'e> {
    enums: &'e Enums,
    depth: usize,
    /// Which variant an enum at the top has; those below have their first.
    pick: usize,
    flat: Flat,
}

/// JSON of types that hold others flattened, by name.
pub type Flat = &'static [(&'static str, &'static str)];

impl<'e> Sampler<'e> {
    fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn items(self, left: usize) -> Items<'e> {
        Items { sampler: self.below(), left }
    }
}

macro_rules! plain {
    ($($method:ident => $visit:ident($($value:expr)?);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($($value)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Sampler<'_> {
    type Error = Error;

    plain! {
        deserialize_any => visit_str(TEXT);
        deserialize_bool => visit_bool(true);
        deserialize_i8 => visit_i8(-1);
        deserialize_i16 => visit_i16(-1);
        deserialize_i32 => visit_i32(-1);
        deserialize_i64 => visit_i64(-1);
        deserialize_u8 => visit_u8(1);
        deserialize_u16 => visit_u16(1);
        deserialize_u32 => visit_u32(1);
        deserialize_u64 => visit_u64(1);
        deserialize_f32 => visit_f32(0.5);
        deserialize_f64 => visit_f64(0.5);
        deserialize_char => visit_char('c');
        deserialize_bytes => visit_bytes(TEXT.as_bytes());
        deserialize_byte_buf => visit_bytes(TEXT.as_bytes());
        deserialize_unit => visit_unit();
        deserialize_identifier => visit_str(TEXT);
        deserialize_ignored_any => visit_unit();
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected = (&visitor as &dyn Expected).to_string();
        let known = SPECIAL.iter().find(|(words, _)| expected.contains(words));
        visitor.visit_str(known.map_or(TEXT, |(_, text)| text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.depth > DEPTH_MAX { visitor.visit_none() } else { visitor.visit_some(self.below()) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self.below())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self.items(usize::from(self.depth <= DEPTH_MAX)))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, n: usize, v: V) -> Result<V::Value, Error> {
        v.visit_seq(self.items(n))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(self.items(len))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected = (&visitor as &dyn Expected).to_string();
        let name = expected.strip_prefix("struct ").unwrap_or_default();
        match self.flat.iter().find(|(flat, _)| *flat == name) {
            Some((_, json)) => {
                let mut text = serde_json::Deserializer::from_str(json);
                text.deserialize_map(visitor).map_err(Error::custom)
            }
            None => visitor.visit_map(Fields { sampler: self.below(), left: &[TEXT] }),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { sampler: self.below(), left: fields })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.enums.borrow_mut().insert(name, variants);
        let pick = if self.depth == 0 { self.pick } else { 0 };
        let name = variants.get(pick).ok_or_else(|| Error::custom("an enum without variants"))?;
        visitor.visit_enum(Variant { sampler: self.below(), name })
    }
}

struct Items<'e> {
    sampler: Sampler<'e>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(self.sampler).map(Some)
    }
}

struct Fields<'e> {
    sampler: Sampler<'e>,
    left: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((first, rest)) = self.left.split_first() else { return Ok(None) };
        self.left = rest;
        let key: StrDeserializer<'_, Error> = first.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.sampler)
    }
}

struct Variant<'e> {
    sampler: Sampler<'e>,
    name: &'static str,
}

impl<'de, 'e> EnumAccess<'de> for Variant<'e> {
    type Error = Error;
    type Variant = Sampler<'e>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.sampler))
    }
}

impl<'de> VariantAccess<'de> for Sampler<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_struct("", fields, visitor)
    }
}

/// Compares what a type says of itself with its golden file. With the variable
/// `SELVEDGE_GOLDEN=write` in the environment it writes the file instead, and still fails, so
/// that nobody leaves it set.
///
/// # Panics
/// If they differ, naming the file and what to do.
pub fn check_golden(file: &std::path::Path, shape: &str) {
    let held = std::fs::read_to_string(file).unwrap_or_default();
    if held == shape {
        return;
    }
    let write = std::env::var_os("SELVEDGE_GOLDEN").is_some_and(|value| value == "write");
    if write {
        std::fs::write(file, shape).expect("the golden file can be written");
    }
    unreachable!(
        "{} differs: this shape is frozen. A new shape needs a new version of its contract, or, \
         where the contract allows additions, the file written anew by SELVEDGE_GOLDEN=write.\n\
         it says:\n{held}\nthe type says:\n{shape}",
        file.display()
    );
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Outer {
        count: u32,
        inner_list: Vec<Inner>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maybe: Option<bool>,
        map: BTreeMap<String, f64>,
    }

    #[derive(Deserialize, Serialize)]
    enum Inner {
        #[serde(rename = "one")]
        One {
            name: String,
        },
        Two,
    }

    #[test]
    fn a_shape_has_every_field_and_every_variant() {
        let expected = "{\n  \"count\": 1,\n  \"innerList\": [\n    {\n      \"one\": {\n        \
                        \"name\": \"text\"\n      }\n    }\n  ],\n  \"maybe\": true,\n  \
                        \"map\": {\n    \"text\": 0.5\n  }\n}\nInner: one | Two\n";
        assert_eq!(shape::<Outer>(), expected);
    }
}
