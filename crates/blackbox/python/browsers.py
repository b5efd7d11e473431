"""Browsers' worth of live streams on a hub, of which some take nothing, and a device that talks.

Nothing here is the console's code: plain HTTP/1.1 over TLS, as any client could speak it.

Commands on standard input, one JSON object a line, by their "do":
  open    "quick" streams that are read, then "slow" ones that never are
  talk    the device begins to send: numbered small messages, and large ones that fill windows
  report  what the quick streams got since the last report
  hush    the device stops; answers how many small messages the hub acknowledged
  slow    reads what is left of the slow streams; how many the hub had reset or ended
  health  the hub's word on itself
  close   closes every stream
"""

import asyncio
import json
import socket
import ssl
import sys
import threading
import time
import urllib.parse

import mqtt

SMALL_SECONDS = 0.1
LARGE_EVERY = 2
LARGE_BYTES = 48 * 1024
WINDOW_BYTES = 4096
ANSWER_SECONDS = 20


class Quick:
    """What one stream got: the numbers of small messages, and the longest silence."""

    def __init__(self):
        self.next = None
        self.missed = 0
        self.rows = 0
        self.updates = 0
        self.heard = time.monotonic()
        self.silence = 0.0
        self.ended = None

    def take(self, event):
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if fields.get("event") != "update":
            return
        data = json.loads(fields["data"])
        rows = data["data"].get("rows")
        if rows is None:
            return
        now = time.monotonic()
        self.silence = max(self.silence, now - self.heard)
        self.heard = now
        self.updates += 1
        self.missed += data["dropped"] + data["data"]["skipped"]
        for row in rows:
            number = int(row["body"])
            if self.next is not None and number != self.next:
                self.missed += 1
            self.next = number + 1
            self.rows += 1


class Browsers:
    def __init__(self, settings):
        self.settings = settings
        self.identity = mqtt.Identity()
        self.quick, self.slow, self.tasks, self.writers = [], [], [], []
        self.talking, self.sent = None, 0
        self.trust = ssl.create_default_context(cafile=settings["ca"])

    def head(self, path):
        host = self.settings["host"]
        token = mqtt.token(host, self.settings["key"]) + "&skn=iothubowner"
        lines = [f"GET {path} HTTP/1.1", f"host: {host}", f"authorization: {token}", "", ""]
        return "\r\n".join(lines).encode()

    def events(self, *topics):
        query = "&".join("topic=" + urllib.parse.quote(topic, safe="") for topic in topics)
        return self.head(f"/api/v1/events?{query}")

    async def dial(self, plain=None):
        host = self.settings["host"]
        where = {"sock": plain} if plain else {"host": host, "port": self.settings["port"]}
        return await asyncio.open_connection(ssl=self.trust, server_hostname=host, **where)

    async def open(self, quick, slow):
        device = self.identity.device
        for _ in range(quick):
            reader, writer = await self.dial()
            writer.write(self.events("overview", f"telemetry:{device}?size = 'small'"))
            await self.answered(reader)
            stream = Quick()
            self.quick.append(stream)
            self.writers.append(writer)
            self.tasks.append(asyncio.create_task(self.read(reader, stream)))
        for _ in range(slow):
            self.slow.append(await asyncio.to_thread(self.open_slow))

    def open_slow(self):
        """A stream of which nothing is read after the head of the answer."""
        plain = socket.socket()
        # Set before the connection stands, so that it offers a small window.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        plain.settimeout(ANSWER_SECONDS)
        plain.connect((self.settings["host"], self.settings["port"]))
        stream = self.trust.wrap_socket(plain, server_hostname=self.settings["host"])
        stream.sendall(self.events("overview", f"telemetry:{self.identity.device}"))
        assert b"200 OK" in stream.recv(15)
        return stream

    @staticmethod
    async def answered(reader):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_SECONDS)
        assert b"200 OK" in head, head

    async def read(self, reader, stream):
        try:
            text = ""
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                if size == 0:
                    stream.ended = "the end of the stream"
                    return
                chunk = await reader.readexactly(size + 2)
                text += chunk[:-2].decode()
                *events, text = text.split("\n\n")
                for event in events:
                    stream.take(event)
        except (OSError, EOFError) as error:
            stream.ended = repr(error)

    def talk(self):
        stop = threading.Event()
        thread = threading.Thread(target=self.send, args=(stop,))
        self.talking = (stop, thread)
        thread.start()

    def send(self, stop):
        host, device = self.identity.host, self.identity.device
        connection = mqtt.dial(host, mqtt_port(), self.settings["ca"])
        password = mqtt.token(f"{host}/devices/{device}", self.identity.key)
        connection.sendall(mqtt.connect(device, f"{host}/{device}/?api-version=2021-04-12", password))
        assert connection.recv(4)[3] == 0
        topic = f"devices/{device}/messages/events/$.ct=application%2Fjson&$.ce=utf-8&size="
        large = json.dumps("x" * LARGE_BYTES).encode()
        while not stop.wait(SMALL_SECONDS):
            bodies = [("small", str(self.sent).encode())]
            if self.sent % LARGE_EVERY == 0:
                bodies.append(("large", large))
            for size, body in bodies:
                connection.sendall(mqtt.publish(topic + size, 1, body))
                assert connection.recv(4)[0] >> 4 == mqtt.PUBACK
            self.sent += 1
        connection.close()

    async def hush(self):
        stop, thread = self.talking
        stop.set()
        await asyncio.to_thread(thread.join)
        return self.sent

    def report(self):
        said = {
            "streams": len(self.quick),
            "ended": [stream.ended for stream in self.quick if stream.ended],
            "missed": sum(stream.missed for stream in self.quick),
            "fewest_rows": min(stream.rows for stream in self.quick),
            "fewest_updates": min(stream.updates for stream in self.quick),
            "reached": min(stream.next or 0 for stream in self.quick),
            "longest_silence_ms": round(1000 * max(stream.silence for stream in self.quick)),
        }
        for stream in self.quick:
            stream.rows = stream.updates = 0
            stream.silence, stream.heard = 0.0, time.monotonic()
        return said

    def drain(self):
        """How many slow streams are over, by what their sockets say."""
        over = 0
        for stream in self.slow:
            stream.settimeout(1)
            try:
                while stream.recv(65536):
                    pass
                over += 1
            except TimeoutError:
                pass
            except OSError:
                over += 1
        return over

    async def health(self):
        reader, writer = await self.dial()
        writer.write(self.head("/api/v1/health"))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        writer.close()
        return json.loads(body)

    async def close(self):
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()
        for stream in self.slow:
            stream.close()
        self.quick, self.slow, self.tasks, self.writers = [], [], [], []


def mqtt_port():
    return json.loads(sys.argv[1])["mqtt_port"]


async def obey(browsers, command):
    match command["do"]:
        case "open":
            return await browsers.open(command["quick"], command["slow"])
        case "talk":
            return browsers.talk()
        case "report":
            return browsers.report()
        case "hush":
            return await browsers.hush()
        case "slow":
            return await asyncio.to_thread(browsers.drain)
        case "health":
            return await browsers.health()
        case "close":
            return await browsers.close()
        case other:
            raise ValueError(f"unknown command {other}")


async def main():
    browsers = Browsers(json.loads(sys.argv[1]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"event": "done", "value": await obey(browsers, command)}
        except Exception as error:  # The test decides what a failure means.
            answer = {"event": "failed", "error": repr(error)}
        print(json.dumps({"id": command["id"], **answer}), flush=True)


asyncio.run(main())
