//! Text of topics, property bags and user names ⇄ requests and events of the waist.

pub mod user;
