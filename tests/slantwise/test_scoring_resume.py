"""Exactly once: however a job ends, the same call goes on, and its output is that of a job that was never disturbed.

Longer: `python -m benchmarks.scoring kills 50` kills the command itself, over formats and numbers of workers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slantwise import manifest, scoring
from slantwise.errors import ConfigurationError, ScoringError
from slantwise.manifest import Manifest
from slantwise.model import Head, Model
from slantwise.scoring import ScoreConfig, score

Tree = dict[str, bytes]
N = 40


def articles(n: int = N) -> list[dict[str, Any]]:
    """Rows of which every seventh is bad; some ask for stances."""
    texts = ("The council praised the Tram Line. Goal!", "Frost and gale.", "The nurse condemned the Harbour Plan.")
    return [
        {"id": f"a{i}", "text": None if i % 7 == 3 else f"{texts[i % 3]} Day {i}.", "targets": ["Tram Line"] * (i % 3)}
        for i in range(n)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=11)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(path: Path, output: Path, **changes: Any) -> ScoreConfig:
    return ScoreConfig(**{"input": str(path), "output": str(output), "part_rows": 8, **changes})


def outputs(folder: Path) -> Tree:
    """What a job left in `folder`, in which nothing else is."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Reads jobs from its input, a line each, and lets a child of its own run each of them, which dies at its `at`th wait
