"""Documentation that fits the repository: links, paths and make targets that exist, and pages that can be found."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from agents.replay.tables.description import Conversion, Labels, Readings, Texts
from models.configs.detector import DetectorConfig
from models.configs.retrieval import RetrievalChoice
from models.data.augment import AugmentConfig, MaskingConfig
from models.data.messages import MessagesChoice
from models.data.recovery import RecoveryRule
from models.data.remaining_life import RemainingLifeChoice
from models.data.runs import RunFiles
from models.data.text_pools import EventDrawConfig
from models.training.config import SplitConfig, TrainConfig
from models.training.loop import StageConfig
from pipeline.config.profile import MachineType, PlantProfile, Source, Variable
from pipeline.config.sections.alarms import AlarmEntry
from pipeline.config.sections.areas import Area, Utility
from pipeline.config.sections.modalities import Modality
from pipeline.config.sections.titles import Component, Fault, MachineTitle
from pipeline.files.yaml_fields import keys_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob(".github/**/*.md")]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
FOLDERS = "pipeline|models|agents|deploy|docs|tests"
PATH = re.compile(rf"(?<![\w/.$-])((?:{FOLDERS})/[\w./-]*\w(?:\.\w+)?/?)")


def tracked() -> list[Path]:
    """Text files of the repository that may name others."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no git checkout, so it is not known which files belong to the repository")
    suffixes = {"", ".json", ".md", ".py", ".toml", ".yaml", ".yml"}
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file() and path.suffix in suffixes]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the documentation's builder make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
            if re.match(r"\w+:", target):
                continue
            found = (page.parent / target).resolve() if target else page
            if not found.exists() or (anchor and anchor not in anchors(found)):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert len(PAGES) > 20
    assert broken == []


def test_every_path_that_documentation_and_deployment_name_exists() -> None:
    missing = []
    for path in tracked():
        folder = path.relative_to(ROOT).parts[0]
        if folder in ("docs", "deploy", ".github") or path.parent == ROOT:
            text = path.read_text(encoding="utf-8")
        elif path.suffix == ".py":  # of the code only what it says of documentation and deployment
            text = " ".join(re.findall(r"(?<![\w/])(?:docs|deploy)/[\w./-]*\w", path.read_text(encoding="utf-8")))
        else:
            continue
        # Decisions and the changelog describe their own time.
        if path.parent.name == "decisions" or path.name == "CHANGELOG.md":
            continue
        for name in PATH.findall(text):
            if not list(ROOT.glob(f"{name}*")):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


def test_every_test_that_documentation_names_exists() -> None:
    named = [found for page in PAGES for found in re.findall(r"(tests/\w+/\w+\.py)::(\w+)", page.read_text("utf-8"))]
    assert named
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named: set[str] = set()
    for path in [*PAGES, ROOT / ".ci" / "run", *ROOT.glob(".github/workflows/*.yml")]:
        text = path.read_text(encoding="utf-8")
        for words in re.findall(r"(?:^|`|run: )make ((?:[a-z-]+ )*[a-z-]+) ?(?=$|`| {2,}|[A-Z])", text, re.MULTILINE):
            named.update(words.split())
    assert {"demo", "docs", "lint", "test"} <= named
    assert named <= targets


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        """Reads what names a Python function as its name."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", str(yaml.load(text, Loader)["nav"])))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    decisions = {page for page in pages if re.match(r"decisions/\d", page)}
    assert named == pages - decisions
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    assert {f"decisions/{name}" for name in re.findall(r"\]\((\d[\w-]+\.md)\)", index)} == decisions


def test_hooks_call_tools_that_the_development_lock_has() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/")
        assert f"\n{Path(program).name}==" in lock


def documented(*pages: str) -> set[str]:
    """Words that pages of the guide have as code."""
    texts = ((DOCS / "guide" / page).read_text(encoding="utf-8") for page in pages)
    return {word for text in texts for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}


@pytest.mark.parametrize(
    ("model", "pages"),
    [
        (Conversion, ("tables.md",)),
        (Readings, ("tables.md",)),
        (Texts, ("tables.md",)),
        (Labels, ("tables.md",)),
        (TrainConfig, ("training.md",)),
        (DetectorConfig, ("training.md",)),
        (SplitConfig, ("training.md",)),
        (RunFiles, ("training.md",)),
        (StageConfig, ("training.md",)),
        (AugmentConfig, ("training.md",)),
        (MaskingConfig, ("training.md",)),
        (EventDrawConfig, ("training.md",)),
        (RecoveryRule, ("training.md",)),
        (MessagesChoice, ("training.md",)),
        (RemainingLifeChoice, ("training.md",)),
        (RetrievalChoice, ("training.md",)),
        (PlantProfile, ("profiles.md",)),
        (AlarmEntry, ("profiles.md",)),
        (MachineType, ("profiles.md",)),
        (Variable, ("profiles.md",)),
        (Source, ("profiles.md",)),
        (Fault, ("profiles.md",)),
        (Component, ("profiles.md",)),
        (MachineTitle, ("profiles.md",)),
        (Area, ("profiles.md",)),
        (Utility, ("profiles.md",)),
        (Modality, ("profiles.md",)),
    ],
    ids=lambda given: given.__name__ if isinstance(given, type) else "",
)
def test_every_key_of_tables_trainings_and_profiles_is_documented(model: type[BaseModel], pages: Sequence[str]) -> None:
    keys = keys_of(model)
    assert keys
    assert set(keys) - documented(*pages) == set()
