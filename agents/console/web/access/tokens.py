"""The tokens that people log in with: a file of names, each with a secret."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from pipeline.errors import SettingsError

MIN_TOKEN_CHARACTERS: Final = 16
"""What can be guessed is no token."""

MAX_NAME_CHARACTERS: Final = 100
_MAX_FILE_BYTES: Final = 1_000_000


class Tokens:
    """Names of people and the digests of their tokens; the tokens themselves are not kept."""

    def __init__(self, tokens: dict[str, str]) -> None:
        """`tokens` by name."""
        self._digests = {name: _digest(token) for name, token in tokens.items()}

    def owner(self, token: str) -> str | None:
        """Whose token it is. All are compared, each in constant time, so that how long it takes tells nothing."""
        digest, found = _digest(token), None
        for name, own in self._digests.items():
            if hmac.compare_digest(digest, own):
                found = name
        return found

    def has(self, name: str) -> bool:
        """Whether somebody of this name has a token."""
        return name in self._digests


def read_tokens(path: Path) -> Tokens:
    """Read a file with `name:token` on each line, `#` before comments; raises SettingsError, which shows no token."""
    where = f"FAULTLINE_CONSOLE_TOKEN_FILE {path}"
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SettingsError(f"{where}: has more than {_MAX_FILE_BYTES:,} bytes; it should hold lines of name:token")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise SettingsError(f"{where}: {reason}") from None
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, token = (part.strip() for part in line.partition(":"))
        if not colon or not is_name(name):
            raise SettingsError(f"{where}, line {number}: is not of the form name:token")
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise SettingsError(
                f"{where}, line {number}: the token of {name} has fewer than {MIN_TOKEN_CHARACTERS} characters; take a "
                "random one, such as from `openssl rand -hex 24`"
            )
        if name in tokens or token in tokens.values():
            raise SettingsError(f"{where}, line {number}: {name} or this token is there twice; remove one")
        tokens[name] = token
    if not tokens:
        raise SettingsError(f"{where}: has no token; write a line name:token for each person")
    return Tokens(tokens)


def is_name(text: str) -> bool:
    """Whether a text can be somebody's name in records and logs."""
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable() and text == text.strip()


def _digest(token: str) -> bytes:
    # Tokens are long and random, so that a fast digest is enough: nobody can try all that there are.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
