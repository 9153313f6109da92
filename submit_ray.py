"""The submission of make_submission.py by a Ray cluster: workers on many machines do its parts, and this one merges.

    python submit_ray.py --input files.parquet --models-dir /shared/models --output /shared/out/submission.csv
    python submit_ray.py --input shards --output submission.csv --address local --ray-workers 2

Input, models and output must lie where all machines see them under the same path; flags, parts and tables are those
of make_submission.py. Each worker loads the ensemble once, on its own GPU where the cluster has any. Ray starts a lost
worker again; an interrupted run goes on with the parts that are missing, and so would make_submission.py.

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
from common.submission.config import SubmissionConfig, open_parts, summary
from common.submission.parts import Parts
from common.submission.predictor import decide_part, load_decider
from common.submission.sources import Kind, Part

BLOCKS = 1000
"""Most pieces that the parts are handed out in."""


@dataclass(frozen=True, kw_only=True)
class RayConfig(SubmissionConfig):
    """A submission's flags, and the cluster."""

    address: str = "auto"
    """Of the cluster: auto for the one that this machine belongs to, ray://host:10001, or local to start one here."""
    ray_workers: int | None = None
    """Workers; by default one a GPU, or without any one a machine."""

    def __post_init__(self) -> None:
        """Refuse what a cluster can't do; see `SubmissionConfig`.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        super().__post_init__()
        if self.ray_workers is not None and self.ray_workers < 1:
            raise UserError(f"--ray-workers is {self.ray_workers}; it must be 1 or more.")
        if self.num_shards is not None:
            raise UserError("--num-shards is make_submission.py's: here --ray-workers says how many share the parts.")


def main(config: RayConfig) -> None:
    """Decide by the cluster's workers what is missing, and write the tables.

    Raises:
        UserError: Ray is not installed, there is no cluster, it is too small, or as make_submission.py.
    """
    ray = _import_ray()
    parts = open_parts(config)
    if todo := parts.remaining(parts.parts):
        _connect(ray, config)
        try:
            _decide(ray, config, parts, todo)
        finally:
            ray.shutdown()
    counts = parts.merge()
    if counts is None:
        raise UserError(f"parts in {parts.folder} are gone, or merged by another run. Start again.")
    print(summary(config, counts))


class Worker:
    """Decides parts, with an ensemble that it loads for the first of them."""

    def __init__(self, config: SubmissionConfig, parts: Parts, kinds: set[Kind], n_images: int, folder: str) -> None:
        """See `load_decider`; relative paths begin at `folder`, on this machine too."""
        with suppress(OSError):
            os.chdir(folder)
        self.parts, self._load = parts, cache(partial(load_decider, config, kinds, n_images))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decide and write the part with these fields, unless that is done.

        Returns:
            How many files, the `errors` of single ones, and the `failure` that ends the run, or nothing.
        """
        part = Part(**row)
        said = {"count": part.count, "errors": [], "failure": ""}
        if not self.parts.is_done(part):  # as it is if a worker was lost after it
            try:
                for decided in decide_part(self._load(), self.parts, part):
                    if "error" in decided.scores:
                        said["errors"].append(f"{decided.case_id}: {decided.scores['error']}")
            except UserError as error:  # as an exception it would come with pages about Ray
                said["failure"] = str(error)
        return said


def _import_ray() -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a warning that Ray Data gives to itself
    try:
        import ray.data
    except ImportError as error:
        raise UserError(
            'submit_ray.py needs Ray, which is not installed: pip install "ray[data]". make_submission.py shares the '
            "work without it: --num-shards."
        ) from error
    return ray


def _connect(ray: ModuleType, config: RayConfig) -> None:
    local = {"num_cpus": max(cpu_count(), config.ray_workers or 1), "include_dashboard": False}
    # The cluster's machines have the packages, but not necessarily this library.
    library = {"runtime_env": {"py_modules": [str(Path(common.__file__).parent)]}}
    try:
        ray.init(
            config.address,
            log_to_driver=False,
            logging_level="ERROR",
            **local if config.address == "local" else library,
        )
    except ConnectionError as error:
        raise UserError(
            f"there is no Ray cluster at --address {config.address}. Start one (ray start --head), or use this machine "
            "alone: --address local."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _decide(ray: ModuleType, config: RayConfig, parts: Parts, todo: list[Part]) -> None:
    """Hand the parts out, and show how far they are."""
    workers, resources = _share_out(ray, config)
    n_images = sum(part.count for part in parts.parts if part.kind != "video")
    plain = {entry.name: getattr(config, entry.name) for entry in fields(SubmissionConfig)}
    copies = config.workers or min(int(resources["num_cpus"]), config.batch_size)
    rows = ray.data.from_items([vars(part) for part in todo], override_num_blocks=min(len(todo), BLOCKS)).map(
        Worker,
        fn_constructor_args=(
            SubmissionConfig(**plain | {"workers": copies}),
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
        for said in rows.iter_rows():
            if said["failure"]:
                raise UserError(said["failure"])
            for error in said["errors"]:
                bar.write(error)
            bar.update(said["count"])


def _share_out(ray: ModuleType, config: RayConfig) -> tuple[int, dict[str, float]]:
    """How many workers, and what each gets of the cluster."""
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
