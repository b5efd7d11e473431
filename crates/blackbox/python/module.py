"""A module on the unmodified Azure SDK, in a container of the device runtime.

It starts from the edge environment and nothing else. Each reading that comes to its input
is answered on an output with the number the sensor wrote; what it hears through its twin it
reports back; a method gets its payload back. Nothing of the SDK is patched or subclassed.
"""

import importlib.metadata
import json
import signal
import threading

from azure.iot.device import IoTHubModuleClient, Message, MethodResponse

stop = threading.Event()


def reportable(section):
    """Without the names that begin with $, which nobody may report."""
    return {name: value for name, value in section.items() if not name.startswith("$")}


def main():
    client = IoTHubModuleClient.create_from_edge_environment()

    def on_message(message):
        reading = json.loads(message.data)
        answer = Message(json.dumps({"answerTo": reading["seq"], "run": reading["run"]}))
        answer.content_type = "application/json"
        answer.content_encoding = "utf-8"
        answer.custom_properties["input"] = message.input_name
        client.send_message_to_output(answer, "answers")

    def on_patch(patch):
        client.patch_twin_reported_properties({"heard": reportable(patch)})

    def on_method(request):
        body = {"name": request.name, "heard": request.payload}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 207, body)
        )

    client.on_message_received = on_message
    client.on_twin_desired_properties_patch_received = on_patch
    client.on_method_request_received = on_method
    client.connect()
    twin = client.get_twin()
    client.patch_twin_reported_properties(
        {
            "sdk": importlib.metadata.version("azure-iot-device"),
            "read": reportable(twin["desired"]),
            "readVersion": twin["desired"]["$version"],
        }
    )
    print("module is ready", flush=True)
    stop.wait()
    client.shutdown()


# As process 1 of its container it gets no default action for signals.
signal.signal(signal.SIGTERM, lambda *_: stop.set())
main()
