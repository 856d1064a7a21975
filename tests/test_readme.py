"""Every Python block of the README and the guides runs, each in an empty folder, and means what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{page.read_text()[: match.start()].count(chr(10)) + 1}")
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
]


@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.filterwarnings("ignore")
def test_a_block_runs(code: str, embedded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(embedded_path)
    exec(compile(code, "the block", "exec"), {"__name__": "__main__"})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 4


def test_the_tests_that_the_readme_names_are_there() -> None:
    named = r"`((?:tests|lc_history|benchmarks|notebooks|docs)/[\w./]*)`"
    for name in re.findall(named, (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), f"the README names {name}, which is not there"
