"""The few packets of MQTT 3.1.1 that the scripts write by hand, and signed tokens."""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import time
import urllib.parse

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE = 1, 2, 3, 4, 8
SILENCE_SECONDS = 10


class Identity:
    """What the connection string in the environment says."""

    def __init__(self):
        parts = os.environ["DEVICE_CONNECTION_STRING"].split(";")
        settings = dict(part.split("=", 1) for part in parts)
        self.host, self.device = settings["HostName"], settings["DeviceId"]
        self.key = settings["SharedAccessKey"]


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(data)) + data


def packet(kind, flags, body):
    length, head = len(body), bytearray([kind << 4 | flags])
    while True:
        length, digit = divmod(length, 128)
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


def token(resource, key, seconds=3600):
    resource = urllib.parse.quote(resource, safe="")
    expiry = int(time.time()) + seconds
    signed = f"{resource}\n{expiry}".encode()
    mac = hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()
    signature = urllib.parse.quote(base64.b64encode(mac), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"


def connect(client_id, user, password, clean=False, level=4, seconds=120):
    flags = 0x80 | (0x40 if password is not None else 0) | (2 if clean else 0)
    body = text("MQTT") + bytes([level, flags]) + struct.pack(">H", seconds)
    body += (b"\0" if level == 5 else b"") + text(client_id) + text(user)
    return packet(CONNECT, 0, body + (text(password) if password is not None else b""))


def publish(topic, packet_id, body, flags=2):
    numbered = struct.pack(">H", packet_id) if flags & 6 else b""
    return packet(PUBLISH, flags, text(topic) + numbered + body)


def dial(host, port, authority):
    plain = socket.create_connection((host, port), timeout=SILENCE_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl.create_default_context(cafile=authority).wrap_socket(plain, server_hostname=host)


def split(data):
    """The whole packets at the front of `data`, and the rest."""
    found = []
    # All that a hub sends these scripts is shorter than 128 bytes.
    while len(data) >= 2 and len(data) >= 2 + data[1]:
        end = 2 + data[1]
        found.append(data[:end])
        data = data[end:]
    return found, data
