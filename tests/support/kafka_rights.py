"""The rights that docs/operations/security.md asks for, given to users of the tests' broker and taken away again."""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from agents.bench.local_kafka.broker import BROKER_PASSWORD, BROKER_USER, KafkaBroker

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations" / "security.md"


class Right(NamedTuple):
    """One operation on one resource for one user."""

    user: str
    operation: str
    kind: str
    name: str
    prefixed: bool = False

    def acl(self) -> ACL:
        """As kafka-python wants it."""
        operation = ACLOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.operation).upper()]
        pattern = ACLResourcePatternType.PREFIXED if self.prefixed else ACLResourcePatternType.LITERAL
        resource = ResourcePattern(ResourceType[self.kind.upper()], self.name, pattern)
        return ACL(f"User:{self.user}", "*", operation, ACLPermissionType.ALLOW, resource)


def documented_rights() -> list[Right]:
    """The options of kafka-acls.sh in the document's block, one right for each operation."""
    found = re.search(r"```acls\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{DOCUMENT} has no block of ACLs"
    parser = argparse.ArgumentParser()
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    resource = parser.add_mutually_exclusive_group(required=True)
    resource.add_argument("--topic")
    resource.add_argument("--group")
    resource.add_argument("--transactional-id")
    parser.add_argument("--resource-pattern-type", choices=["literal", "prefixed"], default="literal")
    rights = []
    for line in found[1].splitlines():
        if not (words := shlex.split(line, comments=True)):
            continue
        options = parser.parse_args(words)
        user = options.allow_principal.removeprefix("User:")
        given = {"topic": options.topic, "group": options.group, "transactional_id": options.transactional_id}
        kind, name = next((kind, name) for kind, name in given.items() if name is not None)
        prefixed = options.resource_pattern_type == "prefixed"
        rights += [Right(user, operation, kind, name, prefixed) for operation in options.operation]
    return rights


class Rights:
    """What the broker allows whom; a change counts when the call returns, for open connections too."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._admin = KafkaAdminClient(
            bootstrap_servers=broker.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_plain_username=BROKER_USER,
            sasl_plain_password=BROKER_PASSWORD,
        )

    def give(self, rights: Iterable[Right]) -> None:
        """Give rights."""
        acls = [right.acl() for right in rights]
        assert not self._admin.create_acls(acls)["failed"]
        self._wait(acls, given=True)

    def take(self, rights: Iterable[Right]) -> None:
        """Take rights away that were given."""
        acls = [right.acl() for right in rights]
        for _, taken, _ in self._admin.delete_acls(acls):
            assert taken
        self._wait(acls, given=False)

    def _wait(self, acls: list[ACL], *, given: bool) -> None:
        # The controller has written it down; the broker learns of it a moment later.
        until = time.monotonic() + 30
        for acl in acls:
            while bool(self._admin.describe_acls(acl)[0]) != given:
                assert time.monotonic() < until, f"no effect: {acl}"
                time.sleep(0.01)

    @contextmanager
    def without(self, *rights: Right) -> Iterator[None]:
        """Take rights away for a while."""
        self.take(rights)
        try:
            yield
        finally:
            self.give(rights)

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()
