//! Error bodies and codes of the service API.
//!
//! `Message` must begin with `ErrorCode:<Name>;` and the header `iothub-errorcode` must equal
//! that name, or .NET shows `InvalidErrorCode`. Errors of direct methods carry JSON inside
//! `Message` instead, as the original does.

use model::refusal::{Refusal, RefusalKind};
use serde::{Deserialize, Serialize};

use crate::configuration::ContentFault;

/// The header that repeats the code's name.
pub const ERROR_CODE_HEADER: &str = "iothub-errorcode";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A code of the service API; its number is status × 1000 + n.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Azure's number.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// Azure's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    /// The version of the service API is missing or has no form.
    InvalidProtocolVersion = 400_001,
    /// The request makes no sense here.
    InvalidOperation = 400_003,
    /// A field or parameter is wrong.
    ArgumentInvalid = 400_004,
    /// A field or parameter is missing.
    ArgumentNull = 400_005,
    /// The body is not what it should be.
    IotHubFormatError = 400_006,
    /// The content of a configuration has faults; `details` lists them.
    InvalidConfigurationContent = 400_111,
    /// A newer session of the same identity took over.
    ConnectionForcefullyClosedOnNewConnection = 400_027,
    /// The credentials are wrong or lack, or they hold and do not allow this.
    IotHubUnauthorizedAccess = 401_002,
    /// A quota is used up.
    IotHubQuotaExceeded = 403_002,
    /// A browser's session lacks the right; 401 would sign the browser out.
    Forbidden = 403_001,
    /// A call with a session's cookie did not come from the console's own page.
    CsrfRejected = 403_900,
    /// No such device.
    DeviceNotFound = 404_001,
    /// No such module.
    ModuleNotFound = 404_010,
    /// No such thing.
    NotFound = 404_000,
    /// The device is not connected or listens to no methods.
    DeviceNotOnline = 404_103,
    /// The path knows no such verb.
    MethodNotAllowed = 405_000,
    /// The device exists.
    DeviceAlreadyExists = 409_001,
    /// The module exists.
    ModuleAlreadyExistsOnDevice = 409_301,
    /// The etag is not the present one.
    PreconditionFailed = 412_001,
    /// The body is too large.
    MessageTooLarge = 413_001,
    /// The device has all the modules it may have.
    TooManyModulesOnDevice = 413_003,
    /// Slow down.
    ThrottlingException = 429_001,
    /// This hub does not offer that; the words say what, and what it offers instead.
    FeatureNotSupported = 501_001,
    /// Our fault.
    ServerError = 500_001,
    /// Try again.
    ServiceUnavailable = 503_001,
    /// No such partition.
    PartitionNotFound = 503_003,
    /// Somebody did not answer in time.
    GatewayTimeout = 504_101,
}

impl ErrorCode {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        u16::try_from(self.number() / 1000).unwrap_or(500)
    }

    /// The code for a refusal that crossed the waist: that of [`RefusalKind::code`].
    pub fn of(kind: RefusalKind) -> Self {
        let number = kind.code().number;
        Self::ALL.iter().copied().find(|code| code.number() == number).unwrap_or(Self::ServerError)
    }
}

/// An error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `ErrorCode:<Name>;<words>`, or JSON text for methods.
    #[serde(rename = "Message")]
    pub message: String,
    /// The tracking id.
    #[serde(rename = "ExceptionMessage")]
    pub exception_message: String,
    /// Every fault, where one answer tells several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ContentFault>,
}

/// An error on its way out: code, words, details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The code.
    pub code: ErrorCode,
    /// One sentence for the caller.
    pub reason: String,
    /// Whether the body has the shape that method errors have.
    pub of_method: bool,
    /// Every fault, where one answer tells several.
    pub details: Vec<ContentFault>,
}

impl ApiError {
    /// An error of `code` because of `reason`.
    pub fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), of_method: false, details: Vec::new() }
    }

    /// The body; `tracking` is a fresh id, `at` the time as RFC 3339.
    pub fn body(&self, tracking: &str, at: &str) -> ErrorBody {
        let message = if self.of_method {
            serde_json::json!({
                "errorCode": self.code.number(),
                "trackingId": tracking,
                "message": self.reason,
                "info": {},
                "timestampUtc": at,
            })
            .to_string()
        } else {
            format!("ErrorCode:{};{}", self.code.name(), self.reason)
        };
        let exception_message = if self.of_method {
            String::new()
        } else {
            format!("Tracking ID:{tracking}-G:0-TimeStamp:{at}")
        };
        ErrorBody { message, exception_message, details: self.details.clone() }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorCode::of(refusal.kind), refusal.reason.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_says_what_the_one_table_of_refusals_says() {
        for kind in RefusalKind::ALL {
            let (said, code) = (ErrorCode::of(kind), kind.code());
            assert_eq!((said.number(), said.name()), (code.number, code.name), "{kind:?}");
            assert_eq!(said.status(), code.status(), "{kind:?}");
        }
    }

    #[test]
    fn every_code_has_an_error_status() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
        }
        assert_eq!(ErrorCode::DeviceNotOnline.status(), 404);
        assert_eq!(ErrorCode::GatewayTimeout.status(), 504);
    }

    #[test]
    fn the_message_begins_with_the_code_except_for_methods() {
        let mut error = ApiError::new(ErrorCode::DeviceNotFound, "no device d1");
        let body = error.body("t1", "2026-11-23T00:00:00Z");
        assert_eq!(body.message, "ErrorCode:DeviceNotFound;no device d1");
        error.of_method = true;
        error.code = ErrorCode::DeviceNotOnline;
        let inner: serde_json::Value =
            serde_json::from_str(&error.body("t1", "now").message).unwrap();
        assert_eq!(inner["errorCode"], 404_103);
    }
}
