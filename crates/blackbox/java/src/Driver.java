import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.ToNumberPolicy;
import com.google.gson.reflect.TypeToken;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.Map;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * A client on an unmodified Azure SDK for Java, driven by a test: one JSON command a line in, one
 * JSON line per answer and per event out.
 */
final class Driver {
    /** Carries out one command; what it gives is the answer's value. */
    interface Work {
        Object carryOut(JsonObject command) throws Exception;
    }

    static final Gson GSON = new GsonBuilder()
            .serializeNulls()
            .disableHtmlEscaping()
            .setObjectToNumberStrategy(ToNumberPolicy.LONG_OR_DOUBLE)
            .create();

    // SDKs print to standard output; events go where nobody else writes.
    private static final PrintStream OUT = new PrintStream(
            new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);

    private Driver() {}

    static String connectionString() {
        return System.getenv("DEVICE_CONNECTION_STRING");
    }

    /** Trust in the authority that `options` names and in no other. */
    static SSLContext trust(String options) throws Exception {
        String path = JsonParser.parseString(options).getAsJsonObject().get("ca").getAsString();
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = new FileInputStream(path)) {
            int number = 0;
            for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                store.setCertificateEntry("ca" + number++, one);
            }
        }
        TrustManagerFactory managers =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static synchronized void say(String event, JsonObject fields) {
        fields.addProperty("event", event);
        OUT.println(GSON.toJson(fields));
    }

    /** Answers commands until the input ends. */
    static void run(Work work) throws Exception {
        System.setOut(System.err);
        BufferedReader input =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            JsonObject command = JsonParser.parseString(line).getAsJsonObject();
            JsonObject answer = new JsonObject();
            answer.add("id", command.get("id"));
            try {
                answer.add("value", json(work.carryOut(command)));
                say("done", answer);
            } catch (Exception failure) {
                // The test decides what a failure means.
                answer.addProperty("error", failure.toString());
                failure.printStackTrace();
                say("failed", answer);
            }
        }
    }

    static JsonElement json(Object value) {
        return GSON.toJsonTree(value);
    }

    static String text(JsonObject command, String name) {
        JsonElement value = command.get(name);
        return value == null || value.isJsonNull() ? null : value.getAsString();
    }

    /** A JSON object as the maps and lists that SDKs take. */
    static Map<String, Object> map(JsonElement value) {
        return GSON.fromJson(value, new TypeToken<Map<String, Object>>() {}.getType());
    }

    /** Any JSON as what SDKs take. */
    static Object plain(JsonElement value) {
        return GSON.fromJson(value, Object.class);
    }
}
