//! The language of the house: names, values and pure rules that every other room shares.
//!
//! What it is: identities, messages, twins, manifests, routes, and the *waist* — the one
//! trait through which every protocol speaks to every implementer of the rules.
//! What it is not: it does no I/O, reads no clock, draws no randomness and knows no runtime.
//! Start reading at [`waist`].

pub mod commit;
pub mod planted;
pub mod time;
pub mod world;

pub mod id;
pub mod model_id;
pub mod names;
pub mod secret;

pub mod message;
pub mod method;
pub mod twin;

pub mod image;
pub mod json;
pub mod manifest;
pub mod query;
pub mod route;
pub mod router_plan;

pub mod feature;
pub mod log_limit;
pub mod refusal;
pub mod waist;
