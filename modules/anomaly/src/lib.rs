//! Windows and robust outlier scores over the numbers of readings.
//!
//! What it is: a pure machine that takes readings in and gives windows and anomalies out.
//! What it is not: it knows no connection, no clock and no twin; `main` brings those.
//! Start reading at [`detector`].

pub mod reading;

pub mod window;

pub mod history;

pub mod settings;

pub mod detector;
