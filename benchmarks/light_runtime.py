"""The light runtime in new virtual environments: an exported model, with nothing installed but what it asks for.

python -m benchmarks.light_runtime tests/golden/model-1/linear tests/golden/model-1/onnx

For each model directory a new environment gets what its requirements.txt names, from the package index (a minute or
two), and scores an article with no path to this checkout but a copy of slantwise/. Prints what was installed, and the
seconds of import and load together, the median of five processes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from slantwise.model import find_directory

SCORE = """
import json, sys, time
began = time.perf_counter()
from slantwise.model import load
model = load(sys.argv[1])
seconds = time.perf_counter() - began
from slantwise.article import Article
rows = model.predict([Article("a", "The striker scored twice, and the mayor praised the harbour plan.")], [["mayor"]])
print(json.dumps({"seconds": seconds, "tasks": sorted(set(rows[0]) - {"id"})}))
"""


def main() -> None:
    for path in sys.argv[1:] or sys.exit(__doc__):
        directory = find_directory(Path(path)).resolve()
        with tempfile.TemporaryDirectory() as scratch:
            measure(directory, Path(scratch))


def measure(directory: Path, scratch: Path) -> None:
    venv.create(scratch / "venv", with_pip=True)
    python = scratch / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-r", str(directory / "requirements.txt")], check=True)
    installed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout.split()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parents[1] / "slantwise", scratch / "code" / "slantwise", ignore=ignored)
    found = [score(python, directory, scratch / "code") for _ in range(5)]
    seconds = statistics.median(float(each["seconds"]) for each in found)
    print(f"{directory}: {', '.join(found[0]['tasks'])}; import and load {seconds:.2f} s; {' '.join(installed)}")


def score(python: Path, directory: Path, code: Path) -> dict[str, Any]:
    done = subprocess.run(
        [str(python), "-c", SCORE, str(directory)], cwd=code, check=True, capture_output=True, text=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
