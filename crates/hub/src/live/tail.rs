//! Rows of telemetry for one topic, gathered into updates. Pure.

pub(crate) mod shell;

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use model::time::Tick;

use super::queue::{Piece, SPACING};

/// Most rows in one update.
pub(crate) const ROWS_MAX: usize = 500;
/// Most bytes of rows in one update.
pub(crate) const ROWS_BYTES_MAX: usize = 128 * 1024;

/// Rows that wait for the next update of one topic.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
    skipped: u64,
    last: Option<Tick>,
}

impl Rows {
    /// A message matched; `row` is its JSON.
    pub(crate) fn handle_row(&mut self, row: Bytes) {
        self.bytes += row.len();
        self.waiting.push_back(row);
        while self.waiting.len() > ROWS_MAX || self.bytes > ROWS_BYTES_MAX {
            let Some(oldest) = self.waiting.pop_front() else { break };
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    /// `records` of the log were passed over unread.
    pub(crate) fn handle_skipped(&mut self, records: u64) {
        self.skipped += records;
    }

    /// When there is something to send, and not before.
    pub(crate) fn due(&self) -> Option<Tick> {
        let waits = !self.waiting.is_empty() || self.dropped > 0 || self.skipped > 0;
        waits.then(|| self.last.map_or(Tick(0), |last| last.after(SPACING)))
    }

    /// The update, if one is due.
    pub(crate) fn poll(&mut self, now: Tick) -> Option<Piece> {
        if self.due()? > now {
            return None;
        }
        let mut out = BytesMut::with_capacity(self.bytes + self.waiting.len() + 48);
        out.put_slice(b"{\"rows\":[");
        for (at, row) in self.waiting.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_slice(row);
        }
        out.put_slice(format!("],\"skipped\":{}}}", self.skipped).as_bytes());
        let piece = Piece {
            payload: out.freeze(),
            weight: self.waiting.len() as u64,
            dropped: self.dropped,
        };
        *self = Self { last: Some(now), ..Self::default() };
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rows_are_gathered_for_a_quarter_of_a_second() {
        let mut rows = Rows::default();
        assert_eq!(rows.poll(Tick(0)), None);
        rows.handle_row(Bytes::from_static(b"1"));
        rows.handle_row(Bytes::from_static(b"2"));
        let piece = rows.poll(Tick(5)).unwrap();
        assert_eq!(&piece.payload[..], b"{\"rows\":[1,2],\"skipped\":0}");
        assert_eq!((piece.weight, piece.dropped), (2, 0));
        rows.handle_row(Bytes::from_static(b"3"));
        assert_eq!(rows.poll(Tick(6)), None);
        let later = Tick(5).after(Duration::from_millis(250));
        assert_eq!(rows.due(), Some(later));
        assert_eq!(rows.poll(later).unwrap().weight, 1);
    }

    #[test]
    fn too_many_rows_lose_the_oldest_and_say_how_many() {
        let mut rows = Rows::default();
        (0..ROWS_MAX + 7).for_each(|_| rows.handle_row(Bytes::from_static(b"1")));
        rows.handle_skipped(3);
        let piece = rows.poll(Tick(0)).unwrap();
        assert_eq!((piece.weight, piece.dropped), (500, 7));
        assert!(piece.payload.ends_with(b"],\"skipped\":3}"));
        rows.handle_row(Bytes::from(vec![b'1'; ROWS_BYTES_MAX]));
        rows.handle_row(Bytes::from_static(b"2"));
        let piece = rows.poll(Tick::NEVER).unwrap();
        assert_eq!((piece.weight, piece.dropped), (1, 1));
    }
}
