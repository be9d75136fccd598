"""`slantwise train --multirun`: the runs of a grid stand below one MLflow run, and a table of them ends it.

The parent is made before the jobs are launched, and they learn of it through the environment, which launchers of this
machine (basic, joblib) and Slurm's hand on. It is a folder, with no work of its own, and so is never left RUNNING. What
came of each job is left for the table as a file in Hydra's sweep directory, since jobs may run in other processes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from slantwise.command import CHECKOUT, Progress, exit_status, unique_name
from slantwise.errors import SlantwiseError, TrackingError
from training.redact import redact

if TYPE_CHECKING:
    from rich.table import Table

GROUP, PARENT, JOBS = "SLANTWISE_MULTIRUN", "SLANTWISE_MULTIRUN_PARENT", "SLANTWISE_MULTIRUN_JOBS"
WIDTH = 160  # of the table, where no terminal says how wide it is


def group_tags() -> dict[str, str]:
    """The tags by which this process's run is one of a grid; none outside of one."""
    tags = {"multirun": os.environ.get(GROUP), "mlflow.parentRunId": os.environ.get(PARENT)}
    if tags["multirun"] and HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num"):
        tags["multirun_job"] = str(HydraConfig.get().job.num)
    return {name: value for name, value in tags.items() if value}


class ParentRun(Callback):  # type: ignore[misc]
    """Hydra calls it around a multirun and each of its jobs; see configs/train.yaml."""

    def on_multirun_start(self, config: Any, **more: Any) -> None:
        name = f"multirun-{unique_name()}"
        os.environ[GROUP] = name
        os.environ[JOBS] = str(Path(config.hydra.sweep.dir).absolute() / name)
        # launchers unpickle the job before this checkout is on the path of the process that runs it
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        if not config.tracking.enabled:
            return
        from training.config import TrackingConfig
        from training.store import Store

        overrides = [override for override in sys.argv[1:] if "=" in override]
        tags = {"multirun": name, "command": redact(" ".join(sys.argv))}
        record = {"name": name, "tags": tags, "datasets": [], "parameters": dict(o.split("=", 1) for o in overrides)}
        try:
            store = Store(TrackingConfig(**{field: config.tracking[field] for field in config.tracking}))
            run_id = store.create(uuid.uuid4().hex, record)
            store.describe(run_id, record)
            store.set_status(run_id, "FINISHED")
        except TrackingError as error:
            Progress().warn(f"{error}; the runs of this grid have no parent, but the tag multirun={name}")
            return
        os.environ[PARENT] = run_id

    def on_job_end(self, config: Any, job_return: Any, **more: Any) -> None:
        """In the process of the job: what came of it, for the table."""
        folder = os.environ.get(JOBS)
        if folder is None:
            return
        from training.journal import write_whole

        result = job_return._return_value  # the property would raise what a failed job raised
        directory = None if isinstance(result, Exception) else _run_directory(Path(job_return.cfg.run_dir), config)
        job = {
            "overrides": [redact(override) for override in job_return.overrides],
            "error": redact(_told(result)) if isinstance(result, Exception) else None,
            "status": exit_status(result) if isinstance(result, Exception) else 0,
            "directory": directory and str(directory),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_whole(Path(folder) / f"{config.hydra.job.num}.json", json.dumps(job) + "\n")

    def on_multirun_end(self, config: Any, **more: Any) -> None:
        name, parent, folder = (os.environ.pop(variable, None) for variable in (GROUP, PARENT, JOBS))
        paths = sorted(Path(folder or "").glob("*.json"), key=lambda path: int(path.stem)) if folder else []
        jobs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        progress = Progress()
        if not progress.console.is_terminal:
            progress.console.width = WIDTH
        if jobs:
            progress.say(f"\n{len(jobs)} jobs")
            progress.console.print(_table(jobs), markup=False)
            shutil.rmtree(str(folder))
        if parent is not None:
            progress.say(f"MLflow: the runs stand below {parent} ({name})")
        if failed := [job["status"] for job in jobs if job["status"]]:
            # what failed in other processes, this one's exit status tells
            print(f"error: {len(failed)} of the {len(jobs)} jobs failed", file=sys.stderr)
            raise SystemExit(min(failed))


def _told(failure: Exception) -> str:
    return str(failure) if isinstance(failure, SlantwiseError) else f"{type(failure).__name__}: {failure}"


def _run_directory(expected: Path, config: Any) -> Path | None:
    """The directory of a job's run: the configured one, or that of an interrupted run that the job went on with."""
    if (expected / "run.json").is_file():
        return expected
    mine = {"multirun": os.environ.get(GROUP), "multirun_job": str(config.hydra.job.num)}
    for path in expected.parent.glob("*/run.json"):
        if mine.items() <= json.loads(path.read_text(encoding="utf-8"))["tags"].items():
            return path.parent
    return None


def _table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each task of each job: the overrides that are not the same in all, the first headline metric."""
    from rich import box
    from rich.table import Table

    settings = [dict(override.lstrip("+").partition("=")[::2] for override in job["overrides"]) for job in jobs]
    keys = [
        key for key in dict.fromkeys(key for one in settings for key in one) if len({o.get(key) for o in settings}) > 1
    ]
    table = Table(box=box.SIMPLE)
    for column in (*keys, "metric", "value", "95 % interval", "run directory"):
        table.add_column(column, justify="right" if column in ("value", "95 % interval") else "left", overflow="fold")
    for job, one in zip(jobs, settings, strict=True):
        for cells in _results(job):
            table.add_row(*(one.get(key, "") for key in keys), *cells)
    return table


def _results(job: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Metric, value, interval and run directory of each task of a job."""
    from evaluation.intervals import Estimate
    from evaluation.tables import format_estimate

    if job["error"] is not None:
        yield "failed", "", "", job["error"].partition("\n")[0]
    elif job["directory"] is None:
        yield "", "", "", "of an earlier grid, whose run was only published"
    else:
        record = json.loads((Path(job["directory"]) / "run.json").read_text(encoding="utf-8"))
        for name, task in record["tasks"].items():
            metric = task["headline"][0]
            shown = metric if len(record["tasks"]) == 1 else f"{name} {metric}"
            yield shown, *format_estimate(Estimate(**task["metrics"][metric])), job["directory"]
