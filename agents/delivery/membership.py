"""Why a process cannot be a member of its consumer group, or read a topic, in words that say what to do."""

from __future__ import annotations

from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from pipeline.errors import AuthorizationError, DeliveryError, FaultlineError, GroupInUseError, SettingsError

_OTHER_PROTOCOL = 23  # Kafka's error codes
_SESSION_TIMEOUT = 26


def membership_error(
    error: BaseException, group: str, session_timeout_s: float, instance_id: str | None = None
) -> FaultlineError:
    """What aiokafka's error means for a member of this group; `instance_id` is its FAULTLINE_GROUP_INSTANCE_ID."""
    if isinstance(error, GroupAuthorizationFailedError | TopicAuthorizationFailedError):
        what = "reading topic" if isinstance(error, TopicAuthorizationFailedError) else "the consumer group"
        name = ", ".join(str(part) for part in error.args) or group
        return AuthorizationError(
            f"the Kafka broker refuses {what} {name}; grant this user Read on it (docs/operations/security.md)"
        )
    own_group = "give each application a group of its own (FAULTLINE_GROUP)"
    if getattr(error, "errno", None) == _OTHER_PROTOCOL:
        return GroupInUseError(
            f"consumer group {group} is used by another application, which shares out partitions in another way; "
            f"{own_group}, or stop the other"
        )
    if getattr(error, "errno", None) == _SESSION_TIMEOUT:
        return SettingsError(
            f"the broker does not take a session timeout of {session_timeout_s:g} s; set FAULTLINE_SESSION_TIMEOUT_MS "
            "between its group.min.session.timeout.ms and group.max.session.timeout.ms"
        )
    if "unsubscribed topic" in str(error):  # an assertion of aiokafka
        return GroupInUseError(
            f"consumer group {group} is used by an application that reads other topics, or by a worker with another "
            f"profile ({error}); {own_group}"
        )
    same = "" if instance_id is None else f", and each process a FAULTLINE_GROUP_INSTANCE_ID other than {instance_id}"
    return DeliveryError(
        f"cannot be a member of consumer group {group}: {error}; if another application uses it, {own_group}{same}"
    )
