"""A real Prometheus on this machine, with deploy's own configuration, scraping what a test serves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "faultline.json"
SCRAPE_INTERVAL = "200ms"


def dashboard_queries(instance: str = ".*") -> dict[str, str]:
    """Every query of the dashboard, by panel, as Grafana asks it for a worker; by default for all."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$instance", instance)
        for panel in panels
        for target in panel["targets"]
    }


def prometheus_tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it the test is skipped, or fails where everything is required."""
    found = shutil.which(name)
    if found is None:
        text = f"{name} is missing; Debian's package prometheus has it"
        if os.environ.get("FAULTLINE_REQUIRE_KAFKA") == "1":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


class Prometheus:
    """The HTTP interface of a server that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """What the interface answers; raises AssertionError with its words if it refuses."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def ask(self, query: str, at_seconds: float | None = None) -> list[dict[str, Any]]:
        """The series that a query gives, now or at a time."""
        when = {} if at_seconds is None else {"time": f"{at_seconds:.3f}"}
        series: list[dict[str, Any]] = self.get("query", query=query, **when)["result"]
        return series

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """A server with deploy's configuration and rules, whose jobs scrape these ports of this machine, and often."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for rules in config["rule_files"]:
        shutil.copy(MONITORING / rules, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [prometheus_tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server, until = Prometheus(port), time.monotonic() + 30
            while not server.is_ready():
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text(encoding="utf-8")
                time.sleep(0.05)
            yield server
        finally:
            process.kill()
            process.wait()
