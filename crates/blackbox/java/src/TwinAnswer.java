import com.microsoft.azure.sdk.iot.device.IotHubStatusCode;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.device.exceptions.IotHubClientException;
import com.microsoft.azure.sdk.iot.device.transport.IotHubTransportMessage;
import com.microsoft.azure.sdk.iot.device.twin.GetTwinCorrelatingMessageCallback;
import com.microsoft.azure.sdk.iot.device.twin.ReportedPropertiesUpdateCorrelatingMessageCallback;
import com.microsoft.azure.sdk.iot.device.twin.ReportedPropertiesUpdateResponse;
import com.microsoft.azure.sdk.iot.device.twin.Twin;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * The answer to one twin request.
 *
 * <p>The SDK hands an answer out twice, from two threads that race: its receive task calls
 * {@code onResponseAcknowledged} and forgets the request, and if that comes before the thread of
 * the MQTT client looks the request up, {@code onResponseReceived} is never called and
 * {@code getTwin()} and {@code updateReportedProperties()} wait out their minute for an answer that
 * is there. Here the first of the two counts, so a call fails only if the hub did not answer.
 */
final class TwinAnswer
        implements GetTwinCorrelatingMessageCallback,
                ReportedPropertiesUpdateCorrelatingMessageCallback {
    /** What the SDK's own calls wait, in seconds. */
    private static final long LONGEST_SECONDS = 60;

    private final CompletableFuture<Message> answer = new CompletableFuture<>();

    @Override
    public void onRequestQueued(Message message, Object context) {}

    @Override
    public void onRequestSent(Message message, Object context) {}

    @Override
    public void onRequestAcknowledged(
            Message message, Object context, IotHubClientException failure) {
        if (failure != null) {
            answer.completeExceptionally(failure);
        }
    }

    @Override
    public void onResponseReceived(Twin twin, Message message, Object context,
            IotHubStatusCode status, IotHubClientException failure) {
        answer.complete(message);
    }

    @Override
    public void onResponseReceived(Message message, Object context, IotHubStatusCode status,
            ReportedPropertiesUpdateResponse response, IotHubClientException failure) {
        answer.complete(message);
    }

    @Override
    public void onResponseAcknowledged(Message message, Object context) {
        answer.complete(message);
    }

    /** Waits for it; fails unless the hub said yes. */
    Message await() throws Exception {
        Message message = answer.get(LONGEST_SECONDS, TimeUnit.SECONDS);
        String said = ((IotHubTransportMessage) message).getStatus();
        IotHubStatusCode status = IotHubStatusCode.getIotHubStatusCode(Integer.parseInt(said));
        if (!IotHubStatusCode.isSuccessful(status)) {
            throw new IotHubClientException(status, "the hub refused with " + said);
        }
        return message;
    }
}
