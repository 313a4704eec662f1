import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

/** As services do: topics whose names begin with "capped" get no more than 8 MiB a record. */
public class CappedTopics implements CreateTopicPolicy {
    private static final long MOST = 8L << 20;

    @Override
    public void validate(RequestMetadata request) throws PolicyViolationException {
        String wanted = request.configs().get("max.message.bytes");
        if (request.topic().startsWith("capped") && wanted != null && Long.parseLong(wanted) > MOST) {
            throw new PolicyViolationException("max.message.bytes may be " + MOST + " at most");
        }
    }

    @Override
    public void configure(Map<String, ?> configs) {}

    @Override
    public void close() {}
}
