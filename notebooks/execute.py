"""Execute every notebook from its first cell to its last, in a temporary copy; the notebooks stay as they are."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
CELL_SECONDS = 180


def execute(notebook: Path, folder: Path) -> None:
    started = time.monotonic()
    client = NotebookClient(
        nbformat.read(notebook, as_version=4),
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    print(f"{notebook.name}: {time.monotonic() - started:.1f} s")


def main(names: list[str]) -> int:
    failed = 0
    for notebook in sorted(path for path in HERE.glob("*.ipynb") if not names or path.name in names):
        with tempfile.TemporaryDirectory() as copy:
            folder = shutil.copytree(HERE, Path(copy) / HERE.name)
            try:
                execute(notebook, folder)
            except CellExecutionError as error:
                print(f"{notebook.name} failed:\n{error}")
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
