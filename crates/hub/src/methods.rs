//! Direct methods: a question to an identity, and its answer or the reason why there is none.
//!
//! A call never touches a connection: it is put into the session of whoever is connected and
//! finds its way back by its number, which is unique in this run of the hub, so that the answer
//! may come over a newer session than the question went.

pub(crate) mod http;
pub(crate) mod shell;
