"""What a run takes of its machine, as MLflow's system metrics: processor, memory and GPUs."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

EVERY = 10.0  # seconds
MEGABYTE = 2**20
FIRST = "system/process_cpu_percentage"


class Sampler:
    """Measures every ten seconds in a thread of its own; `record` takes the figures and the number of the sample."""

    def __init__(self, record: Callable[[Mapping[str, float], int], None], number: int = 0) -> None:
        self._record, self._number = record, number
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        while not self._stopped.wait(EVERY):
            now, used = time.perf_counter(), time.process_time()
            self._number += 1
            share = 100 * (used - cpu) / (now - wall)
            self._record({FIRST: share, "system/process_memory_megabytes": memory(), **gpus()}, self._number)
            wall, cpu = now, used


def memory() -> float:
    """Megabytes that the process holds; where the system does not say, the most that it ever held."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEGABYTE if sys.platform == "darwin" else 1024)


def gpus() -> dict[str, float]:
    """Memory and use of each GPU that this process trains on; none where it trains on none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"system/gpu_{number}_memory_usage_megabytes"] = (total - free) / MEGABYTE
        try:
            found[f"system/gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
        except (ModuleNotFoundError, RuntimeError):  # it needs nvidia-ml-py and a driver that answers it
            continue
    return found


def hardware() -> dict[str, str]:
    """The machine: processor, cores, gigabytes of memory, GPU."""
    found = {"machine": f"{platform.machine()} {platform.system()}", "cores": str(os.cpu_count())}
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(info) if line.startswith("model name")]
    if names:
        found["processor"] = names[0]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = str(round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found["gpu"] = f"{len(names)} x {names[0]}"
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
