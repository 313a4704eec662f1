"""What operators run: alerts that fire, metrics that exist, files that fit together; Prometheus' own tool judges."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agents.bench.local_kafka.jars import kafka_version
from agents.connectors.ingest.metrics import IngestCollector, MqttStatus
from agents.connectors.ingest.rewriting import Tally
from agents.connectors.notify.notifier import NotifyCollector
from agents.connectors.notify.webhook import Webhook
from agents.console.book.console_book import ConsoleBook
from agents.console.web.metrics import ConsoleCollector, ConsoleCounts
from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.metrics import EngineCollector, TimedRunner, step_seconds
from agents.worker.plant.metrics import PlantCollector, TimedAreaRunner, area_step_seconds
from agents.worker.states.metrics import InputCounts
from agents.worker.web import Answer, WebServer
from pipeline.alignment.machine_states import MachineState
from pipeline.areas.engine import AreaEngine
from pipeline.compiled import CACHE_VARIABLE
from pipeline.config.classes import UNKNOWN
from pipeline.config.profile import load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.engine.engine import Engine
from pipeline.errors import StateError
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Record
from tests.support.area_plant import MACHINES, WITH_AREAS, VoteRunner, area_record, diagnosis
from tests.support.builders import ONE_SOURCE, SumRunner, control, event, numbered, profile, reading
from tests.support.prometheus import DASHBOARD, MONITORING, dashboard_queries, prometheus_tool

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
GRAFANA = MONITORING / "grafana"
WITH_ALARMS = f"{ONE_SOURCE}events: [{{topic: plant.alarms, form: {{}}}}]"
GUIDE = ROOT / "docs" / "operations" / "monitoring.md"
RULE_TESTS = sorted(MONITORING.glob("alerts*_test.yml"))


@dataclass(frozen=True)
class Scrape:
    """One scrape over HTTP: its text, its metrics' names, and by sample name the label values that occur."""

    text: str
    families: dict[str, str]
    samples: dict[str, dict[str, set[str]]]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


LIFE = Life("worker", lambda: Phase(LifeState.JOINING), load_settings())


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def hostile_records() -> list[Record]:
    """Good readings and texts, and most of what can be wrong with a record."""
    start = 1_000_000
    good = [reading("p1", start + 10_000 * k, [float(k), 1.0]) for k in range(20)]
    return numbered(
        [
            *good[:10],
            good[9],
            event("p1", start + 50_000, 'a "quoted" \\ text\nof two lines', id="t1"),
            event("p1", start + 50_000, 'a "quoted" \\ text\nof two lines', id="t1"),
            event("p1", start + 50_000, "another text, and twice", id="t1"),
            event("p1", start + 50_000, "another text, and twice", id="t1"),
            *good[10:],
            reading("p1", start, [5.0, 5.0], timestamp_ms=start + 200_000),
            reading("p1", start + 90_000_000, [0.0, 0.0], timestamp_ms=start + 200_000),
            reading("p1", start + 200_000, [0.0]),
            reading("p1", start + 200_000, {'no such "variable"\n': 1.0}),
            Record("sensors", 0, 0, start, b"p1", b"{"),
            Record("sensors", 0, 0, start, b"p1", b"\xff\x00"),
            Record("sensors", 0, 0, start, b"p1", None),
            Record("sensors", 0, 0, start, b"other", b'{"machine": "p1", "time": 1, "values": [1, 2]}'),
            Record("sensors", 0, 0, start, b"p1", b'{"machine": "p1", "time": "yesterday", "values": [1, 2]}'),
            reading("p1", start + 210_000, {"flow": float("nan"), "load": 2.0}),
            Record('odd"topic\\\n', 0, 0, start, b"p1", b"{}"),
            reading("p3", start + 370_000, [1.0, 1.0]),
            reading("p3", start + 395_000, [1.0, 1.0]),
            control("tick", time_ms=start + 400_000),
        ]
    )


