"""Hostile peers by the hundred, and the honest client beside them.

An attack is a generator: it holds one connection, does its harm a little at every turn, and ends
when the listener has ended it; then another takes its place. A target is what the test says about
a listener: `protocol` (mqtt or http), `host` and `port` with the authority `ca`, or `path` of a
Unix socket, and how to prove oneself.
"""

import contextlib
import http.client
import json
import socket
import ssl
import struct
import sys
import threading
import time

import mqtt

TURN_SECONDS = 0.05
OPENED_PER_TURN, SECURED_PER_TURN = 100, 8
# Once an attack stands, its peers are replaced more slowly: 400 and 20 a second.
REPLACED_PER_TURN, REPLACED_SECURED_PER_TURN = 20, 1
PATIENCE_SECONDS = 5


class Target:
    def __init__(self, said):
        self.said = said
        self.is_http = said["protocol"] == "http"
        if "ca" in said:
            self.context = ssl.create_default_context(cafile=said["ca"])

    def plain(self):
        if "path" in self.said:
            made = socket.socket(socket.AF_UNIX)
            # A socket that blocks waits for room in the kernel's queue; Python's own timeout
            # makes it one that does not, and the kernel refuses it at once.
            patience = struct.pack("ll", PATIENCE_SECONDS, 0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            try:
                made.connect(self.said["path"])
            except OSError:
                made.close()
                raise
            made.settimeout(PATIENCE_SECONDS)
            return made
        made = socket.create_connection((self.said["host"], self.said["port"]), PATIENCE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def secured(self):
        made = self.plain()
        if "ca" not in self.said:
            return made
        try:
            return self.context.wrap_socket(made, server_hostname=self.said["host"])
        except BaseException:
            made.close()
            raise

    def hello(self):
        """The first flight of a handshake; where there is none, half a request."""
        if "ca" not in self.said:
            return b"GET /modules HTTP/1.1\r\nhost: x\r\n"
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.context.wrap_bio(into, out, server_hostname=self.said["host"])
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return out.read()

    def opening(self):
        """What a proven MQTT session begins with."""
        return mqtt.connect(self.said["client"], self.said["user"], self.said["token"], True)


def is_open(connection):
    """Whether the peer still holds it; what it said is thrown away."""
    connection.setblocking(False)
    try:
        return connection.recv(65536) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True


def push(connection, data):
    """Sends what there is room for."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return connection.send(data)
    return 0


def silent(target):
    with target.plain() as peer:
        while is_open(peer):
            yield


def reset(target):
    with target.plain() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    yield


def drip(target):
    with target.plain() as peer:
        for byte in target.hello():
            if not is_open(peer):
                return
            push(peer, bytes([byte]))
            yield


def half_handshake(target):
    hello = target.hello()
    with target.plain() as peer:
        push(peer, hello)
        while is_open(peer):
            yield


def half_body(target):
    with target.secured() as peer:
        if target.is_http:
            head = b"PUT /devices/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
            push(peer, head + b"x" * 50000)
        else:
            # A CONNECT that announces 260 KiB.
            push(peer, b"\x10\x80\xa0\x10" + b"x" * 12000)
        while is_open(peer):
            yield


def never_reads(target):
    asked = b"GET /devices/x HTTP/1.1\r\nhost: x\r\n\r\n" * 50
    with target.secured() as peer:
        if not target.is_http:
            push(peer, target.opening())
            asked = mqtt.publish("$iothub/twin/GET/?$rid=1", 1, b"", 0) * 50
        while True:
            push(peer, asked)
            yield


def endless_header(target):
    with target.secured() as peer:
        line = b"x: " + b"y" * 1000 + b"\r\n"
        if target.is_http:
            push(peer, b"GET / HTTP/1.1\r\nhost: x\r\n")
        else:
            # The length never ends, or the packet is never whole.
            push(peer, b"\x10\x80\xa0\x10")
        while is_open(peer):
            push(peer, line)
            yield


def flood(target):
    pings = b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n" * 100
    with target.secured() as peer:
        if not target.is_http:
            push(peer, target.opening())
            pings = b"\xc0\x00" * 20000
        while is_open(peer):
            push(peer, pings)
            yield


ATTACKS = {
    attack.__name__: attack
    for attack in (
        silent, reset, drip, half_handshake, half_body, never_reads, endless_header, flood,
    )
}
SECURED = (half_body, never_reads, endless_header, flood)


class Siege(threading.Thread):
    """So many peers of one attack, replaced as they end."""

    def __init__(self, attack, target, count):
        super().__init__(daemon=True)
        self.attack, self.target, self.count = ATTACKS[attack], target, count
        is_secured = self.attack in SECURED
        self.opening = SECURED_PER_TURN if is_secured else OPENED_PER_TURN
        self.replacing = REPLACED_SECURED_PER_TURN if is_secured else REPLACED_PER_TURN
        self.peers, self.stopped = [], threading.Event()
        self.standing = threading.Event()
        self.opened = self.ended = 0

    def turn(self, peer):
        try:
            next(peer)
            return True
        except (StopIteration, OSError):
            self.ended += 1
            return False

    def run(self):
        while not self.stopped.is_set():
            self.peers = [peer for peer in self.peers if self.turn(peer)]
            speed = self.replacing if self.standing.is_set() else self.opening
            for _ in range(min(speed, self.count - len(self.peers))):
                self.opened += 1
                peer = self.attack(self.target)
                if self.turn(peer):
                    self.peers.append(peer)
            if self.opened >= self.count:
                self.standing.set()
            self.stopped.wait(TURN_SECONDS)
        for peer in self.peers:
            peer.close()

    def end(self):
        self.join()
        return {"opened": self.opened, "ended": self.ended, "held": len(self.peers)}


def ask_mqtt(target):
    with target.secured() as connection:
        connection.settimeout(PATIENCE_SECONDS)
        topic = target.said.get("topic")
        body = target.opening() + mqtt.publish(topic, 1, b"honest")
        connection.sendall(body)
        found, rest = [], b""
        while len(found) < 2:
            data = connection.recv(4096)
            if not data:
                raise ConnectionError(f"closed after {found}")
            more, rest = mqtt.split(rest + data)
            found += more
        heard = [packet.hex() for packet in found]
        if heard != ["20020000", "40020001"]:
            raise ConnectionError(f"heard {heard}")
        connection.sendall(b"\xe0\x00")


def ask_http(target):
    """What is at the target's path, as JSON."""
    with target.secured() as connection:
        connection.settimeout(PATIENCE_SECONDS)
        asked = http.client.HTTPConnection("x")
        asked.sock = connection
        headers = {"host": target.said.get("host", "x")}
        if "token" in target.said:
            headers["authorization"] = target.said["token"]
        asked.request("GET", target.said["ask"], headers=headers)
        answer = asked.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{answer.status}: {body[:200]}")
        return json.loads(body)


def honest(target):
    """Seconds until an honest client was answered, from its first packet on."""
    begun = time.monotonic()
    (ask_http if target.is_http else ask_mqtt)(target)
    return time.monotonic() - begun


def signed(said):
    """The target with a token, made of the key of its resource."""
    if said.get("key"):
        token = mqtt.token(said["resource"], said["key"])
        said["token"] = token + (f"&skn={said['policy']}" if "policy" in said else "")
    return Target(said)


def main():
    sieges = []
    for line in sys.stdin:
        command = json.loads(line)
        try:
            match command["do"]:
                case "begin":
                    siege = Siege(command["attack"], signed(command["target"]), command["count"])
                    siege.start()
                    sieges.append(siege)
                    value = None
                case "stand":
                    end = time.monotonic() + command["seconds"]
                    for siege in sieges:
                        siege.standing.wait(max(0, end - time.monotonic()))
                    value = sum(siege.standing.is_set() for siege in sieges)
                case "end":
                    for siege in sieges:
                        siege.stopped.set()
                    value = [siege.end() for siege in sieges]
                    sieges = []
                case "get":
                    value = ask_http(signed(command["target"]))
                case "honest":
                    time.sleep(command.get("pause", 0))
                    value = honest(signed(command["target"]))
            answer = {"event": "done", "value": value}
        except Exception as error:  # The test decides what a failure means.
            answer = {"event": "failed", "error": repr(error)}
        print(json.dumps({"id": command["id"], **answer}), flush=True)


main()
