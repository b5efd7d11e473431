"""Sends numbered messages at QoS 1 and keeps its own list of what was acknowledged.

A plain MQTT 3.1.1 client of one thread, so that the order of what it sends is certain:
after a broken connection it repeats, in order, all that is not acknowledged, and goes on.
Each acknowledged number is appended to the list as 4 bytes before anything else happens.

Commands on standard input, one JSON object a line, by their "do":
  go    begin to send (only with the option "hold")
  stop  send no new number, wait for the rest, send the last message "end", and finish
  kill  SIGKILL process "pid" right after the next acknowledgement
"""

import base64
import collections
import hashlib
import hmac
import json
import os
import queue
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
RETRY_SECONDS = 0.02
SILENCE_SECONDS = 30


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def packet(kind, flags, body):
    length, head = len(body), bytearray([kind << 4 | flags])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


class Sender:
    def __init__(self, options):
        parts = os.environ["DEVICE_CONNECTION_STRING"].split(";")
        settings = dict(part.split("=", 1) for part in parts)
        self.host, self.device = settings["HostName"], settings["DeviceId"]
        self.key = base64.b64decode(settings["SharedAccessKey"])
        self.port = options["port"]
        self.window = options["window"]
        self.count = options.get("count")
        self.pad = "." * options["pad"]
        self.acks = os.open(options["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.tls = ssl.create_default_context(cafile=options["ca"])
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

    def token(self):
        resource = urllib.parse.quote(f"{self.host}/devices/{self.device}", safe="")
        expiry = int(time.time()) + 3600
        mac = hmac.new(self.key, f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
        signature = urllib.parse.quote(base64.b64encode(mac), safe="")
        return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"

    def connect(self):
        plain = socket.create_connection((self.host, self.port), timeout=SILENCE_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = self.tls.wrap_socket(plain, server_hostname=self.host)
        user = f"{self.host}/{self.device}/?api-version=2021-04-12"
        body = text("MQTT") + bytes([4, 0xC0]) + struct.pack(">H", 120)
        body += text(self.device) + text(user) + text(self.token())
        self.connection.sendall(packet(CONNECT, 0, body))
        self.rest = b""
        kind, answer = self.packets(1)[0]
        if kind != CONNACK or answer[1] != 0:
            raise OSError(f"refused: {answer!r}")
        self.connects += 1
        repeated = b"".join(self.publish(*entry, dup=8) for entry in self.entries())
        if repeated:
            self.connection.sendall(repeated)

    def entries(self):
        return [(number, *entry) for number, entry in self.waiting.items()]

    def publish(self, packet_id, number, body, dup=0):
        topic = f"devices/{self.device}/messages/events/"
        content = text(topic) + struct.pack(">H", packet_id) + body
        return packet(PUBLISH, 2 | dup, content)

    def packets(self, least):
        """Whole packets from the connection, at least `least`."""
        found = []
        while True:
            while len(self.rest) >= 2 and len(self.rest) >= 2 + self.rest[1]:
                end = 2 + self.rest[1]  # All that the hub sends us is short.
                found.append((self.rest[0] >> 4, self.rest[2:end]))
                self.rest = self.rest[end:]
            if len(found) >= least:
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
                body = f"{number} {self.pad}".encode()
            self.last_id = self.last_id % 65535 + 1
            self.waiting[self.last_id] = (number, body)
            out.append(self.publish(self.last_id, number, body))
            if number == 0:
                break
        if out:
            self.connection.sendall(b"".join(out))

    def take(self):
        """Waits for acknowledgements and writes them down."""
        answers = self.packets(1)
        read_at = time.monotonic_ns()
        numbers = []
        for kind, answer in answers:
            if kind != PUBACK:
                raise OSError(f"unexpected packet {kind}")
            number, _ = self.waiting.pop(struct.unpack(">H", answer)[0])
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
        say("connected", connects=sender.connects)
        assert json.loads(sys.stdin.readline())["do"] == "go"

    def listen():
        for line in sys.stdin:
            sender.commands.put(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    sender.run()
    # The connection stays until the test has looked.
    threading.Event().wait(options.get("linger", 0) or 0.0001)


main()
