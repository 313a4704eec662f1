"""Who a request is from: somebody on this machine, a name that a proxy gives, or the owner of a token."""

from __future__ import annotations

import getpass
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal

from multidict import CIMultiDictProxy

from agents.console.web.access.attempts import Address, Attempts
from agents.console.web.access.names import HostNames, is_loopback, parsed_address
from agents.console.web.access.refusals import RefusedError
from agents.console.web.access.sessions import Session, Sessions
from agents.console.web.access.tokens import Tokens, is_name, read_tokens
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError

AccessKind = Literal["local", "proxy", "token"]
Network = IPv4Network | IPv6Network
Headers = CIMultiDictProxy[str]

_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""What a request has that came through a proxy."""

_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request is from."""

    user: str
    kind: AccessKind
    session: Session | None = None
    """What has to be alive for it, of somebody who has logged in."""
    is_bearer: bool = False
    """Whether the token came with the request itself, which no page of another site can do."""


class Access:
    """The rules of one console."""

    def __init__(
        self,
        *,
        names: HostNames,
        sessions: Sessions,
        attempts: Attempts,
        local_user: str | None = None,
        tokens: Tokens | None = None,
        user_header: str | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        """`local_user` is who everybody is that comes, on a console for this machine alone."""
        self.names = names
        self.sessions = sessions
        self.attempts = attempts
        self.kind: AccessKind = "local" if local_user is not None else "token" if tokens is not None else "proxy"
        self._local_user = local_user
        self._tokens = tokens
        self._user_header = user_header
        self._proxies = tuple(proxies)

    @property
    def has_login(self) -> bool:
        """Whether people can log in with tokens."""
        return self._tokens is not None

    def is_proxy(self, peer: Address | None) -> bool:
        """Whether a connection comes from a proxy that is trusted."""
        return peer is not None and any(peer in network for network in self._proxies)

    def client(self, peer: Address | None, headers: Headers) -> Address | None:
        """The address that a request comes from; behind a proxy that is trusted, the one that it names last."""
        if self.is_proxy(peer) and (given := headers.getall("X-Forwarded-For", [])):
            return parsed_address(given[-1].rpartition(",")[2].strip()) or peer
        return peer

    def scheme(self, peer: Address | None, headers: Headers) -> str | None:
        """By which scheme a browser comes to a proxy that is trusted, if that says so."""
        given = headers.getall("X-Forwarded-Proto", []) if self.is_proxy(peer) else []
        return given[0].strip().lower() if len(given) == 1 else None

    def identify(self, peer: Address | None, headers: Headers, session: Session | None) -> Identity | None:
        """Who a request is from; None of somebody unknown. Raises RefusedError of what is wrong and no mere absence."""
        if self._local_user is not None:
            if any(name in headers for name in _FORWARDED):
                raise RefusedError(
                    "proxy",
                    "this console is for people on its own machine, and the request came through a proxy",
                    do="start it with a token file, or with the header in which the proxy gives the user's name",
                )
            return Identity(self._local_user, "local")
        if self._tokens is not None and (given := headers.get("Authorization", ""))[: len(_BEARER)].lower() == _BEARER:
            return Identity(self.owner(given[len(_BEARER) :].strip(), self.client(peer, headers)), "token", None, True)
        if self._user_header is not None and self.is_proxy(peer):
            if (user := self._named_user(headers.getall(self._user_header, []))) is not None:
                return Identity(user, "proxy")
        elif self._tokens is None:
            raise RefusedError(
                "proxy",
                "this console answers only requests from its proxy",
                do="come by the proxy's address; FAULTLINE_CONSOLE_TRUSTED_PROXIES says which machines are one",
            )
        if session is not None and self._tokens is not None and self._tokens.has(session.user):
            return Identity(session.user, "token", session)
        return None

    def owner(self, token: str, client: Address | None) -> str:
        """Whose token it is; raises RefusedError of a wrong one, and of the next ones after several."""
        if (wait := self.attempts.wait_seconds(client)) > 0:
            raise RefusedError(
                "too_many_attempts",
                "too many wrong tokens came from this address",
                do=f"wait {wait:.0f} s",
                headers={"Retry-After": str(int(wait) + 1)},
            )
        found = None if self._tokens is None else self._tokens.owner(token)
        if found is None:
            self.attempts.fail(client)
            raise RefusedError(
                "wrong_token", "this token is not known here", do="check it; it is read when the console starts"
            )
        return found

    def _named_user(self, given: Sequence[str]) -> str | None:
        if not given:
            return None
        if len(given) > 1 or not is_name(given[0]):
            raise RefusedError(
                "proxy",
                f"the header {self._user_header} does not hold one name",
                do="let the proxy set it to the user's name, and drop the one that a browser sends",
            )
        return given[0]


def access_of(settings: Settings, seconds: Callable[[], float] = time.monotonic) -> Access:
    """The rules that the settings ask for, on a clock; raises SettingsError where they would let anybody in."""
    host, header = settings.console_web_host, settings.console_user_header
    tokens = None if settings.console_token_file is None else read_tokens(settings.console_token_file)
    if tokens is None and header is None and not is_loopback(host):
        raise SettingsError(
            f"the console would let in everybody who reaches {host}; set FAULTLINE_CONSOLE_TOKEN_FILE, or "
            "FAULTLINE_CONSOLE_USER_HEADER and FAULTLINE_CONSOLE_TRUSTED_PROXIES, or listen on 127.0.0.1"
        )
    is_local = tokens is None and header is None
    names = [*_listed(settings.console_names), *(() if is_loopback(host) else (socket.gethostname(), host))]
    return Access(
        names=HostNames(names),
        sessions=Sessions(secrets.token_bytes, seconds, settings.console_session_ms / 1000),
        attempts=Attempts(seconds),
        local_user=(settings.console_user or _login_name()) if is_local else None,
        tokens=tokens,
        user_header=header,
        proxies=[_network(text) for text in _listed(settings.console_trusted_proxies)],
    )


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise SettingsError(
            f"FAULTLINE_CONSOLE_TRUSTED_PROXIES {text!r}: {error}; write addresses or networks, such as 10.0.0.0/24"
        ) from None


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _login_name() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have none
        name = ""
    return name if is_name(name) else "operator"
