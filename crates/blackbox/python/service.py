"""A back end on the unmodified Azure service SDK, driven by a test.

Reads one JSON command a line and answers each with one JSON line. Nothing of the SDK is
patched or subclassed.
"""

import json
import os
import sys

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties


def twin_of(found):
    return {
        "etag": found.etag,
        "desired": found.properties.desired,
        "reported": found.properties.reported,
        "tags": found.tags,
        "version": found.version,
    }


def device_of(found):
    keys = found.authentication.symmetric_key
    return {
        "deviceId": found.device_id,
        "status": found.status,
        "etag": found.etag,
        "keys": [bool(keys.primary_key), bool(keys.secondary_key)],
        "connection": found.connection_state,
    }


def content(command):
    properties = TwinProperties(desired=command["desired"]) if "desired" in command else None
    return Twin(properties=properties, tags=command.get("tags"))


def carry_out(hub, command):
    device, module = command.get("device"), command.get("module")
    match command["do"]:
        case "create":
            return device_of(hub.create_device_with_sas(device, "", "", command["status"]))
        case "get":
            return device_of(hub.get_device(device))
        case "list":
            return [found.device_id for found in hub.get_devices(command["most"])]
        case "status":
            return device_of(
                hub.update_device_with_sas(device, command["etag"], "", "", command["status"])
            )
        case "delete":
            return hub.delete_device(device, command.get("etag"))
        case "create module":
            return hub.create_module_with_sas(device, module, "back end", "", "").module_id
        case "modules":
            return [found.module_id for found in hub.get_modules(device)]
        case "delete module":
            return hub.delete_module(device, module)
        case "twin":
            return twin_of(hub.get_module_twin(device, module) if module else hub.get_twin(device))
        case "update twin":
            if module:
                return twin_of(hub.update_module_twin(device, module, content(command), None))
            return twin_of(hub.update_twin(device, content(command), command.get("etag")))
        case "replace twin":
            return twin_of(hub.replace_twin(device, content(command), command.get("etag")))
        case "statistics":
            found = hub.get_device_registry_statistics()
            return [found.total_device_count, found.enabled_device_count, found.disabled_device_count]
        case "connected":
            return hub.get_service_statistics().connected_device_count
        case "method":
            call = CloudToDeviceMethod(
                method_name=command["name"],
                payload=command["payload"],
                response_timeout_in_seconds=10,
                connect_timeout_in_seconds=5,
            )
            answer = hub.invoke_device_method(device, call)
            return {"status": answer.status, "payload": answer.payload}
        case other:
            raise ValueError(f"unknown command {other}")


def main():
    # The only trust root; the SDK's HTTP client asks the environment for it.
    os.environ["REQUESTS_CA_BUNDLE"] = json.loads(sys.argv[1])["ca"]
    hub = IoTHubRegistryManager.from_connection_string(os.environ["DEVICE_CONNECTION_STRING"])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"event": "done", "value": carry_out(hub, command)}
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            answer = {"event": "failed", "error": f"{type(error).__name__} {status}: {error}"}
        print(json.dumps({"id": command["id"], **answer}), flush=True)


if __name__ == "__main__":
    main()
