//! MQTT 3.1.1: codec, server side, client side. Source: OASIS MQTT 3.1.1; what Azure adds or
//! leaves out stands beside the code that cares.

pub mod client;
pub mod packet;
pub mod server;
