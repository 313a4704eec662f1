"""Functions that numba compiles for this processor, and the folder that keeps the machine code between starts."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc

CACHE_VARIABLE: Final = "FAULTLINE_CACHE_DIR"
"""Environment variable that names the folder for compiled code."""

_NOTICE_SECONDS: Final = 1.0
"""Loading takes less, compiling takes more; only the latter is worth a line."""

Notify = Callable[[str], None]

_OPTIONS: Final = {"error_model": "numpy", "nogil": True}

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Decorator of functions that compiled functions call.

    Fast-math stays off: sums keep the order in which they are written, and products and sums are not contracted, so
    that every processor computes the same bits.
    """
    compiled: Function = numba.njit(**_OPTIONS)(function)
    return compiled


class Compiled:
    """A function of one signature that is compiled on first use, or loaded if an earlier start has compiled it."""

    def __init__(
        self,
        function: Callable[..., Any],
        signature: Any,
        sources: Sequence[Path],
        *,
        name: str | None = None,
        what: str = "a function",
    ) -> None:
        """`sources` are the files that the compiled code depends on; a change to any of them compiles again.

        Functions that one function of Python makes need a distinct `name` each; `what` it does is for people.
        """
        self.function = function
        self.signature = signature
        self.name = name or function.__name__
        self.what = what
        self.problem: str | None = None
        """Why the code could not be kept, or None."""
        self._sources = tuple(sources)
        self._lock = threading.Lock()
        self._compiled: Any = None

    @property
    def compiled(self) -> bool:
        """Whether that has been done in this process."""
        return self._compiled is not None

    def compile(self) -> Any:
        """What numba made of the function; the first call takes its time."""
        with self._lock:
            if self._compiled is None:
                kept = _Cache(self.function, self.name, cache_folder(os.environ), _digest(self._sources))
                self._compiled = self._compile(kept)
                self.problem = kept.problem
            return self._compiled

    def _compile(self, cache: _Cache) -> Any:
        raise NotImplementedError


class CompiledFunction(Compiled):
    """A function that Python calls."""

    def load(self, notify: Notify) -> Callable[..., Any]:
        """The compiled function; see `compile_all`."""
        compile_all([self], self.what, notify)
        called: Callable[..., Any] = self.compile()
        return called

    def _compile(self, cache: _Cache) -> Any:
        dispatcher: Any = numba.njit(**_OPTIONS)(self.function)
        dispatcher._cache = cache
        dispatcher.compile(self.signature)
        dispatcher.disable_compile()
        return dispatcher


class CompiledCallback(Compiled):
    """A function that other compiled functions call by its address."""

    @property
    def address(self) -> int:
        """Where the compiled function is in this process."""
        address: int = self.compile().address
        return address

    def _compile(self, cache: _Cache) -> Any:
        arguments, result = numba.core.sigutils.normalize_signature(self.signature)
        callback: Any = CFunc(self.function, (arguments, result), locals={}, options=dict(_OPTIONS))
        callback._cache = cache
        callback.compile()
        return callback


def compile_all(functions: Sequence[Compiled], what: str, notify: Notify) -> None:
    """Compile or load functions; `notify` gets a line if that takes time or the code cannot be kept."""
    functions = [function for function in functions if not function.compiled]
    if not functions:
        return
    notice = threading.Timer(_NOTICE_SECONDS, notify, [f"compiling {what} for this processor, once"])
    notice.daemon = True
    notice.start()
    try:
        for function in functions:
            function.compile()
    finally:
        notice.cancel()
    if problem := next((function.problem for function in functions if function.problem), None):
        notify(
            f"compiled code cannot be kept ({problem}), so each start compiles again; "
            f"set {CACHE_VARIABLE} to a folder that this user owns and can write"
        )


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where compiled code is kept: FAULTLINE_CACHE_DIR, or `faultline` in the user's cache folder."""
    if chosen := environment.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "faultline"  # noqa: PTH111


@cache
def _digest(sources: tuple[Path, ...]) -> str:
    """Of everything besides the processor that shapes the compiled code."""
    digest = hashlib.sha256()
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), sys.byteorder)
    digest.update(repr(versions).encode())
    for path in (Path(__file__), *sorted(sources)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types here
    """numba's cache in a folder of our choice, where a problem costs the next start some time and no more.

    Relies on numba's caching classes as they are in 0.62 to 0.68.
    """

    def __init__(self, function: Callable[..., Any], name: str, folder: Path, digest: str) -> None:
        self.problem: str | None = None
        self._folder = folder / digest[:16]

        class Locator(_CacheLocator):  # type: ignore[misc]
            def get_cache_path(locator) -> str:  # noqa: N805
                return str(self._folder)

            def get_source_stamp(locator) -> str:  # noqa: N805
                return digest

            def get_disambiguator(locator) -> str:  # noqa: N805
                return name

            @classmethod
            def from_function(cls, py_func: Any, py_file: str) -> Locator:
                return cls()

        class Impl(CompileResultCacheImpl):  # type: ignore[misc]
            _locator_classes = (Locator,)

        self._impl_class = Impl
        super().__init__(function)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # numba's own key has the function's bytecode and what it closes over, which differs from process to process;
        # the folder's name already depends on all sources.
        return sig, codegen.magic_tuple()

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
        """Keep the code, or set `problem` to why that cannot be done."""
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
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0):
        return f"{folder} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written by other users"
    return None
