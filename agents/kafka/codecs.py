"""The compression codecs of Kafka, all of which have to be readable: any producer may choose one."""

from __future__ import annotations

from pipeline.errors import MissingExtraError
from pipeline.extras import is_installed

_PACKAGES = {
    "cramjam": ("cramjam", "lz4, snappy and zstd"),  # what aiokafka decodes with
    "lz4": ("lz4", "lz4"),  # these three are what kafka-python decodes with
    "snappy": ("python-snappy", "snappy"),
    "zstandard": ("zstandard", "zstd"),
}
"""By module the name of the package, and the codecs that it reads."""

WORKER_MODULES = ("cramjam",)
LOG_MODULES = ("lz4", "snappy", "zstandard")


def require_codecs(*modules: str) -> None:
    """Raise MissingExtraError unless batches of every codec can be read.

    Found out with the first compressed batch, it would stop the reader there, and again after every restart.
    """
    for module in modules:
        package, codecs = _PACKAGES[module]
        if not is_installed(module):
            raise MissingExtraError(
                f"batches compressed with {codecs} cannot be read: the package {package} is not installed; "
                f"run  pip install {package}"
            )
