"""A module on the unmodified Azure SDK, in a container of the device runtime.

It starts from the edge environment and nothing else. Each reading that comes to its input
is answered on an output with the number the sensor wrote; what it hears through its twin it
reports back; a method gets its payload back, and two methods use the workload interface as
other clients of Azure do. Nothing of the SDK is patched or subclassed.
"""

import http.client
import importlib.metadata
import json
import os
import signal
import socket
import ssl
import threading

from azure.iot.device import IoTHubModuleClient, Message, MethodResponse

stop = threading.Event()


def reportable(section):
    """Without the names that begin with $, which nobody may report."""
    return {name: value for name, value in section.items() if not name.startswith("$")}


def workload(verb, path, body=None, version="2020-07-07"):
    """One request on this module's own socket."""
    connection = http.client.HTTPConnection("workload")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))
    own = "/modules/{}/genid/{}/".format(
        os.environ["IOTEDGE_MODULEID"], os.environ["IOTEDGE_MODULEGENERATIONID"]
    )
    path = path.replace("{own}/", own) + f"?api-version={version}"
    connection.request(verb, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return {"status": answer.status, "body": json.loads(text)}


def handshake(name):
    """TLS by OpenSSL between a server with an issued certificate and a client that trusts
    the bundle; the names in the certificate that the client saw."""
    issued = workload("POST", "{own}/certificate/server", {"commonName": name})["body"]
    bundle = workload("GET", "/trust-bundle")["body"]["certificate"]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL reads files only; this one exists in memory.
    file = os.memfd_create("issued")
    os.write(file, (issued["privateKey"]["bytes"] + issued["certificate"]).encode())
    server.load_cert_chain(f"/proc/self/fd/{file}")
    os.close(file)
    client = ssl.create_default_context(cadata=bundle)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(8):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    seen = ends[0].getpeercert()
    return {"version": ends[0].version(), "names": seen["subjectAltName"]}


def answer(request):
    match request.name:
        case "workload":
            return 200, workload(**request.payload)
        case "handshake":
            return 200, handshake(request.payload["name"])
        case name:
            return 207, {"name": name, "heard": request.payload}


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
        try:
            status, body = answer(request)
        except Exception as error:  # The test decides what a failure means.
            status, body = 500, {"error": repr(error)}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, status, body)
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
    # Returns when the router has acknowledged it.
    client.send_message_to_output(Message('{"last": "words"}'), "farewell")
    client.shutdown()
    print("module ends in order", flush=True)


# As process 1 of its container it gets no default action for signals.
signal.signal(signal.SIGTERM, lambda *_: stop.set())
main()
