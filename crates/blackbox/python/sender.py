"""Sends numbered messages at QoS 1 and keeps its own list of what was acknowledged.

A plain MQTT 3.1.1 client of one thread, so that the order of what it sends is certain:
after a broken connection it repeats, in order, all that is not acknowledged, and goes on.
Each acknowledged number is appended to the list as 4 bytes before anything else happens.

Commands on standard input, one JSON object a line, by their "do":
  go    begin to send (only with the option "hold")
  stop  send no new number, wait for the rest, send the last message "end", and finish
  kill  SIGKILL process "pid" right after the next acknowledgement
"""

import collections
import json
import os
import queue
import ssl
import struct
import sys
import threading
import time

import mqtt

RETRY_SECONDS = 0.02


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


class Sender:
    def __init__(self, options):
        self.identity = mqtt.Identity()
        self.topic = f"devices/{self.identity.device}/messages/events/"
        self.authority = options["ca"]
        self.port = options["port"]
        self.window = options["window"]
        self.count = options.get("count")
        self.pad = "." * options["pad"]
        self.tag = options.get("tag", "")
        self.acks = os.open(options["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.connection = None
        self.rest = b""
        self.next = 1
        self.end_sent = False
        self.stopping = False
        self.waiting = collections.OrderedDict()  # packet id -> (number, body)
        self.last_id = 0
        self.victim = None
        self.commands = queue.SimpleQueue()
        self.connects = 0

    def connect(self):
        host, device = self.identity.host, self.identity.device
        self.connection = mqtt.dial(host, self.port, self.authority)
        password = mqtt.token(f"{host}/devices/{device}", self.identity.key)
        user = f"{host}/{device}/?api-version=2021-04-12"
        self.connection.sendall(mqtt.connect(device, user, password))
        self.rest = b""
        answer = self.packets()[0]
        if answer[0] >> 4 != mqtt.CONNACK or answer[3] != 0:
            raise OSError(f"refused: {answer!r}")
        self.connects += 1
        repeated = b"".join(self.publish(*entry, dup=8) for entry in self.entries())
        if repeated:
            self.connection.sendall(repeated)

    def entries(self):
        return [(number, *entry) for number, entry in self.waiting.items()]

    def publish(self, packet_id, number, body, dup=0):
        return mqtt.publish(self.topic, packet_id, body, 2 | dup)

    def packets(self):
        """Whole packets from the connection, at least one."""
        while True:
            found, self.rest = mqtt.split(self.rest)
            if found:
                return found
            data = self.connection.recv(65536)
            if not data:
                raise OSError("the hub closed the connection")
            self.rest += data

    def fill(self):
        """Sends new messages while there is room."""
        out = []
        while len(self.waiting) < self.window:
            if self.stopping or (self.count is not None and self.next > self.count):
                if self.waiting or self.end_sent:
                    break
                self.end_sent = True
                number, body = 0, b"end"
            else:
                number = self.next
                self.next += 1
                body = f"{self.tag}{number} {self.pad}".encode()
            self.last_id = self.last_id % 65535 + 1
            self.waiting[self.last_id] = (number, body)
            out.append(self.publish(self.last_id, number, body))
            if number == 0:
                break
        if out:
            self.connection.sendall(b"".join(out))

    def take(self):
        """Waits for acknowledgements and writes them down."""
        answers = self.packets()
        read_at = time.monotonic_ns()
        numbers = []
        for answer in answers:
            if answer[0] >> 4 != mqtt.PUBACK:
                raise OSError(f"unexpected packet {answer!r}")
            number, _ = self.waiting.pop(struct.unpack(">H", answer[2:])[0])
            if number:
                numbers.append(number)
        os.write(self.acks, struct.pack(f"<{len(numbers)}I", *numbers))
        if self.victim is not None and numbers:
            os.kill(self.victim, 9)
            micros = (time.monotonic_ns() - read_at) // 1000
            say("killed", number=numbers[-1], micros=micros)
            self.victim = None

    def obey(self):
        while not self.commands.empty():
            match self.commands.get():
                case {"do": "stop"}:
                    self.stopping = True
                case {"do": "kill", "pid": pid}:
                    self.victim = pid
                case other:
                    raise ValueError(f"unknown command {other}")

    def run(self):
        while not (self.end_sent and not self.waiting):
            self.obey()
            try:
                if self.connection is None:
                    self.connect()
                    say("connected", connects=self.connects)
                    self.take_if_waiting()
                self.fill()
                self.take_if_waiting()
            except (OSError, ssl.SSLError) as error:
                print(repr(error), file=sys.stderr)
                if self.connection is not None:
                    self.connection.close()
                self.connection = None
                time.sleep(RETRY_SECONDS)
        say("finished", last=self.next - 1, connects=self.connects)

    def take_if_waiting(self):
        if self.waiting:
            self.take()


def main():
    options = json.loads(sys.argv[1])
    sender = Sender(options)
    if options.get("hold"):
        sender.connect()
        port = sender.connection.getsockname()[1]
        say("connected", connects=sender.connects, port=port)
        assert json.loads(sys.stdin.readline())["do"] == "go"

    def listen():
        for line in sys.stdin:
            sender.commands.put(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    sender.run()
    # The connection stays until the test has looked.
    threading.Event().wait(options.get("linger", 0) or 0.0001)


main()