class MortalRunner(SumRunner):
    """Gives machine p1, which comes first, 7 frames to live, and the next one 9."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        estimates = 7 + 2 * frames.slots.astype(np.float32)
        result.remaining = np.stack([estimates, estimates - 1, estimates + 1], axis=1)
        return result


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """What Prometheus gets from a worker's web server after good and hostile records."""
    registry = CollectorRegistry()
    plant = profile(WITH_ALARMS)
    ticks = iter(range(1_000_000))
    runner = TimedRunner(MortalRunner(), step_seconds(registry), lambda: next(ticks) / 1000)
    engine = Engine(plant, {"pump": runner})
    engine.process(hostile_records())
    with pytest.raises(StateError):
        engine.restore("p2", b"not a state")
    lag = {("sensors", 0): 3, ("events", 0): 0, ("diagnoses", 1): 7}
    collector = EngineCollector(
        engine,
        plant,
        InputCounts(
            lag=lambda: lag, lost=lambda: {"sensors": 12}, recreated=lambda: {"events": 1}, now_ms=lambda: 2_000_000
        ),
    )
    registry.register(collector)
    registry.register(LifeCollector(LIFE, "faultline_worker_state"))
    server = WebServer(
        registry, health=lambda: Answer(True, "joining"), ready=lambda: Answer(False, "waiting for partitions")
    )
    port = server.start("127.0.0.1", 0)
    try:
        status, text = fetch(port, "/metrics")
        assert status == 200
        assert fetch(port, "/readyz") == (503, "waiting for partitions\n")
        assert fetch(port, "/healthz") == (200, "joining\n")
    finally:
        server.stop()
    families, samples = {}, dict[str, dict[str, set[str]]]()
    for family in text_string_to_metric_families(text):
        families[family.name] = family.type
        for sample in family.samples:
            labels = samples.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    yield Scrape(text, families, samples)


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own checker."""
    return prometheus_tool("promtool")


def check(promtool: str, *arguments: str, stdin: str | None = None) -> None:
    done = subprocess.run([promtool, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output


def alerts() -> list[dict[str, Any]]:
    return [rule for group in load(MONITORING / "alerts.yml")["groups"] for rule in group["rules"]]


# -- Prometheus' own judgement --------------------------------------------------------------------------------------


def test_promtool_accepts_the_configuration(promtool: str) -> None:
    check(promtool, "check", "config", str(MONITORING / "prometheus.yml"))


def test_promtool_accepts_the_rules(promtool: str) -> None:
    check(promtool, "check", "rules", str(MONITORING / "alerts.yml"))


@pytest.mark.slow
def test_every_alert_fires_when_it_should_and_only_then(promtool: str) -> None:
    check(promtool, "test", "rules", *map(str, RULE_TESTS))


def test_promtool_finds_nothing_wrong_with_a_real_scrape(promtool: str, scrape: Scrape) -> None:
    check(promtool, "check", "metrics", stdin=scrape.text)


def test_promtool_understands_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(dashboard_queries().values())]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    check(promtool, "check", "rules", str(file))


# -- metrics --------------------------------------------------------------------------------------------------------


def test_the_scrape_shows_what_happened(scrape: Scrape) -> None:
    found = {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(scrape.text)
        for sample in family.samples
    }
    assert found["faultline_machines",] == 2
    assert found["faultline_build_info", metadata.version("faultline")] == 1
    assert found["faultline_profile_info", profile(WITH_ALARMS).digest, "small"] == 1
    assert found["faultline_model_info", "5" * 64, "pump", "sum"] == 1
    assert found["faultline_states_refused_total",] == 1
    assert found["faultline_consumer_lag_records", "1", "diagnoses"] == 7
    assert found["faultline_late_total", "sensors"] == 1
    assert found["faultline_duplicates_total", "texts"] == 2
    assert found["faultline_revised_texts_total",] == 1
    assert found["faultline_texts_without_known_words_total",] == 0
    assert found["faultline_frames_total",] == found["faultline_confidence_count",] > 0
    assert found["faultline_step_seconds_count",] > 0
    assert found["faultline_remaining_life_seconds", "pump", "min"] == 70
    assert found["faultline_remaining_life_seconds", "pump", "median"] == 80
    assert found["faultline_values_unused_total", "not_finite", "flow"] == 1
    assert found["faultline_values_unused_total", "unknown_variable", ""] == 1
    assert found["faultline_readings_unused_total",] == 1
    assert sum(found["faultline_machines_by_state", state] for state in MachineState) == 2
    assert found["faultline_oldest_event_time_lag_seconds", "0"] > 0
    for reason in ("empty", "not_json", "wrong_length", "future_time", "bad_time", "key_mismatch"):
        assert found["faultline_dead_letters_total", reason] > 0, reason


def unknown_in(query: str, scrape: Scrape) -> list[str]:
    """Names, labels and label values in a query that no scrape can have; what all targets have is known."""
    problems = []
    for name, matchers in re.findall(r"\b(faultline_\w+)(?:\{([^}]*)\})?", query):
        if name not in scrape.samples:
            problems.append(name)
            continue
        for label, operator, wanted in re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', matchers):
            if label in ("job", "instance"):
                continue
            values = scrape.samples[name].get(label, set())
            alternatives = wanted.split("|") if operator == "=~" else [re.escape(wanted)]
            problems += [f"{name}: {label} {a}" for a in alternatives if not any(re.fullmatch(a, v) for v in values)]
    known = {"job", "instance"}.union(*(scrape.samples.get(n, {}) for n in re.findall(r"\bfaultline_\w+", query)))
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        problems += [f"by {label}" for label in re.split(r",\s*", labels) if label not in known]
    return problems


def plant_collector(registry: CollectorRegistry) -> PlantCollector:
    """The metrics of a plant agent that has diagnosed one frame."""
    plant = profile(WITH_AREAS)
    runner = TimedAreaRunner(VoteRunner(), area_step_seconds(registry), lambda: 0.0)
    engine = AreaEngine(plant, runner)
    engine.process([area_record(diagnosis(machine, 0), lambda _: 0) for machine in MACHINES["yard"]])
    lag = {("areas", 0): 0}
    return PlantCollector(engine, plant, InputCounts(lag=lambda: lag, lost=dict, recreated=dict, now_ms=lambda: 0))


def with_others(scrape: Scrape) -> Scrape:
    """A scrape that also has what ingest, the plant agent, notify and console export, and an answer with a detector."""
    families, samples = dict(scrape.families), dict(scrape.samples)
    counted = samples["faultline_diagnoses_total"]
    samples["faultline_diagnoses_total"] = counted | {"fault": counted["fault"] | {UNKNOWN}}
    registry = CollectorRegistry()
    others: list[Collector] = [
        IngestCollector(Tally(), ["/line-1"], mqtt=lambda: MqttStatus(True, 0, 0)),
        LifeCollector(LIFE, "faultline_ingest_state"),
        plant_collector(registry),
        LifeCollector(LIFE, "faultline_plant_state"),
        NotifyCollector(Webhook("http://x/y", wall_seconds=lambda: 0.0).counts, lambda: 0, lambda: 0),
        LifeCollector(LIFE, "faultline_notify_state"),
        ConsoleCollector(ConsoleCounts(), ConsoleBook(profile(WITH_ALARMS)).status),
        LifeCollector(LIFE, "faultline_console_state"),
    ]
    texts = [generate_latest(other).decode() for other in (registry, *others)]
    for family in (family for text in texts for family in text_string_to_metric_families(text)):
        if family.name not in scrape.families:
            families[family.name] = family.type
            for sample in family.samples:
                for name, value in sample.labels.items():
                    samples.setdefault(sample.name, {}).setdefault(name, set()).add(value)
                samples.setdefault(sample.name, {})
    return Scrape(scrape.text, families, samples)


def test_alerts_use_only_metrics_and_labels_that_exist(scrape: Scrape) -> None:
    scrape = with_others(scrape)
    assert {rule["alert"]: unknown_in(rule["expr"], scrape) for rule in alerts()} == {
        rule["alert"]: [] for rule in alerts()
    }


def test_the_dashboard_uses_only_metrics_and_labels_that_exist(scrape: Scrape) -> None:
    queries, scrape = dashboard_queries(), with_others(scrape)
    assert {panel: unknown_in(query, scrape) for panel, query in queries.items()} == {panel: [] for panel in queries}


def test_a_wrong_metric_label_or_value_would_be_noticed(scrape: Scrape) -> None:
    assert unknown_in("rate(faultline_late[5m])", scrape) == ["faultline_late"]
    assert unknown_in('faultline_late_total{reason="late"}', scrape) == ["faultline_late_total: reason late"]
    assert unknown_in('faultline_dead_letters_total{reason=~"empty|emty"}', scrape) == [
        "faultline_dead_letters_total: reason emty"
    ]
    assert unknown_in("sum by (job, fault) (faultline_late_total)", scrape) == ["by fault"]


def test_the_dashboard_shows_every_metric(scrape: Scrape) -> None:
    everything, families = " ".join(dashboard_queries().values()), with_others(scrape).families
    assert [name for name in families if name.startswith("faultline_") and name not in everything] == [
        name for name in families if name.endswith("_created")
    ]


# -- the guide ------------------------------------------------------------------------------------------------------


def test_the_guide_explains_every_metric_and_no_other(scrape: Scrape) -> None:
    exposed = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in with_others(scrape).families.items()
        if name.startswith("faultline_") and not name.endswith("_created")
    }
    explained = set(re.findall(r"^\| `(faultline_\w+)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE))
    assert explained == exposed


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^### (Faultline\w+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())
    for rule in alerts():
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}, rule["alert"]
        assert notes["runbook"] == f"docs/operations/monitoring.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_tested_both_ways() -> None:
    fires: dict[str, set[bool]] = {}
    for case in (case for file in RULE_TESTS for case in load(file)["tests"]):
        for expected in case["alert_rule_test"]:
            fires.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in alerts()}


# -- files that fit together ----------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    found: dict[str, Any] = load(DEPLOY / "compose.yaml")["services"]
    return found


def default_of(text: str) -> str:
    """What compose makes of ${NAME:-default} where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_compose_mounts_only_what_is_there() -> None:
    volumes = load(DEPLOY / "compose.yaml")["volumes"]
    for name, service in services().items():
        for mount in service.get("volumes", []):
            source = default_of(mount).split(":")[0]
            assert source in volumes or (DEPLOY / source).exists(), f"{name} mounts {source}"
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()