# for the disk without a chance to clean up. It starts no thread itself, which a fork would not survive.
DYING = """
import json, os, sys
from pathlib import Path
from slantwise.model import load
from slantwise.scoring import ScoreConfig, score

def job(config, at):
    calls, fsync = 0, os.fsync
    def dying(descriptor):
        nonlocal calls
        calls += 1
        if calls == at:
            os._exit(9)
        fsync(descriptor)
    os.fsync = dying
    score(ScoreConfig(**config), model)

model = load(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            job(**json.loads(line))
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
Dies = Callable[[ScoreConfig, int], bool]


@pytest.fixture(scope="module")
def dies(model_directory: Path) -> Iterator[Dies]:
    """Whether a process with that job dies at its `at`th wait for the disk; otherwise it has finished."""
    command = [sys.executable, "-c", DYING, str(model_directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asked, answers = server.stdin, server.stdout

        def dies(job: ScoreConfig, at: int) -> bool:
            changed = {"input": job.input, "output": job.output, "part_rows": job.part_rows}
            print(json.dumps({"config": changed, "at": at}), file=asked, flush=True)
            status = int(answers.readline())
            assert status in (0, 9)
            return status == 9

        yield dies
        asked.close()


@pytest.mark.parametrize(("ending", "name"), [(".jsonl", "out"), (".parquet", "out.jsonl"), (".jsonl", "out.parquet")])
def test_a_job_that_dies_at_any_moment_ends_with_the_same_bytes(
    model: Model, dies: Dies, tmp_path: Path, ending: str, name: str
) -> None:
    path = write(tmp_path / f"in{ending}", articles(20))
    (tmp_path / "whole").mkdir()
    score(config(path, tmp_path / "whole" / name), model)
    expected = outputs(tmp_path / "whole")
    died = 0
    for at in range(1, 100):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        if not dies(config(path, folder / name), at):
            break
        died += 1
        if name == "out" or (folder / f"{name}.parts").exists():
            score(config(path, folder / name), model)
        assert outputs(folder) == expected, f"after death at wait {at}"
    assert died > 15


def test_a_job_that_dies_again_and_again_ends_with_the_same_bytes(model: Model, dies: Dies, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", articles())
    score(config(path, tmp_path / "whole" / "out"), model)
    draw, torn = random.Random(0), config(path, tmp_path / "torn" / "out")
    died = 0
    while dies(torn, draw.randrange(3, 12)):
        died += 1
    assert died > 3
    assert outputs(tmp_path / "torn") == outputs(tmp_path / "whole")


def test_finished_parts_are_not_scored_again(
    model: Model, dies: Dies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in.jsonl", articles())
    assert dies(config(path, tmp_path / "out"), 12)
    done = len(list(tmp_path.glob("out/part-*")))
    assert done
    seen: list[int] = []
    judged = scoring.score_chunk

    def counting(chunk: Any) -> Any:
        seen.append(chunk.first)
        return judged(chunk)

    monkeypatch.setattr(scoring, "score_chunk", counting)
    score(config(path, tmp_path / "out"), model)
    assert seen[0] in (8 * done + 1, 8 * done - 7)  # the last part may not be in the manifest yet
    seen.clear()
    assert score(config(path, tmp_path / "out"), model)["rows"] == N  # a job that is complete does nothing
    assert seen == []


def test_half_a_line_of_the_manifest_is_cut_off(model: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", articles())
    score(config(path, tmp_path / "out"), model)
    expected, journal = outputs(tmp_path / "out"), tmp_path / "out" / manifest.NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (len(lines) - 1, 3, 1):
        journal.write_bytes(b"".join(lines[:kept]) + lines[kept][:25])
        score(config(path, tmp_path / "out"), model)
        assert outputs(tmp_path / "out") == expected


# --- what is refused ---


@pytest.fixture
def begun(dies: Dies, tmp_path: Path) -> Path:
    """A folder with a job of which some parts are done; its input is in.jsonl beside it."""
    path = write(tmp_path / "in.jsonl", articles())
    assert dies(config(path, tmp_path / "out"), 14)
    return tmp_path / "out"


def grow(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"text": "Goal"}\n')


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("Day 39", "Day 93"))


@pytest.mark.parametrize("change", [grow, rewrite, lambda path: os.utime(path, ns=(1, 1))])
def test_another_input_is_refused(model: Model, begun: Path, change: Callable[[Path], None]) -> None:
    path = begun.parent / "in.jsonl"
    change(path)
    before = outputs(begun)
    with pytest.raises(ScoringError, match=r"begun with another input: .*in\.jsonl was changed \(.* bytes then"):
        score(config(path, begun), model)
    assert outputs(begun) == before


def test_a_file_more_or_less_is_refused(model: Model, dies: Dies, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", articles(10))
    assert dies(config(tmp_path / "*.jsonl", tmp_path / "out"), 8)
    write(tmp_path / "c.jsonl", articles(10))
    with pytest.raises(ScoringError, match=r"c\.jsonl is new"):
        score(config(tmp_path / "*.jsonl", tmp_path / "out"), model)
    (tmp_path / "c.jsonl").unlink()
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(ScoringError, match=r"a\.jsonl is missing"):
        score(config(tmp_path / "*.jsonl", tmp_path / "out"), model)


def test_another_model_is_refused(model: Model, model_directory: Path, begun: Path) -> None:
    alone = Model({"topic": model.heads["topic"]})
    with pytest.raises(ScoringError, match="begun with another model"):
        score(config(begun.parent / "in.jsonl", begun), alone)
    with pytest.raises(ScoringError, match="begun with another model"):
        score(config(begun.parent / "in.jsonl", begun), lambda: model_directory)


def test_a_model_of_other_content_is_refused(model: Model, model_directory: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", articles())
    score(config(path, tmp_path / "out"), lambda: model_directory)
    heads = {name: Head(**{**vars(head), "provenance": {"run": "later"}}) for name, head in model.heads.items()}
    Model(heads).save(tmp_path / "later")
    with pytest.raises(ScoringError, match="begun with another model: sha256 was '"):
        score(config(path, tmp_path / "out"), lambda: tmp_path / "later")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["Russia"]}, r"targets was \[\] and is \['Russia'\]"),
        ({"part_rows": 16}, "part_rows was 8 and is 16"),
        ({"output_format": "csv"}, "output_format was 'parquet' and is 'csv'"),
        ({"max_characters": 5}, "max_characters was 5000000 and is 5"),
    ],
)
def test_other_options_are_refused(model: Model, begun: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoringError, match=f"begun with another option: {message}"):
        score(config(begun.parent / "in.jsonl", begun, **changes), model)


def test_another_release_is_refused(model: Model, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "code_checksum", lambda: "another")
    with pytest.raises(ScoringError, match="begun with another release of slantwise"):
        score(config(begun.parent / "in.jsonl", begun), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part.unlink(), "is missing though"),
        (lambda part: part.write_bytes(part.read_bytes()[:-1]), "was changed after it was written"),
        (lambda part: part.write_bytes(part.read_bytes()[:-1] + b"?"), "was changed after it was written"),
    ],
)
def test_a_finished_part_that_was_changed_is_refused(
    model: Model, begun: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(begun / "part-00000.parquet")
    with pytest.raises(ScoringError, match=f"part-00000.parquet {message}"):
        score(config(begun.parent / "in.jsonl", begun), model)


def test_a_damaged_manifest_is_refused(model: Model, begun: Path) -> None:
    (begun / manifest.NAME).write_text("{broken\n")
    with pytest.raises(ScoringError, match="is damaged"):
        score(config(begun.parent / "in.jsonl", begun), model)


# --- several processes ---


@pytest.mark.parametrize("outcome", ["holds the folder", "has died", "has finished"])
def test_a_job_that_another_process_begins_while_this_one_gets_ready(
    model: Model, dies: Dies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    path, target = write(tmp_path / "in.jsonl", articles()), tmp_path / "torn" / "out"
    score(config(path, tmp_path / "whole" / "out"), model)
    fingerprint, held = scoring.fingerprint, ExitStack()

    def slow(files: Any) -> Any:
        """The other process does its part while this one looks at its input."""
        if outcome == "holds the folder":
            target.mkdir(parents=True)
            held.enter_context(manifest.lock(target))
        else:
            dies(config(path, target), 14 if outcome == "has died" else 1_000)
        return fingerprint(files)

    monkeypatch.setattr(scoring, "fingerprint", slow)
    with held:
        if outcome == "holds the folder":
            with pytest.raises(ScoringError, match="another process is scoring into it"):
                score(config(path, target), model)
            return
        score(config(path, target), model)
    assert outputs(tmp_path / "torn") == outputs(tmp_path / "whole")


COMMAND = (
    "import sys; from pathlib import Path; from slantwise.scoring import ScoreConfig, score\n"
    "model, path, output, workers = sys.argv[1:]\n"
    "score(ScoreConfig(input=path, output=output, workers=int(workers), part_rows=150), lambda: Path(model))\n"
)


def start(model: Path, path: Path, output: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, str(model), str(path), str(output), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_kill_9_leaves_nothing_undone_and_no_process_behind(model_directory: Path, tmp_path: Path) -> None:
    path, draw = write(tmp_path / "in.jsonl", articles(3_000)), random.Random(1)
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    assert start(model_directory, path, tmp_path / "whole" / "out", 1).wait() == 0
    taken = time.monotonic() - began
    (tmp_path / "torn").mkdir()
    groups = []
    for _ in range(5):
        process = start(model_directory, path, tmp_path / "torn" / "out", draw.choice([1, 2]))
        groups.append(process.pid)
        try:
            process.wait(draw.uniform(0.3, 1) * taken)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(model_directory, path, tmp_path / "torn" / "out", 2)
    assert last.communicate()[1] == ""
    assert last.returncode == 0
    assert outputs(tmp_path / "torn") == outputs(tmp_path / "whole")
    for group in groups:
        assert gone(group), "a worker outlived its parent"


def gone(group: int) -> bool:
    """Whether the process group is empty, within ten seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_worker_that_is_killed_ends_the_job_and_the_next_call_goes_on(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    path = write(tmp_path / "in.jsonl", articles(2_000))

    def kill(progress: Any) -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)

    with pytest.raises(BrokenProcessPool):
        score(config(path, tmp_path / "out", part_rows=100, workers=2), lambda: model_directory, kill)
    score(config(path, tmp_path / "out", part_rows=100, workers=1), lambda: model_directory)
    score(config(path, tmp_path / "whole", part_rows=100, workers=1), lambda: model_directory)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def children() -> list[int]:
    """The processes that this one has started and that score."""
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_an_encoder_is_scored_in_one_process(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_is_encoder", lambda model: True)
    path = write(tmp_path / "in.jsonl", articles())
    with pytest.raises(ConfigurationError, match="workers=2: an encoder is scored in one process; OMP_NUM_THREADS"):
        score(config(path, tmp_path / "out", workers=2), model)
    assert score(config(path, tmp_path / "out", workers=1), model)["rows"] == N


# --- a disk that is full ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_full_disk_is_told_and_the_job_goes_on_when_there_is_room(
    model: Model, tmp_path: Path, small_disk: Path, name: str
) -> None:
    path = write(tmp_path / "in.jsonl", articles(160))
    (tmp_path / "whole").mkdir()
    score(config(path, tmp_path / "whole" / name, output_format="jsonl"), model)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 28_000)
    for _ in range(2):
        with pytest.raises(ScoringError, match="cannot be written: No space left on device; finished parts are kept"):
            score(config(path, small_disk / name, output_format="jsonl"), model)
    assert not list(small_disk.rglob("*.partial"))
    done = len(list(small_disk.rglob("part-*.jsonl")))
    assert done > 1
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    score(config(path, small_disk / name, output_format="jsonl"), model)
    assert outputs(small_disk) == outputs(tmp_path / "whole")


def test_the_manifest_never_holds_half_a_line_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"whole\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Manifest(path).finish({})
    assert path.read_bytes() == b"whole\n"
    shutil.rmtree(tmp_path)
