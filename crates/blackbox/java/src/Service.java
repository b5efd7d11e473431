import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.microsoft.azure.sdk.iot.service.auth.AuthenticationType;
import com.microsoft.azure.sdk.iot.service.auth.SymmetricKey;
import com.microsoft.azure.sdk.iot.service.configurations.ConfigurationContent;
import com.microsoft.azure.sdk.iot.service.configurations.ConfigurationsClient;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodRequestOptions;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodResponse;
import com.microsoft.azure.sdk.iot.service.methods.DirectMethodsClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.registry.DeviceStatus;
import com.microsoft.azure.sdk.iot.service.registry.Module;
import com.microsoft.azure.sdk.iot.service.registry.RegistryClient;
import com.microsoft.azure.sdk.iot.service.registry.RegistryIdentity;
import com.microsoft.azure.sdk.iot.service.twin.DeviceCapabilities;
import com.microsoft.azure.sdk.iot.service.twin.Twin;
import com.microsoft.azure.sdk.iot.service.twin.TwinClient;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import javax.net.ssl.SSLContext;

/** A back end on the unmodified Azure service SDK for Java. */
final class Service {
    private static RegistryClient registry;
    private static TwinClient twins;
    private static DirectMethodsClient methods;
    private static ConfigurationsClient configurations;

    public static void main(String[] args) throws Exception {
        // Its HTTP client is Java's own, which asks the process whom to trust.
        SSLContext.setDefault(Driver.trust(args[0]));
        registry = new RegistryClient(Driver.connectionString());
        twins = new TwinClient(Driver.connectionString());
        methods = new DirectMethodsClient(Driver.connectionString());
        configurations = new ConfigurationsClient(Driver.connectionString());
        Driver.run(Service::carryOut);
        System.exit(0);
    }

    private static Object carryOut(JsonObject command) throws Exception {
        String device = Driver.text(command, "device");
        String module = Driver.text(command, "module");
        switch (Driver.text(command, "do")) {
            case "create": {
                Device made = Driver.text(command, "thumbprint") == null
                        ? new Device(device)
                        : new Device(device, AuthenticationType.SELF_SIGNED);
                return shown(registry.addDevice(filled(made, command)));
            }
            case "get":
                return shown(registry.getDevice(device));
            case "update":
                return shown(registry.updateDevice(filled(registry.getDevice(device), command)));
            case "delete":
                registry.removeDevice(device);
                return null;
            case "delete as read":
                registry.removeDevice(registry.getDevice(device));
                return null;
            case "create module": {
                Module made = new Module(device, module);
                if (command.has("primaryKey")) {
                    made.setSymmetricKey(keys(command));
                }
                return shown(registry.addModule(made));
            }
            case "get module":
                return shown(registry.getModule(device, module));
            case "update module": {
                Module held = registry.getModule(device, module);
                held.setSymmetricKey(keys(command));
                return shown(registry.updateModule(held));
            }
            case "modules": {
                List<String> names = new ArrayList<>();
                registry.getModulesOnDevice(device).forEach(one -> names.add(one.getId()));
                return names;
            }
            case "delete module":
                registry.removeModule(device, module);
                return null;
            case "statistics": {
                var counted = registry.getStatistics();
                return List.of(counted.getTotalDeviceCount(), counted.getEnabledDeviceCount(),
                        counted.getDisabledDeviceCount());
            }
            case "twin":
                return shown(module == null ? twins.get(device) : twins.get(device, module));
            case "patch": {
                Twin patch = written(device, module, command);
                String etag = Driver.text(command, "etag");
                return shown(etag == null ? twins.patch(patch) : twins.patch(patch, etag));
            }
            case "replace": {
                Twin whole = written(device, module, command);
                String etag = Driver.text(command, "etag");
                return shown(etag == null ? twins.replace(whole) : twins.replace(whole, etag));
            }
            case "method":
                return invoked(device, module, command);
            case "apply": {
                ConfigurationContent content = new ConfigurationContent();
                @SuppressWarnings({"unchecked", "rawtypes"})
                Map<String, Map<String, Object>> modules =
                        (Map) Driver.map(command.get("modulesContent"));
                content.setModulesContent(modules);
                configurations.applyConfigurationContentOnDevice(device, content);
                return null;
            }
            default:
                throw new IllegalArgumentException("unknown command " + command);
        }
    }

