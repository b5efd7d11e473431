//! Who is who: devices, modules, and the identity either of them has.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest device id or module name, in characters (all are ASCII, so also in bytes).
pub const ID_LEN_MAX: usize = 128;

/// Characters that Azure allows in ids besides letters and digits.
const ID_SIGNS: &str = "-:.+%_#*?!(),=@;$'";

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidId {
    /// The text is empty.
    #[error("an id cannot be empty")]
    Empty,
    /// The text has more than [`ID_LEN_MAX`] characters.
    #[error("an id has at most {ID_LEN_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// The text has a character that ids cannot have.
    #[error("an id cannot contain {0:?}; allowed are ASCII letters, digits and {ID_SIGNS}")]
    Character(char),
}

fn check(text: &str) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if let Some(sign) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !ID_SIGNS.contains(*c))
    {
        return Err(InvalidId::Character(sign));
    }
    if text.len() > ID_LEN_MAX {
        return Err(InvalidId::TooLong(text.len()));
    }
    Ok(())
}

macro_rules! checked_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

checked_id! {
    /// The name of a device, unique in its hub; case matters.
    ///
    /// Source: Azure IoT Hub, "Understand the identity registry".
    DeviceId
}
checked_id! {
    /// The name of a module, unique on its device; case matters.
    ModuleName
}

/// Whoever can authenticate: a device, or a module on a device.
///
/// The canonical text is `device` or `device/module`; `/` occurs in neither part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId {
    text: Arc<str>,
    device_len: u16,
}

impl IdentityId {
    /// The identity of a device.
    pub fn device(device: &DeviceId) -> Self {
        Self { text: Arc::clone(&device.0), device_len: len_of(device.as_str()) }
    }

    /// The identity of `module` on `device`.
    pub fn module(device: &DeviceId, module: &ModuleName) -> Self {
        Self { text: format!("{device}/{module}").into(), device_len: len_of(device.as_str()) }
    }

    /// `device` or `device/module`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The device part as text.
    pub fn device_str(&self) -> &str {
        self.text.get(..usize::from(self.device_len)).unwrap_or_default()
    }

    /// The module part as text, if this is a module.
    pub fn module_str(&self) -> Option<&str> {
        self.text.get(usize::from(self.device_len) + 1..)
    }

    /// The device itself, or the device the module is on.
    pub fn device_id(&self) -> DeviceId {
        DeviceId(self.device_str().into())
    }

    /// The module's name, if this is a module.
    pub fn module_name(&self) -> Option<ModuleName> {
        self.module_str().map(|text| ModuleName(text.into()))
    }

    /// Whether this is a module.
    pub fn is_module(&self) -> bool {
        self.module_str().is_some()
    }
}

fn len_of(device: &str) -> u16 {
    u16::try_from(device.len()).expect("ids are at most ID_LEN_MAX long")
}

impl FromStr for IdentityId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('/') {
            None => Ok(Self::device(&text.parse()?)),
            Some((device, module)) => Ok(Self::module(&device.parse()?, &module.parse()?)),
        }
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_azures_characters_and_nothing_else() {
        let check = |text: &str, expected: Result<(), InvalidId>| {
            assert_eq!(text.parse::<DeviceId>().map(|_| ()), expected, "{text:?}");
        };
        check("sensor-1", Ok(()));
        check("-:.+%_#*?!(),=@;$'", Ok(()));
        check("$edgeAgent", Ok(()));
        check(&"x".repeat(ID_LEN_MAX), Ok(()));
        check("", Err(InvalidId::Empty));
        check("a/b", Err(InvalidId::Character('/')));
        check("a b", Err(InvalidId::Character(' ')));
        check("a&b", Err(InvalidId::Character('&')));
        check("größe", Err(InvalidId::Character('ö')));
        let long = ID_LEN_MAX + 1;
        check(&"x".repeat(long), Err(InvalidId::TooLong(long)));
    }

    #[test]
    fn an_identity_has_one_canonical_text() {
        let check = |text: &str, device: &str, module: Option<&str>| {
            let id: IdentityId = text.parse().unwrap();
            assert_eq!((id.as_str(), id.device_str(), id.module_str()), (text, device, module));
        };
        check("d1", "d1", None);
        check("d1/$edgeHub", "d1", Some("$edgeHub"));
        assert!("d1/".parse::<IdentityId>().is_err());
        assert!("d1/m/x".parse::<IdentityId>().is_err());
    }
}
