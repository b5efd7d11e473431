//! The service API, call by call.
