"""A device on the unmodified Azure SDK, driven by a test.

Reads one JSON command a line, answers each with one JSON line, and prints what the
hub sends as JSON lines of their own. Nothing of the SDK is patched or subclassed.
"""

import base64
import json
import os
import sys
import threading
import time
import traceback

from azure.iot.device import IoTHubDeviceClient, Message, MethodResponse, exceptions

lock = threading.Lock()


def say(event, **fields):
    line = json.dumps({"event": event, **fields})
    with lock:
        print(line, flush=True)


def message(command):
    body = command.get("body")
    if body is None:
        body = base64.b64decode(command["body_base64"])
    made = Message(body)
    for name in ("message_id", "correlation_id", "user_id", "content_type", "content_encoding"):
        if name in command:
            setattr(made, name, command[name])
    made.custom_properties.update(command.get("properties", {}))
    return made


def carry_out(client, command):
    match command["do"]:
        case "connect":
            return client.connect()
        case "send":
            return client.send_message(message(command))
        case "send_many":
            for number in range(command["first"], command["last"] + 1):
                send_surely(client, number)
                say("sent", number=number)
            return None
        case "twin":
            return client.get_twin()
        case "report":
            return client.patch_twin_reported_properties(command["patch"])
        case "listen":
            return listen(client)
        case other:
            raise ValueError(f"unknown command {other}")


def send_surely(client, number):
    """As an application does: the SDK refuses to send in the moment of a disconnect."""
    while True:
        try:
            return client.send_message(Message(str(number)))
        except exceptions.NoConnectionError:
            time.sleep(0.05)


def listen(client):
    def on_method(request):
        say("method", name=request.name, payload=request.payload)
        answer = {"heard": request.payload, "name": request.name}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 207, answer)
        )

    client.on_method_request_received = on_method
    client.on_twin_desired_properties_patch_received = lambda patch: say("desired", patch=patch)


def report_death(death):
    """A thread of the SDK died; whether that is the SDK's own fault, the test decides."""
    frames = traceback.extract_tb(death.exc_traceback)
    say(
        "thread_died",
        error=death.exc_type.__name__,
        by_paho=any(frame.filename.endswith("paho/mqtt/client.py") for frame in frames),
        frames=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )
    threading.__excepthook__(death)


def main():
    threading.excepthook = report_death
    options = json.loads(sys.argv[1])
    with open(options.pop("ca"), encoding="ascii") as file:
        authority = file.read()
    client = IoTHubDeviceClient.create_from_connection_string(
        os.environ["DEVICE_CONNECTION_STRING"], server_verification_cert=authority, **options
    )
    client.on_connection_state_change = lambda: say(
        "connected" if client.connected else "disconnected"
    )
    client.on_background_exception = lambda error: print(repr(error), file=sys.stderr)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say("done", id=command["id"], value=carry_out(client, command))
        except Exception as error:  # The test decides what a failure means.
            say("failed", id=command["id"], error=repr(error))
    client.shutdown()


main()
