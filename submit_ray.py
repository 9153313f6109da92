"""Make a submission on a Ray cluster: workers on many machines predict its parts, and this process merges them.

    python submit_ray.py --input files.parquet --models-dir /shared/models --output /shared/out/submission.csv
    python submit_ray.py --input shards --output submission.csv --address local --ray-workers 2

All machines must see input, models and output under the same paths; flags, parts and tables are those of
make_submission.py. Each worker loads the ensemble once, on a GPU of its own if the cluster has any. Ray restarts lost
workers; run again after an interruption, this program or make_submission.py does the missing parts.

Needs Ray: pip install "ray[data]", the extra `cluster`.
"""

from common.process import prepare

prepare()  # before torch is imported

import logging
import math
import os
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
from joblib import cpu_count
from tqdm import tqdm

import common
from common.errors import UserError
from common.locks import locks_end
from common.submission.config import SubmissionConfig, exit_status, summary
from common.submission.parts import Parts
from common.submission.sources import Kind, Part

MAX_BLOCKS = 1000
"""Most pieces that Ray divides the parts into."""


@dataclass(frozen=True, kw_only=True)
class RayConfig(SubmissionConfig):
    """The fields of a submission, and those of the cluster."""

    address: str = "auto"
    """Address of the cluster: auto for the one that this machine belongs to, ray://host:10001, or local to start one on
    this machine."""
    ray_workers: int | None = None
    """Number of workers; by default one per GPU, or one per machine if there are no GPUs."""

    def __post_init__(self) -> None:
        """Check the values, see `SubmissionConfig`.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        super().__post_init__()
        if self.ray_workers is not None and self.ray_workers < 1:
            raise UserError(f"--ray-workers is {self.ray_workers}; it must be 1 or more.")
        if self.num_shards is not None:
            raise UserError("--num-shards is for make_submission.py. Give the number of workers by --ray-workers.")


@locks_end()
def main(config: RayConfig) -> None:
    """Predict the missing parts on the cluster, and write the tables.

    Raises:
        UserError: Ray is not installed, there is no cluster, it is too small, or as make_submission.py.
    """
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.submission.inputs import hold_outputs, open_parts

    ray = _import_ray()
    hold_outputs(config)
    parts = open_parts(config)
    if todo := parts.remaining(parts.parts):
        _connect(ray, config)
        try:
            _predict(ray, config, parts, todo)
        finally:
            ray.shutdown()
    counts = parts.merge()
    if counts is None:
        raise UserError(f"parts in {parts.folder} were removed, or merged by another run. Start again.")
    print(summary(config, counts))
    if status := exit_status(counts):
        raise SystemExit(status)


class Worker:
    """Predicts parts, with an ensemble that is loaded for the first of them."""

    def __init__(self, config: SubmissionConfig, parts: Parts, kinds: set[Kind], n_images: int, folder: str) -> None:
        """Change to `folder`, to which relative paths refer; for the other arguments see `load_predictor`."""
        from common.submission.predictor import load_predictor

        with suppress(OSError):
            os.chdir(folder)
        self.parts, self._load = parts, cache(partial(load_predictor, config, kinds, n_images))

    def __call__(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Predict and write the part with these fields, unless it is done.

        Returns:
            The `count` of its files, the `errors` of single files, and the `failure` that ends the run, or "".
        """
        from common.submission.predictor import write_part

        part, errors, failure = Part(**plain), [], ""
        if not self.parts.is_done(part):  # by a worker that was lost after it
            try:
                rows = write_part(self._load(), self.parts, part)
                errors.extend(f"{row.case_id}: {row.scores['error']}" for row in rows if "error" in row.scores)
            except UserError as error:  # raised here, it would come with pages about Ray
                failure = str(error)
        return {"count": part.count, "errors": errors, "failure": failure}


def _import_ray() -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # hides a warning that Ray Data itself causes
    try:
        import ray.data
    except ImportError as error:
        raise UserError(
            'submit_ray.py needs Ray, which is not installed: pip install "ray[data]". make_submission.py shares the '
            "work without it: --num-shards."
        ) from error
    return ray


def _connect(ray: ModuleType, config: RayConfig) -> None:
    # Workers have the packages, but not necessarily this library; they prepare their process before they import torch.
    library = {"py_modules": [str(Path(common.__file__).parent)], "worker_process_setup_hook": prepare}
    machine = {"num_cpus": max(cpu_count(), config.ray_workers or 1), "include_dashboard": False}
    local = machine if config.address == "local" else {}
    try:
        ray.init(config.address, log_to_driver=False, logging_level="ERROR", runtime_env=library, **local)
    except ConnectionError as error:
        raise UserError(
            f"there is no Ray cluster at --address {config.address}. Start one (ray start --head), or use this machine "
            "alone: --address local."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _predict(ray: ModuleType, config: RayConfig, parts: Parts, todo: list[Part]) -> None:
    """Distribute the parts among the workers, with a progress bar."""
    workers, resources = _worker_resources(ray, config)
    n_images = sum(part.count for part in parts.parts if part.kind != "video")
    plain = {entry.name: getattr(config, entry.name) for entry in fields(SubmissionConfig)}
    processes = config.workers or min(int(resources["num_cpus"]), config.batch_size)
    rows = ray.data.from_items([vars(part) for part in todo], override_num_blocks=min(len(todo), MAX_BLOCKS)).map(
        Worker,
        fn_constructor_args=(
            SubmissionConfig(**plain | {"workers": processes}),
            Parts(parts.tables, [], parts.run),
            {part.kind for part in todo},
            n_images,
            os.getcwd(),  # noqa: PTH109, as a plain string
        ),
        concurrency=min(workers, len(todo)),
        **resources,
    )
    total, left = (sum(part.count for part in some) for some in (parts.parts, todo))
    with tqdm(total=total, initial=total - left, unit="file", disable=None) as bar:
        for row in rows.iter_rows():
            if row["failure"]:
                raise UserError(row["failure"])
            for error in row["errors"]:
                bar.write(error)
            bar.update(row["count"])


def _worker_resources(ray: ModuleType, config: RayConfig) -> tuple[int, dict[str, float]]:
    """The number of workers, and the resources of each."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    workers = config.ray_workers or gpus or len(machines)
    most = gpus or int(sum(machine["CPU"] for machine in machines))
    if workers > most:
        raise UserError(f"--ray-workers is {workers}; the cluster has {'GPUs' if gpus else 'CPUs'} for {most}.")
    cores = min(machine["CPU"] for machine in machines) // math.ceil(workers / len(machines))
    return workers, {"num_cpus": max(1.0, cores), "num_gpus": 1.0 if gpus else 0.0}


if __name__ == "__main__":
    main(tyro.cli(RayConfig, description=__doc__))
