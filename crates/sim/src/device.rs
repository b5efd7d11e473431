//! A simulated device: it speaks MQTT in bytes and sends numbers until each is acknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use model::world::World;
use net::network::{Address, ByteStream, Network};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::mqtt::packet::{self, Connect, Frame, Packet, PacketId, Publish, Qos};

use crate::pipes::Pipes;
use testkit::chance::Chance;

/// Longest pause before a device connects again.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A device gives a silent connection up after this.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Numbers in flight on one connection.
pub const IN_FLIGHT: usize = 8;

/// What a device knows, outside of any connection.
#[derive(Debug, Default)]
pub struct Record {
    /// Numbers whose PUBACK arrived.
    pub acknowledged: BTreeSet<u64>,
    /// Connections that got a CONNACK.
    pub connections: u64,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A device that sends the numbers from 1 to `count`, in order.
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its password: a shared access signature.
    pub password: String,
    /// The last number.
    pub count: u64,
    /// What it knows.
    pub record: Arc<Mutex<Record>>,
}

impl Device {
    /// Sends until every number is acknowledged, over as many connections as it takes.
    pub async fn run(self, world: World, network: Pipes, hub: Address, chance: Chance) {
        while self.acknowledged() < self.count {
            // A connection ends in all the ways that the simulation can think of.
            let talk = self.talk(&network, &hub, &chance);
            talk.await.ok();
            tokio::time::sleep(chance.span(PAUSE_MAX)).await;
        }
        drop(world);
    }

    fn acknowledged(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        u64::try_from(record.acknowledged.len()).unwrap_or(u64::MAX)
    }

    async fn talk(&self, network: &Pipes, hub: &Address, chance: &Chance) -> io::Result<()> {
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
        let mut talk = Talk {
            device: self,
            stream,
            input: BytesMut::new(),
            sent: VecDeque::new(),
            next: self.first(),
            id: 0,
            open: false,
        };
        talk.run(chance).await
    }

    /// The first number that is not known to have arrived; from there on all are sent again.
    fn first(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        (1..=self.count).find(|number| !record.acknowledged.contains(number)).unwrap_or(1)
    }
}

struct Talk<'a> {
    device: &'a Device,
    stream: Box<dyn ByteStream>,
    input: BytesMut,
    sent: VecDeque<(PacketId, u64)>,
    next: u64,
    id: u16,
    open: bool,
}

impl Talk<'_> {
    async fn run(&mut self, chance: &Chance) -> io::Result<()> {
        while self.device.acknowledged() < self.device.count {
            if self.open {
                self.publish(chance).await?;
            }
            let read = tokio::time::timeout(SILENCE_MAX, self.stream.read_buf(&mut self.input));
            if read.await.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read()?;
        }
        let mut output = BytesMut::new();
        packet::encode(&Packet::Disconnect, &mut output);
        self.stream.write_all_buf(&mut output).await
    }

    async fn publish(&mut self, chance: &Chance) -> io::Result<()> {
        let mut output = BytesMut::new();
        let topic = format!("devices/{}/messages/events/", self.device.id);
        while self.sent.len() < IN_FLIGHT && self.next <= self.device.count {
            self.id = self.id.checked_add(1).unwrap_or(1);
            let Some(id) = PacketId::new(self.id) else { continue };
            let body = self.next.to_string();
            let publish = Publish {
                topic: &topic,
                body: body.as_bytes(),
                qos: Qos::AtLeastOnce,
                id: Some(id),
                dup: false,
                retain: false,
            };
            packet::encode(&Packet::Publish(publish), &mut output);
            self.sent.push_back((id, self.next));
            self.next += 1;
            // Sometimes one at a time, sometimes a burst.
            if chance.below(4) == 0 {
                break;
            }
        }
        self.stream.write_all_buf(&mut output).await
    }

    fn read(&mut self) -> io::Result<()> {
        loop {
            let wrong = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
            let len = match packet::decode(&self.input).map_err(io::Error::other)? {
                Frame::Partial { .. } => return Ok(()),
                Frame::Whole { packet, len } => {
                    match packet {
                        Packet::ConnAck { code: 0, .. } => {
                            self.open = true;
                            let mut record =
                                self.device.record.lock().unwrap_or_else(PoisonError::into_inner);
                            record.connections += 1;
                        }
                        Packet::PubAck(id) => {
                            let (expected, number) =
                                self.sent.pop_front().ok_or_else(|| wrong("a PUBACK too many"))?;
                            assert_eq!(id, expected, "PUBACKs come in the order of PUBLISHes");
                            let mut record =
                                self.device.record.lock().unwrap_or_else(PoisonError::into_inner);
                            record.acknowledged.insert(number);
                        }
                        _ => return Err(wrong("not what a sender expects")),
                    }
                    len
                }
            };
            self.input.advance(len);
        }
    }
}
