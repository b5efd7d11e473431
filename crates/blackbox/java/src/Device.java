import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.microsoft.azure.sdk.iot.device.ClientOptions;
import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.device.twin.DirectMethodResponse;
import com.microsoft.azure.sdk.iot.device.twin.Twin;
import com.microsoft.azure.sdk.iot.device.twin.TwinCollection;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** A device on the unmodified Azure SDK for Java, over MQTT. */
final class Device {
    private static DeviceClient client;

    public static void main(String[] args) throws Exception {
        ClientOptions options =
                ClientOptions.builder().sslContext(Driver.trust(args[0])).build();
        client = new DeviceClient(Driver.connectionString(), IotHubClientProtocol.MQTT, options);
        Driver.run(Device::carryOut);
        client.close();
        System.exit(0);
    }

    private static Object carryOut(JsonObject command) throws Exception {
        switch (Driver.text(command, "do")) {
            case "connect":
                client.open(true);
                return null;
            case "send":
                client.sendEvent(message(command));
                return null;
            case "listen":
                client.subscribeToMethods((name, payload, context) -> {
                    JsonObject heard = new JsonObject();
                    heard.addProperty("name", name);
                    heard.add("payload", payload.getPayloadAsJsonElement());
                    Driver.say("method", heard.deepCopy());
                    Map<String, Object> answer = Map.of("name", name,
                            "heard", Driver.plain(payload.getPayloadAsJsonElement()));
                    return new DirectMethodResponse(207, answer);
                }, null);
                client.subscribeToDesiredProperties((twin, context) -> {
                    JsonObject patch = new JsonObject();
                    patch.add("patch", Driver.json(twin.getDesiredProperties()));
                    Driver.say("desired", patch);
                }, null);
                return null;
            case "report": {
                TwinCollection patch = new TwinCollection();
                patch.putAll(Driver.map(command.get("patch")));
                TwinAnswer answer = new TwinAnswer();
                client.updateReportedPropertiesAsync(patch, answer, null);
                answer.await();
                return null;
            }
            case "twin": {
                TwinAnswer answer = new TwinAnswer();
                client.getTwinAsync(answer, null);
                byte[] body = answer.await().getBytes();
                Twin twin = Twin.createFromPropertiesJson(
                        new String(body, StandardCharsets.UTF_8));
                JsonObject shown = new JsonObject();
                shown.add("desired", Driver.json(twin.getDesiredProperties()));
                shown.add("reported", Driver.json(twin.getReportedProperties()));
                return shown;
            }
            default:
                throw new IllegalArgumentException("unknown command " + command);
        }
    }

    private static Message message(JsonObject command) {
        Message made = new Message(Driver.text(command, "body"));
        if (command.has("message_id")) {
            made.setMessageId(Driver.text(command, "message_id"));
        }
        if (command.has("content_type")) {
            made.setContentType(Driver.text(command, "content_type"));
            made.setContentEncoding(Driver.text(command, "content_encoding"));
        }
        if (command.has("properties")) {
            for (Map.Entry<String, JsonElement> one
                    : command.getAsJsonObject("properties").entrySet()) {
                made.setProperty(one.getKey(), one.getValue().getAsString());
            }
        }
        return made;
    }
}
