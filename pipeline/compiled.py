"""Functions that numba compiles for this processor, and the folder that keeps the machine code between starts."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

CACHE_VARIABLE: Final = "FAULTLINE_CACHE_DIR"
"""Environment variable that names the folder for compiled code."""

_NOTICE_SECONDS: Final = 1.0
"""Loading takes less, compiling takes more; only the latter is worth a line."""

Notify = Callable[[str], None]

kernel = numba.njit(error_model="numpy", nogil=True)
"""Decorator of functions that compiled functions call. Fast-math stays off: sums keep the order in which they are
written, and products and sums are not contracted, so that every processor computes the same bits."""


class CompiledFunction:
    """A function of one signature, compiled on first use, or loaded if an earlier start has compiled it."""

    def __init__(self, function: Callable[..., Any], signature: str, sources: Sequence[Path]) -> None:
        """`sources` are the files that the compiled code depends on; a change to any of them compiles again."""
        self._function = function
        self._signature = signature
        self._sources = sources
        self._lock = threading.Lock()
        self._compiled: Callable[..., Any] | None = None

    def load(self, notify: Notify) -> Callable[..., Any]:
        """The compiled function; `notify` gets a line if compiling takes time or its result cannot be kept."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile(notify)
            return self._compiled

    def _compile(self, notify: Notify) -> Callable[..., Any]:
        dispatcher: Any = numba.njit(error_model="numpy", nogil=True)(self._function)
        cache = _Cache(self._function, cache_folder(os.environ), _digest(self._sources))
        dispatcher._cache = cache
        notice = threading.Timer(
            _NOTICE_SECONDS, notify, [f"compiling {self._function.__name__} for this processor; once, up to 20 s"]
        )
        notice.daemon = True
        notice.start()
        try:
            dispatcher.compile(self._signature)
        finally:
            notice.cancel()
        dispatcher.disable_compile()
        if cache.problem is not None:
            notify(
                f"compiled code cannot be kept ({cache.problem}), so each start compiles again; "
                f"set {CACHE_VARIABLE} to a folder that this user owns and can write"
            )
        compiled: Callable[..., Any] = dispatcher
        return compiled


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where compiled code is kept: FAULTLINE_CACHE_DIR, or `faultline` in the user's cache folder."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "faultline"  # noqa: PTH111


def _digest(sources: Sequence[Path]) -> str:
    """Of everything besides the processor that shapes the compiled code."""
    digest = hashlib.sha256()
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), sys.byteorder)
    digest.update(repr(versions).encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types here
    """numba's cache in a folder of our choice, where a problem costs the next start some time and no more.

    Relies on numba's caching classes as they are in 0.62 to 0.68.
    """

    def __init__(self, function: Callable[..., Any], folder: Path, digest: str) -> None:
        self.problem: str | None = None
        """Why the code could not be kept, or None."""
        self._folder = folder / digest[:16]

        class Locator(_CacheLocator):  # type: ignore[misc]
            def get_cache_path(locator) -> str:  # noqa: N805
                return str(self._folder)

            def get_source_stamp(locator) -> str:  # noqa: N805
                return digest

            def get_disambiguator(locator) -> str:  # noqa: N805
                return ""

            @classmethod
            def from_function(cls, py_func: Any, py_file: str) -> Locator:
                return cls()

        class Impl(CompileResultCacheImpl):  # type: ignore[misc]
            _locator_classes = (Locator,)

        self._impl_class = Impl
        super().__init__(function)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kept code; None if there is none that can be used."""
        if not self._folder.is_dir():
            return None
        # The files are unpickled and run, so nobody else may have written them.
        self.problem = _untrusted(self._folder)
        try:
            return None if self.problem else super().load_overload(sig, target_context)
        except Exception:  # a file that was cut short or damaged raises anything; compiling replaces it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code, or say in `problem` why that cannot be done."""
        if self.problem is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (problem := _untrusted(self._folder)) is not None:
                self.problem = problem
                return
            super().save_overload(sig, data)
        except OSError as error:
            self.problem = f"{self._folder}: {error.strerror or error}"


def _untrusted(folder: Path) -> str | None:
    """Why files in this folder should not be run, or None."""
    if not hasattr(os, "getuid"):
        return None
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0):
        return f"{folder} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written by other users"
    return None
