"""An MQTT broker's messages, kept there until they are acknowledged: QoS 1, a persistent session, manual acks.

paho-mqtt is the client because it lets an application acknowledge a message when it is done with it. Its network
thread fills an inbox; everything else happens in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agents.kafka.security import mqtt_password
from pipeline.config.settings import Settings
from pipeline.errors import AuthorizationError, BrokerUnavailableError, FaultlineError, SettingsError

log = logging.getLogger("faultline.mqtt")

_ADDRESS = re.compile(r"(mqtts?)://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?/?")
_PORTS = {"mqtt": 1883, "mqtts": 8883}

_START_SECONDS = 10.0
"""How long the broker may take to answer the first connection and subscription."""

_RECEIVE_MAXIMUM = 2_000
"""Messages that the broker may send without an acknowledgement."""

_INBOX = 20_000
"""Messages that may wait here; only those of QoS 0, which nobody has promised anything about, can be more."""

_RECONNECT_SECONDS = (1, 30)
_SHORT_SECONDS = 5.0
_SHORT_CONNECTIONS = 3
"""So many connections of less than these seconds, one after the other, are no accident."""

_KEEPALIVE_SECONDS = 30

_REFUSALS = {
    "Unsupported protocol version": "it has to speak MQTT 5",
    "Client identifier not valid": "set FAULTLINE_MQTT_CLIENT_ID",
} | dict.fromkeys(
    ("Bad user name or password", "Not authorized", "Banned", "Bad authentication method"),
    "check FAULTLINE_MQTT_USERNAME and FAULTLINE_MQTT_PASSWORD_FILE",
)
"""What the broker may say that no second attempt would change, and what to do about it."""

_NO_RETAINED = 2


class MqttAddress(NamedTuple):
    """Where an MQTT broker listens."""

    tls: bool
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> MqttAddress:
        """From mqtt://host[:port] or mqtts://host[:port]; raises SettingsError."""
        if "@" in url:  # which is not repeated: what stands before it may be a password
            raise SettingsError(
                "--mqtt holds an '@'; a login belongs in FAULTLINE_MQTT_USERNAME and FAULTLINE_MQTT_PASSWORD_FILE"
            )
        match = _ADDRESS.fullmatch(url)
        port = 0 if match is None else int(match[3] or _PORTS[match[1]])
        if match is None or not 0 < port < 65_536:
            raise SettingsError(f"--mqtt {url!r} is neither mqtt://host[:port] nor mqtts://host[:port]")
        return cls(match[1] == "mqtts", match[2].strip("[]"), port)

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


class Message(NamedTuple):
    """One message, and what is needed to acknowledge it."""

    topic: str
    payload: bytes
    arrived_ms: int
    mid: int
    qos: int
    connection: int


