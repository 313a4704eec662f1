"""What a worker's web server says of the worker: its version, its profile, and how far it is."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

from agents.audit.why.facts import WorkerPage
from pipeline.errors import SettingsError

_SECONDS = 2.0
_MAX_BYTES = 16 << 20


def read_worker_page(url: str) -> WorkerPage:
    """Ask `/metrics` and `/readyz`; `url` may name the server or its `/metrics`. Raises SettingsError for no URL."""
    root = url.rstrip("/").removesuffix("/metrics")
    if not root.startswith(("http://", "https://")):
        raise SettingsError(f"--metrics {url!r} is not http://host:port")
    try:
        status, text = _fetch(f"{root}/metrics")
        _, ready = _fetch(f"{root}/readyz")
    except (OSError, HTTPException, ValueError) as error:
        return WorkerPage(root, problem=str(getattr(error, "reason", error)) or type(error).__name__)
    if status != 200:
        return WorkerPage(root, problem=f"/metrics answers with {status}")
    return parse_worker_page(root, text, ready.strip())


def parse_worker_page(url: str, metrics: str, ready: str) -> WorkerPage:
    """What the pages' texts say."""
    info: dict[str, dict[str, str]] = {}
    lag: dict[int, int] = {}
    try:
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                if sample.name.endswith("_info"):
                    info[sample.name] = sample.labels
                elif sample.name == "faultline_consumer_lag_records":
                    partition = int(sample.labels["partition"])
                    lag[partition] = lag.get(partition, 0) + int(sample.value)
    except (ValueError, KeyError) as error:
        return WorkerPage(url, problem=f"/metrics cannot be read: {error}")
    profile = info.get("faultline_profile_info", {})
    return WorkerPage(
        url,
        not_ready=None if ready == "ok" else ready,
        version=info.get("faultline_build_info", {}).get("version"),
        plant=profile.get("plant"),
        profile=profile.get("digest"),
        lag=lag,
        is_worker="faultline_profile_info" in info,
    )


def _fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            return int(response.status), response.read(_MAX_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_MAX_BYTES).decode(errors="replace")
