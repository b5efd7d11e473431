"""Connections that break rules, byte by byte; prints what the hub answered."""

import json
import struct
import sys

import mqtt


def written(step, identity):
    match step:
        case ["publish", topic, flags, size]:
            topic = topic.replace("{d}", identity.device)
            return mqtt.publish(topic, 1, b"x" * size, flags)
        case ["subscribe", topic, quality]:
            body = struct.pack(">H", 7) + mqtt.text(topic) + bytes([quality])
            return mqtt.packet(mqtt.SUBSCRIBE, 2, body)
        case ["raw", data]:
            return bytes.fromhex(data)
        case ["connect"]:
            return opening({}, identity)
    raise ValueError(f"unknown step {step}")


def opening(options, identity):
    device = options.get("device", identity.device)
    host = options.get("host", identity.host)
    resource = options.get("resource", f"{host}/devices/{device}")
    key = options.get("key", identity.key)
    password = options.get("password", mqtt.token(resource, key, options.get("seconds", 3600)))
    client, level = options.get("client", device), options.get("level", 4)
    user = options.get("user", f"{host}/{device}/?api-version=2021-04-12")
    return mqtt.connect(client, user, password, clean=True, level=level)


def attempt(command, settings, identity):
    """All that the hub answers until it closes.

    With "answers" it is asked to close, by DISCONNECT, once so many packets came and the
    connection has proven to be alive; without, it has to close by itself.
    """
    connection = mqtt.dial(identity.host, settings["port"], settings["ca"])
    found, rest = [], b""
    ends = [bytes.fromhex(text) for text in ("c000", "e000")]
    awaited = command.get("answers")
    try:
        first = command["connect"]
        raw = bytes.fromhex(first) if isinstance(first, str) else opening(first, identity)
        connection.sendall(raw + b"".join(written(step, identity) for step in command["steps"]))
        while True:
            if awaited is not None and len(found) >= awaited and ends:
                connection.sendall(ends.pop(0))
                awaited = len(found) + 1
            data = connection.recv(65536)
            if not data:
                break
            more, rest = mqtt.split(rest + data)
            found += more
    except (ConnectionResetError, BrokenPipeError):
        pass  # Closing while we still write is a way of closing.
    finally:
        connection.close()
    return [packet.hex() for packet in found] + ([rest.hex()] if rest else [])


def take_over(settings, identity):
    """A second connection of the same identity; what each of both got to hear."""
    older, newer = (mqtt.dial(identity.host, settings["port"], settings["ca"]) for _ in "12")
    heard = []
    for connection in (older, newer):
        connection.sendall(opening({}, identity))
        heard.append(connection.recv(4).hex())
    heard.append(older.recv(4).hex())  # Nothing more: the end of the stream.
    newer.sendall(bytes.fromhex("c000"))
    heard.append(newer.recv(2).hex())
    older.close()
    newer.close()
    return heard


def main():
    settings, identity = json.loads(sys.argv[1]), mqtt.Identity()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            act = {"attempt": lambda: attempt(command, settings, identity)}
            act["take_over"] = lambda: take_over(settings, identity)
            answer = {"event": "done", "value": act[command["do"]]()}
        except Exception as error:  # The test decides what a failure means.
            answer = {"event": "failed", "error": repr(error)}
        print(json.dumps({"id": command["id"], **answer}), flush=True)


main()