    private static Device filled(Device device, JsonObject command) {
        if (command.has("status")) {
            device.setStatus(DeviceStatus.valueOf(Driver.text(command, "status")));
        }
        if (command.has("primaryKey")) {
            device.setSymmetricKey(keys(command));
        }
        if (command.has("thumbprint")) {
            String thumbprint = Driver.text(command, "thumbprint");
            device.setThumbprint(thumbprint, thumbprint);
        }
        if (command.has("edge")) {
            DeviceCapabilities capabilities = new DeviceCapabilities();
            capabilities.setIotEdge(true);
            device.setCapabilities(capabilities);
        }
        return device;
    }

    private static SymmetricKey keys(JsonObject command) {
        SymmetricKey keys = new SymmetricKey();
        keys.setPrimaryKey(Driver.text(command, "primaryKey"));
        keys.setSecondaryKey(Driver.text(command, "secondaryKey"));
        return keys;
    }

    private static Twin written(String device, String module, JsonObject command) {
        Twin twin = module == null ? new Twin(device) : new Twin(device, module);
        if (command.has("tags")) {
            twin.getTags().putAll(Driver.map(command.get("tags")));
        }
        if (command.has("desired")) {
            twin.getDesiredProperties().putAll(Driver.map(command.get("desired")));
        }
        return twin;
    }

    private static Object invoked(String device, String module, JsonObject command)
            throws Exception {
        String name = Driver.text(command, "name");
        DirectMethodRequestOptions options = DirectMethodRequestOptions.builder()
                .payload(Driver.plain(command.get("payload")))
                .methodResponseTimeoutSeconds(30)
                .methodConnectTimeoutSeconds(5)
                .build();
        DirectMethodResponse answer = module == null
                ? methods.invoke(device, name, options)
                : methods.invoke(device, module, name, options);
        JsonObject shown = new JsonObject();
        shown.addProperty("status", answer.getStatus());
        shown.add("payload", answer.getPayloadAsJsonElement());
        return shown;
    }

    private static JsonElement shown(RegistryIdentity identity) {
        JsonObject shown = new JsonObject();
        shown.addProperty("deviceId", identity.getDeviceId());
        shown.addProperty("etag", identity.getETag());
        shown.addProperty("generationId", identity.getGenerationId());
        shown.addProperty("type", String.valueOf(identity.getAuthenticationType()));
        shown.addProperty("primaryKey", identity.getPrimaryKey());
        shown.addProperty("secondaryKey", identity.getSecondaryKey());
        shown.addProperty("thumbprint", identity.getPrimaryThumbprint());
        shown.addProperty("connection", String.valueOf(identity.getConnectionState()));
        if (identity instanceof Device device) {
            shown.addProperty("status", String.valueOf(device.getStatus()));
            DeviceCapabilities capabilities = device.getCapabilities();
            shown.addProperty("edge", capabilities != null && capabilities.isIotEdge());
        }
        if (identity instanceof Module module) {
            shown.addProperty("moduleId", module.getId());
            shown.addProperty("managedBy", module.getManagedBy());
        }
        return shown;
    }

    private static JsonElement shown(Twin twin) {
        JsonObject shown = new JsonObject();
        shown.addProperty("deviceId", twin.getDeviceId());
        shown.addProperty("moduleId", twin.getModuleId());
        shown.addProperty("etag", twin.getETag());
        shown.add("tags", Driver.json(twin.getTags()));
        shown.add("desired", Driver.json(twin.getDesiredProperties()));
        shown.add("reported", Driver.json(twin.getReportedProperties()));
        return shown;
    }
}
