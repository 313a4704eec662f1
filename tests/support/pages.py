"""Pages of the documentation as tests read them."""

from __future__ import annotations

import re


def blocks(language: str, text: str) -> list[str]:
    """A page's blocks of code in one language; `""` is that of output."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for name, code in found if name == language]