def test_compose_publishes_ports_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert set(published) == {"kafka", "worker", "ingest", "plant", "notify", "console", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_compose_waits_for_services_that_exist() -> None:
    known = services()
    for name, service in known.items():
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else [(other, {}) for other in waits]:
            assert other in known, f"{name} waits for {other}"
            if how.get("condition") == "service_healthy" and other != "worker":
                assert "test" in known[other]["healthcheck"]
    assert known["replay"]["profiles"] == ["demo"]
    assert known["ingest"]["profiles"] == ["ingest"]
    assert known["plant"]["profiles"] == ["areas"]
    assert known["notify"]["profiles"] == ["notify"]
    assert known["console"]["profiles"] == ["console"]
    others = ["ingest", "plant", "notify", "console", "replay"]
    assert [name for name, service in known.items() if "profiles" in service] == others


def test_compose_gives_workers_settings_that_exist_and_fit_the_broker() -> None:
    known = services()
    inside = known["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0]
    for name in ("topics", "worker", "ingest", "plant", "notify", "console", "replay"):
        values = {key: default_of(value) for key, value in known[name]["environment"].items()}
        unknown = [key for key in values if key.removeprefix("FAULTLINE_").lower() not in Settings.model_fields]
        assert unknown == [], name
        overrides: dict[str, object] = {key.removeprefix("FAULTLINE_").lower(): value for key, value in values.items()}
        settings = load_settings(**overrides)
        assert settings.broker == "kafka://" + inside.removeprefix("INSIDE://")
        load_profile(settings.profile)
    replay = [default_of(word) for word in known["replay"]["command"]]
    assert replay[replay.index("--to") + 1] == known["worker"]["environment"]["FAULTLINE_BROKER"]


def test_compose_runs_the_kafka_that_the_tests_run() -> None:
    assert services()["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_prometheus_finds_the_workers() -> None:
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in load(MONITORING / "prometheus.yml")["scrape_configs"]}
    (names,) = jobs["faultline"]
    assert names["names"] == ["worker"]
    for other in ("ingest", "plant", "notify", "console"):
        assert jobs[f"faultline-{other}"] == [names | {"names": [other]}]
        assert services()[other]["ports"][:1] == services()["worker"]["ports"]
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert f"FAULTLINE_WEB_PORT={names['port']}" in dockerfile
    assert services()["worker"]["ports"] == [f"127.0.0.1::{names['port']}"]


def test_grafana_finds_its_datasource_and_dashboard() -> None:
    (source,) = load(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    used = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel["targets"]}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load(GRAFANA / "provisioning" / "dashboards" / "faultline.yml")["providers"]
    mounts = dict(mount.split(":")[:2] for mount in services()["grafana"]["volumes"])
    assert mounts["./monitoring/grafana/dashboards"] == provider["options"]["path"]
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"


def test_panels_have_their_own_place_and_number() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_the_image_copies_only_what_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    sources = [source for line in copied for source in line.split()]
    assert {"requirements.lock", "requirements-dev.lock"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source}" not in allowed] == []


def test_the_image_is_built_warm_and_its_user_owns_the_compiled_code() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    build, image = dockerfile.rsplit("\nFROM ", 1)
    (user,) = re.findall(r"^USER (\w+)$", image, re.MULTILINE)
    (filled,) = re.findall(rf"{CACHE_VARIABLE}=(\S+)", build)
    (read,) = re.findall(rf"{CACHE_VARIABLE}=(\S+)", image)
    assert f"COPY --from=build --chown={user}:{user} {filled} {read}" in image
    assert "faultline demo --json" in build


def test_the_image_has_the_shipped_model_and_recording() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["agents"]
    packaged = {file for pattern in patterns for file in (ROOT / "agents").glob(pattern)}
    assert set((ROOT / "agents" / "data").iterdir()) <= packaged
