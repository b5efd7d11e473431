//! Tests of the whole crate over a disk that loses power.

use bytes::Bytes;

mod damage;
mod faults;
mod fuzz;
mod limits;
mod lives;
mod mutations;
mod oracle;
mod planted;
mod power_cut;
mod queue_model;

/// Seeded chance for workloads.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Bytes that no other record has.
fn payload(serial: u64, length: usize) -> Bytes {
    let mut bytes = serial.to_le_bytes().repeat(length / 8 + 1);
    bytes.truncate(length.max(8));
    bytes.into()
}
