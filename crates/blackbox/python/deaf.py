"""Devices that ask for their twins and read nothing; and one that reads."""

import json
import socket
import ssl
import struct
import sys
import time

import mqtt

TWIN = "$iothub/twin/"
# Bytes of one reported text; ten of them nearly fill the section.
TEXT_BYTES = 3200


def dial(identity, settings, window):
    plain = socket.socket()
    if window:
        # What our own kernel takes in is not the hub's.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    plain.settimeout(mqtt.SILENCE_SECONDS)
    plain.connect((identity.host, settings["port"]))
    context = ssl.create_default_context(cafile=settings["ca"])
    return context.wrap_socket(plain, server_hostname=identity.host)


def subscribe(topic):
    return mqtt.packet(mqtt.SUBSCRIBE, 2, struct.pack(">H", 7) + mqtt.text(topic) + b"\0")


def opened(identity, settings, window):
    """A connection with its subscriptions, and a twin that is nearly full."""
    connection = dial(identity, settings, window)
    password = mqtt.token(f"{identity.host}/devices/{identity.device}", identity.key)
    user = f"{identity.host}/{identity.device}/?api-version=2021-04-12"
    connection.sendall(mqtt.connect(identity.device, user, password, clean=True, seconds=0))
    assert connection.recv(4) == bytes.fromhex("20020000")
    values = {f"k{at}": "x" * TEXT_BYTES for at in range(10)}
    for topic in (f"{TWIN}res/#", f"{TWIN}PATCH/properties/desired/#"):
        connection.sendall(subscribe(topic))
        assert connection.recv(5)[0] == 0x90
    patch = mqtt.publish(f"{TWIN}PATCH/properties/reported/?$rid=0", 1, json.dumps(values).encode())
    connection.sendall(patch)
    answer = b""
    while b"res/204" not in answer:
        answer += connection.recv(65536)
    return connection


def deafen(connection, reads):
    """Asks and asks; gives how many bytes the hub took before it took no more."""
    asked = b"".join(mqtt.publish(f"{TWIN}GET/?$rid=1", 1, b"", 0) for _ in range(reads))
    connection.settimeout(1)
    sent = 0
    try:
        for at in range(0, len(asked), 1024):
            connection.sendall(asked[at : at + 1024])
            sent = at + 1024
    except TimeoutError:
        pass  # Held back: that is allowed.
    return min(sent, len(asked))


def read_once(connection):
    """Seconds until the twin is there."""
    connection.settimeout(mqtt.SILENCE_SECONDS)
    start = time.monotonic()
    connection.sendall(mqtt.publish(f"{TWIN}GET/?$rid=1", 1, b"", 0))
    answer = b""
    while not answer.endswith(b"}}"):
        data = connection.recv(65536)
        assert data, "the hub closed"
        answer += data
    return time.monotonic() - start


def main():
    settings, identity, connection = json.loads(sys.argv[1]), mqtt.Identity(), None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            match command["do"]:
                case "open":
                    connection = opened(identity, settings, command["window"])
                    value = True
                case "deafen":
                    value = deafen(connection, command["reads"])
                case "read":
                    value = read_once(connection)
            answer = {"event": "done", "value": value}
        except Exception as error:  # The test decides what a failure means.
            answer = {"event": "failed", "error": repr(error)}
        print(json.dumps({"id": command["id"], **answer}), flush=True)


main()
