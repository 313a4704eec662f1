"""Signatures of notifications: HMAC-SHA256 over a time stamp and the body, as receivers check them."""

from __future__ import annotations

import hashlib
import hmac
import re

SIGNATURE_HEADER = "Faultline-Signature"

_SIGNATURE = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})")


def sign(secret: bytes, body: bytes, time_seconds: int) -> str:
    """The header's value: `t=`, the time, `,v1=` and the HMAC-SHA256 of `TIME.BODY` in hexadecimal digits."""
    digest = hmac.new(secret, b"%d.%s" % (time_seconds, body), hashlib.sha256).hexdigest()
    return f"t={time_seconds},v1={digest}"


def is_signed(secret: bytes, body: bytes, header: str, now_seconds: float, *, tolerance_seconds: float = 300) -> bool:
    """Whether a notification comes from who has the secret, and was sent lately: an old one may be sent again."""
    match = _SIGNATURE.fullmatch(header)
    if match is None or abs(now_seconds - int(match[1])) > tolerance_seconds:
        return False
    return hmac.compare_digest(sign(secret, body, int(match[1])), header)
