//! A simulated device: it speaks MQTT in bytes and sends numbers until each is acknowledged.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use net::network::{Address, ByteStream, Network};
use testkit::chance::Chance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::mqtt::packet::{self, Connect, Frame, Packet, PacketId, Publish, Qos};

use crate::owed::Owed;
use crate::pipes::HostNetwork;
use crate::properties;
use crate::reports::Reports;
use crate::sentence::Sentence;

/// Longest pause before a device connects again.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A device gives a silent connection up after this.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Numbers in flight on one connection.
pub const IN_FLIGHT: u64 = 64;

/// What a sender knows, outside of any connection and any process.
#[derive(Debug, Default)]
pub struct Record {
    /// The numbers from 1 to here were acknowledged, in order.
    pub acknowledged: u64,
    /// The numbers from 1 to here were sent.
    pub sent: u64,
    /// What may have come again.
    pub owed: Owed,
    /// What was reported, if it reports.
    pub reports: Reports,
    /// Connections that were tried.
    pub lives: u64,
    /// Something that must not happen.
    pub wrong: Wrong,
}

/// A sentence that somebody saw broken, and how.
pub type Wrong = Option<(Sentence, String)>;

impl Record {
    /// The connection or the process is dead: what was on its way is sent again.
    pub fn handle_death(&mut self) {
        let (first, last) = (self.acknowledged + 1, self.sent);
        self.owed.add(first..=last);
    }
}

/// A record and those who write it.
pub type Shared = Arc<Mutex<Record>>;

/// The record, for a few lines.
pub fn lock<T>(record: &Mutex<T>) -> MutexGuard<'_, T> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that sends the numbers from 1 to `count`, in order.
#[derive(Debug)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its password: a shared access signature.
    pub password: String,
    /// The last number.
    pub count: u64,
    /// Longest pause between two bursts.
    pub pace: Duration,
    /// What it knows.
    pub record: Shared,
}

impl Device {
    /// Sends until every number is acknowledged, over as many connections as it takes.
    pub async fn run(self, network: HostNetwork, hub: Address, chance: Chance) {
        while self.acknowledged() < self.count {
            // A connection ends in all the ways that the simulation can think of.
            self.talk(&network, &hub, &chance).await.ok();
            tokio::time::sleep(chance.span(PAUSE_MAX)).await;
        }
    }

    fn acknowledged(&self) -> u64 {
        lock(&self.record).acknowledged
    }

    async fn talk(&self, network: &HostNetwork, hub: &Address, chance: &Chance) -> io::Result<()> {
        let life = {
            let mut record = lock(&self.record);
            record.lives += 1;
            record.lives
        };
        let mut stream = network.dial(hub).await?.stream;
        let user = format!("hub.test/{}/?api-version=2021-04-12", self.id);
        let mut output = BytesMut::new();
        let connect = Packet::Connect(Connect {
            client_id: &self.id,
            clean: false,
            keep_alive: 60,
            will: None,
            user_name: Some(&user),
            password: Some(self.password.as_bytes()),
        });
        packet::encode(&connect, &mut output);
        stream.write_all_buf(&mut output).await?;
        let (input, sent) = (BytesMut::new(), VecDeque::new());
        let mut talk = Talk { device: self, stream, input, sent, id: 0, life, open: false };
        while !talk.open {
            talk.read().await?;
        }
        let ended = talk.run(chance).await;
        // What this connection leaves unanswered is sent over the next one.
        lock(&self.record).owed.add(talk.sent.iter().map(|(_, number)| *number));
        ended
    }
}

struct Talk<'a> {
    device: &'a Device,
    stream: Box<dyn ByteStream>,
    input: BytesMut,
    sent: VecDeque<(PacketId, u64)>,
    id: u16,
    life: u64,
    open: bool,
}

impl Talk<'_> {
    async fn run(&mut self, chance: &Chance) -> io::Result<()> {
        while self.device.acknowledged() < self.device.count {
            self.publish(1 + chance.below(IN_FLIGHT)).await?;
            while !self.sent.is_empty() {
                self.read().await?;
            }
            tokio::time::sleep(chance.span(self.device.pace)).await;
        }
        let mut output = BytesMut::new();
        packet::encode(&Packet::Disconnect, &mut output);
        self.stream.write_all_buf(&mut output).await
    }

    async fn publish(&mut self, burst: u64) -> io::Result<()> {
        let mut output = BytesMut::new();
        let first = self.device.acknowledged() + 1;
        for number in first..(first + burst).min(self.device.count + 1) {
            self.id = self.id.checked_add(1).unwrap_or(1);
            let Some(id) = PacketId::new(self.id) else { continue };
            let body = number.to_string();
            let topic = format!(
                "devices/{}/messages/events/life={}&{}",
                self.device.id,
                self.life,
                properties::in_topic(number)
            );
            let publish = Publish {
                topic: &topic,
                body: body.as_bytes(),
                qos: Qos::AtLeastOnce,
                id: Some(id),
                dup: false,
                retain: false,
            };
            packet::encode(&Packet::Publish(publish), &mut output);
            self.sent.push_back((id, number));
        }
        self.stream.write_all_buf(&mut output).await
    }

    async fn read(&mut self) -> io::Result<()> {
        let read = tokio::time::timeout(SILENCE_MAX, self.stream.read_buf(&mut self.input));
        if read.await.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let wrong = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
            let len = match packet::decode(&self.input).map_err(io::Error::other)? {
                Frame::Partial { .. } => return Ok(()),
                Frame::Whole { packet, len } => {
                    let mut record = lock(&self.device.record);
                    match packet {
                        Packet::ConnAck { code: 0, .. } => self.open = true,
                        Packet::PubAck(id) => match self.sent.pop_front() {
                            Some((expected, number)) if expected == id => {
                                record.acknowledged = number;
                            }
                            other => {
                                let words = format!("PUBACK {id:?}, next expected {other:?}");
                                record.wrong = Some((Sentence::Answered, words));
                            }
                        },
                        _ => return Err(wrong("not what a sender expects")),
                    }
                    len
                }
            };
            self.input.advance(len);
        }
    }
}
