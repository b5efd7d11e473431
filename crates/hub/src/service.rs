//! The service API: one door for all HTTP, from path to handler.

pub(crate) mod http;
mod ignored;
mod offers;
