"""`slantwise train --multirun`: the runs of a grid stand below one MLflow run.

The parent is made before the jobs are launched, and they learn of it through the environment, which launchers of this
machine (basic, joblib) and Slurm's hand on. It is a folder, with no work of its own, and so is never left RUNNING.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

from hydra.experimental.callback import Callback

from slantwise.command import CHECKOUT, Progress, unique_name
from slantwise.errors import TrackingError
from training.redact import redact

GROUP, PARENT = "SLANTWISE_MULTIRUN", "SLANTWISE_MULTIRUN_PARENT"


def group_tags() -> dict[str, str]:
    """The tags by which this process's run is one of a grid; none outside of one."""
    tags = {"multirun": os.environ.get(GROUP), "mlflow.parentRunId": os.environ.get(PARENT)}
    return {name: value for name, value in tags.items() if value}


class ParentRun(Callback):  # type: ignore[misc]
    """Hydra calls it around a multirun; see configs/train.yaml."""

    def on_multirun_start(self, config: Any, **more: Any) -> None:
        name = f"multirun-{unique_name()}"
        os.environ[GROUP] = name
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

    def on_multirun_end(self, config: Any, **more: Any) -> None:
        os.environ.pop(GROUP, None)
        os.environ.pop(PARENT, None)