class MqttInbox:
    """Subscribes, and hands over messages in the order in which they came."""

    def __init__(self, address: MqttAddress, filters: Sequence[str], settings: Settings) -> None:
        """`settings.group` is ingest's own group."""
        self.connected = False
        self.dropped = 0
        self.client_id = settings.mqtt_client_id or settings.group
        self.failure: FaultlineError | None = None
        """Why this connection is over for good, if it is."""
        self._address = address
        self._tls = _tls(settings) if address.tls else None
        self._filters = tuple(filters)
        self._settings = settings
        self._messages: deque[Message] = deque()
        self._connection = 0  # counts them: an acknowledgement belongs to the one that brought the message
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._subscribed = False
        self._connected_at = 0.0
        self._short_connections = 0  # in a row
        self._problem = "it does not answer"
        self._client = self._new_client()

    def _new_client(self) -> Client:
        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2, self.client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        if settings.mqtt_username is not None:
            client.username_pw_set(settings.mqtt_username, mqtt_password(settings))
        if self._tls is not None:
            client.tls_set_context(self._tls)
        elif settings.mqtt_cafile is not None or settings.mqtt_certfile is not None:
            name = "MQTT_CAFILE" if settings.mqtt_cafile is not None else "MQTT_CERTFILE"
            raise SettingsError(
                f"FAULTLINE_{name} is set, but {self._address} does not encrypt; give --mqtt mqtts://..., or unset it"
            )
        client.reconnect_delay_set(*_RECONNECT_SECONDS)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    # -- in the event loop --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and subscribe; raises BrokerUnavailableError or AuthorizationError."""
        await self._require_listener()
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._settings.mqtt_session_expiry_ms // 1000
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        self._client.connect_async(
            self._address.host, self._address.port, _KEEPALIVE_SECONDS, clean_start=False, properties=properties
        )
        self._client.loop_start()
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._subscribed and self.failure is None:
                    await self._change()
        except TimeoutError:
            self.failure = BrokerUnavailableError(f"no MQTT broker at {self._address}: {self._problem}")
        if self.failure is not None:
            await self.stop()
            raise self.failure

    async def _require_listener(self) -> None:
        # paho does not say why it cannot connect.
        try:
            async with asyncio.timeout(_START_SECONDS):
                _, writer = await asyncio.open_connection(self._address.host, self._address.port, ssl=self._tls)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()
            raise AuthorizationError(
                f"no TLS with the MQTT broker at {self._address}: {reason}; FAULTLINE_MQTT_CAFILE must contain the CA "
                "that signed its certificate, and the port must be one with TLS"
            ) from error
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise BrokerUnavailableError(f"no MQTT broker at {self._address}: {reason}") from error

    async def messages(self, at_most: int) -> list[Message]:
        """The next messages, as soon as there are any; empty if the connection is over for good."""
        while not self._messages and self.failure is None:
            await self._change()
        return [self._messages.popleft() for _ in range(min(at_most, len(self._messages)))]

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """The broker may forget these; those of a former connection come again."""
        for message in messages:
            if message.connection == self._connection:
                self._client.ack(message.mid, message.qos)

    async def stop(self) -> None:
        """Disconnect; the broker keeps the session, and what comes for it."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    @property
    def waiting(self) -> int:
        """Messages that have been received and not handed over."""
        return len(self._messages)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- in paho's network thread -------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._loop.call_soon_threadsafe(self._changed.set)

    def _fail(self, error: FaultlineError) -> None:
        self.failure = self.failure or error
        self._tell()

    def _on_connect(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._problem = f"it refuses the connection: {reason}"
            if (hint := _REFUSALS.get(str(reason))) is not None:
                text = f"the MQTT broker at {self._address} refuses the connection: {reason}; {hint}"
                self._fail(AuthorizationError(text))
            return
        if self._subscribed:
            log.warning(
                "connected to %s again%s", self._address, "" if flags.session_present else ", without a session"
            )
        # Retained messages are repeats of what came while this session already existed, with times long past.
        options = SubscribeOptions(qos=1, retainHandling=_NO_RETAINED)
        client.subscribe([(name, options) for name in self._filters])

    def _on_connect_fail(self, *_: Any) -> None:
        self._problem = "nothing listens there, or TLS fails"

    def _on_disconnect(
        self, _: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        was_short = self.connected and time.monotonic() - self._connected_at < _SHORT_SECONDS
        self._short_connections = self._short_connections + 1 if was_short else 0
        self.connected = False
        self._connection += 1
        # Not every broker says why it gives one client's session to another.
        if str(reason) == "Session taken over" or self._short_connections >= _SHORT_CONNECTIONS:
            self._fail(
                FaultlineError(
                    f"{self._address} ends each connection of client {self.client_id!r} at once; if another client "
                    "has this name, give each its own FAULTLINE_MQTT_CLIENT_ID"
                )
            )
        elif self._subscribed and reason.is_failure:
            log.warning("lost the connection to %s: %s; connecting again", self._address, reason)

    def _on_subscribe(
        self, _: Client, __: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [name for name, reason in zip(self._filters, reasons, strict=True) if reason.is_failure]
        if refused:
            self._fail(
                AuthorizationError(
                    f"the MQTT broker at {self._address} refuses to send {', '.join(refused)}; allow this user to "
                    "read it"
                )
            )
            return
        if not self._subscribed:
            log.info("subscribed to %s at %s", ", ".join(self._filters), self._address)
        self._subscribed = self.connected = True
        self._connected_at = time.monotonic()
        self._tell()

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        if message.qos == 0 and len(self._messages) >= _INBOX:
            self.dropped += 1
            return
        arrived_ms = int(time.time() * 1000)
        self._messages.append(
            Message(message.topic, bytes(message.payload), arrived_ms, message.mid, message.qos, self._connection)
        )
        self._tell()


def first_match(filters: Sequence[str], topic: str) -> str | None:
    """The first filter that takes a topic."""
    for name in filters:
        if topic_matches_sub(name.split("/", 2)[2] if name.startswith("$share/") else name, topic):
            return name
    return None


def _tls(settings: Settings) -> ssl.SSLContext:
    cafile, certfile = settings.mqtt_cafile, settings.mqtt_certfile
    try:
        context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"FAULTLINE_MQTT_CAFILE {cafile}: {error}; it must be a PEM certificate") from error
    if certfile is not None:
        try:
            context.load_cert_chain(certfile, password="")
        except OSError as error:
            raise SettingsError(
                f"FAULTLINE_MQTT_CERTFILE {certfile}: {error}; it must be PEM and hold certificate and key"
            ) from error
    return context
