"""What is trained in a models folder, with which score, what is missing, and what to run next.

    python -m common.ensemble.status --models-dir models --data-dir data

It loads no network, and without a fit it answers at once, also while a training runs. A fit is checked as a submission
checks it, which takes seconds.
"""

import json
import math
import shlex
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from common.ensemble.choices import COMPLETE
from common.ensemble.members import COPY_MOVE, SETTINGS_FILE, fold_folders, map_members
from common.errors import UserError, first_line, readable
from common.files import entries
from common.locks import holder
from common.process import prepare
from common.training.history import read_history

SCRIPTS = {member.name: str(member.script) for member in map_members()}
"""Name of each member with a map → the script that trains it."""
DETECTORS = {"spai_fusion": "script_7_spai_fusion.py", "deepfake_video": "script_8_deepfake_video.py"}
"""Name that each detector has by default → its script. They are trained on other data, and a submission needs none."""
SCORES = {"dice": "dice", "pixel_f1": "pixel F1", "image_auc": "image AUC", "auc": "AUC", "ap": "AP"}
"""Metric → what it is called in the table, which has those that a run has."""

_ENDS = ("_best.pth", "_last.pth", "_metrics.json", "_history.json")
_DONE = ("trained", "released", "no metrics")  # states with which a member takes part


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Which folders to look at."""

    models_dir: Path = Path("models")
    """Folder of the checkpoints."""
    data_dir: Path = Path("data")
    """Data folder, for the commands to run next."""
    profile: Literal["full", "quick"] = "full"
    """Profile of the members that are still to be trained, if none is there."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, by its files."""

    name: str
    script: str
    """File name of the program; empty if it is not known."""
    state: str = "missing"
    note: str = ""
    """What is wrong, or how far it is."""
    when: float = math.nan
    """Of its last file, in seconds since 1970."""
    score: str = ""
    profile: str = ""
    command: list[str] = field(default_factory=list)
    """That it was started with, if that is known: program and flags."""


def main(config: StatusConfig) -> None:
    """Print the table, and the commands to run next.

    Raises:
        UserError: The models folder is a file, or can't be read.
    """
    folder = config.models_dir
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--models-dir {folder} is not a folder. Name the folder of the checkpoints.")
    runs = find_runs(folder)
    folds = {path: find_runs(path) for path in fold_folders(folder)[1:] if path.is_dir()}
    ensemble = find_ensemble(folder)
    rows = [_row(run) for run in [*runs, ensemble]]
    for path, found in folds.items():
        done = sum(run.name in SCRIPTS and run.state in _DONE for run in found)
        unfinished = [f"{run.name}: {run.state}" for run in found if run.state not in (*_DONE, "missing")]
        rows.append((f"{path.name}/", "", f"{done} of {len(SCRIPTS)} members", "", "", "", "; ".join(unfinished)))
    print(f"{folder}{'' if folder.is_dir() else ' does not exist yet'}\n")
    print(_table(("name", "script", "state", "when", "score", "profile", "note"), rows))
    print("\nnext:")
    for command, why in next_steps(config, runs, folds, ensemble):
        print(f"  {readable(command)}{f'    # {why}' if why else ''}")


def find_runs(folder: Path) -> list[Run]:
    """The members in the order of their scripts, the detectors, and other trainings that a folder has files of."""
    there = {path.name for path in entries(folder)}
    names = {name.removesuffix(end) for name in there for end in _ENDS if name.endswith(end)}
    runs = {name: _find_run(folder, name) for name in sorted(names) if name not in SCRIPTS}
    for name, script in DETECTORS.items():
        if not any(run.script == script for run in runs.values()):
            runs[name] = Run(name=name, script=script)
    members = [_find_run(folder, name) for name in SCRIPTS]
    return [*members, *sorted(runs.values(), key=lambda run: run.script or "~")]


def _find_run(folder: Path, name: str) -> Run:
    best, last, metrics, history = (folder / f"{name}{end}" for end in _ENDS)
    released = folder / f"{name}.safetensors"
    files = [path for path in (best, released, last, metrics, history) if path.is_file()]
    who = holder(folder / name)
    if not files and not who:
        return Run(name=name, script=SCRIPTS.get(name, ""))
    when = max((path.stat().st_mtime for path in files), default=math.nan)
    known: dict[str, Any] = {"name": name, "when": when}
    record: dict[str, Any] = {}
    if history.is_file():
        try:
            record = read_history(history)
        except (OSError, ValueError) as error:
            known["note"] = f"{history.name} can't be read ({first_line(error)})"
    command = record.get("command")
    known["command"] = [str(part) for part in command] if isinstance(command, list) else []
    program = Path(known["command"][0]).name if known["command"] else ""
    known["script"] = SCRIPTS.get(name) or (program if program.startswith("script_") else _script_of(name))
    epochs, planned = len(record.get("epochs", ())), _config(record).get("epochs", "?")
    known["profile"] = str(_config(record).get("profile", ""))
    reached = f"epoch {epochs} of {planned}" if epochs else ""
    known["score"] = _score(_best(record))
    if who:
        return Run(state="in training", **known | {"note": ", ".join(filter(None, (reached, who)))})
    found: dict[str, Any] = {}
    if metrics.is_file():
        try:
            found = _read_json(metrics)
        except (OSError, ValueError) as error:
            return Run(state="damaged", **known | {"note": f"{metrics.name} can't be read ({first_line(error)})"})
        known["when"], known["score"] = metrics.stat().st_mtime, _score(found)
        known["profile"] = str(_config(found).get("profile", ""))
    if best.is_file() and not zipfile.is_zipfile(best):
        return Run(state="damaged", **known | {"note": f"{best.name} is cut off, or no checkpoint"})
    if found:
        if best.is_file() or released.is_file():
            return Run(state="trained", **known | {"note": known.get("note") or _pace(found)})
        return Run(state="damaged", **known | {"note": f"{best.name} is missing"})
    if last.is_file():
        return Run(state="broken off", **known | {"note": f"after {reached}" if reached else known.get("note", "")})
    if best.is_file():
        return Run(state="no metrics", **known)
    if released.is_file():
        return Run(state="released", **known)
    return Run(state="missing", **known)  # a record alone


def _script_of(name: str) -> str:
    """The script of a detector with another name than its default, such as `spai`."""
    kinds = DETECTORS | {"residual": DETECTORS["spai_fusion"]}
    found = (script for usual, script in kinds.items() if name.startswith(usual.split("_")[0]))
    return next(found, "")


def _read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("it is no table of metrics")
    return found


def _config(record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("config")
    return found if isinstance(found, dict) else {}


def _best(record: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the epoch with the best Dice or AUC so far."""
    epochs = [metrics for metrics in record.get("epochs", {}).values() if isinstance(metrics, dict)]
    rated = [(metrics.get("dice", metrics.get("auc")), metrics) for metrics in epochs]
    return max(
        ((value, metrics) for value, metrics in rated if isinstance(value, int | float)),
        key=lambda pair: pair[0],
        default=(0, {}),
    )[1]


def _pace(metrics: dict[str, Any]) -> str:
    """How long a training took."""
    epoch, seconds, planned = metrics.get("epoch"), metrics.get("seconds"), _config(metrics).get("epochs")
    if not (isinstance(epoch, int) and isinstance(seconds, int | float) and isinstance(planned, int)):
        return ""
    best = f"best epoch {epoch + 1} of {planned}" if epoch >= 0 else "untrained"
    return f"{best}, {seconds / 60:.0f} min" if seconds >= 60 else f"{best}, {seconds:.0f} s"


def _score(metrics: dict[str, Any]) -> str:
    numbers = {name: metrics[key] for key, name in SCORES.items() if isinstance(metrics.get(key), int | float)}
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())


def find_ensemble(folder: Path) -> Run:
    """The fit of the ensemble of a folder, and whether a submission uses it: whether it is of what is there."""
    path = folder / SETTINGS_FILE
    known: dict[str, Any] = {"name": "ensemble", "script": "fit_ensemble.py"}
    if not path.is_file():
        return Run(state="not fitted", **known)
    # Imported here, not above: torch comes with it, whose import takes seconds.
    from common.ensemble.settings import Settings

    known["when"] = path.stat().st_mtime
    try:
        settings = Settings.load(path)
    except UserError as error:
        return Run(state="damaged", **known, note=first_line(error))
    rows = [row for name, row in settings.report.items() if name.startswith(COMPLETE) and isinstance(row, dict)]
    scores = [row["of1"] for row in rows if isinstance(row.get("of1"), int | float)]
    known["score"] = f"oF1 {max(scores):.3f}" if scores else ""
    try:
        others = settings.changed_members(folder)
    except (OSError, UserError) as error:
        return Run(state="outdated", **known, note=first_line(error))
    if others:
        return Run(state="outdated", **known, note=f"not of what is here now: {', '.join(others)}")
    alone = "" if COPY_MOVE.name in settings.checkpoints else "without copy-move evidence: submit with --no-copy-move"
    return Run(state="fitted", **known, note=alone)


def next_steps(
    config: StatusConfig, runs: list[Run], folds: dict[Path, list[Run]], ensemble: Run
) -> list[tuple[str, str]]:
    """Commands in the order in which to run them, each with its reason, which may be empty."""
    folder, steps = config.models_dir, []
    for run in runs:
        files = [folder / f"{run.name}{end}" for end in ("_metrics.json", *_ENDS[:2])]
        if run.state == "damaged":
            # From its last state a run goes on; without its best epoch, it has to begin again.
            gone = files[:1] if "_metrics.json" in run.note and files[1].is_file() else files
            steps.append((f"rm -f {shlex.join(map(str, gone))}", f"{run.name}: {run.note}"))
        elif run.state == "broken off" and run.script and Path(next(iter(run.command), "")).name == run.script:
            flags = [*run.command[1:], *["--resume"] * ("--resume" not in run.command)]
            flags = [flag for flag in flags if flag != "--overwrite"]
            steps.append((f"python {shlex.join([run.script, *flags])}", f"goes on {run.note}"))
    members = [run for run in runs if run.name in SCRIPTS]
    left = [run.name for run in members if run.state not in (*_DONE, "in training")]
    profiles = {run.profile for run in members if run.profile}
    profile = profiles.pop() if len(profiles) == 1 else config.profile
    where = f"DATA={shlex.quote(str(config.data_dir))} MODELS={shlex.quote(str(folder))}"
    training = f"{where} PROFILE={profile}"
    if left and not (config.data_dir / "train_images").is_dir():
        source = f"python prepare_data.py import SOURCE {shlex.quote(str(config.data_dir))} --holdout 0.2"
        steps.append((source, f"{config.data_dir} has no train_images; or: python prepare_data.py demo"))
    if left:
        steps.append((f"make train {training}", f"{len(left)} of {len(members)} members"))
    if any(run.name in SCRIPTS and run.state not in _DONE for found in folds.values() for run in found):
        steps.append((f"make folds {training}", "the other folds"))
    if waiting := [run.name for run in members if run.state == "in training"]:
        steps.append((f"make status {training}", f"{', '.join(waiting)}: still in training"))
    if ensemble.state != "fitted":
        steps.append((f"make fit {where}", "weights, thresholds and decision"))
    steps.append((f"make submission {where}", "images → submission.csv"))
    for run in runs:
        if run.state == "missing" and run.script in DETECTORS.values():
            what = "is the picture generated?" if run.name == "spai_fusion" else "is the face in a video fake?"
            command = f"python {run.script} --data-dir DIR --models-dir {shlex.quote(str(folder))}"
            steps.append((command, f"optional: {what}"))
    return steps


def _row(run: Run) -> tuple[str, ...]:
    when = "" if math.isnan(run.when) else f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(run.when))}"
    return run.name, run.script, run.state, when, run.score, run.profile, run.note


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Columns that are left-aligned, without those that are empty."""
    lines = [head, *(tuple(readable(cell) for cell in row) for row in rows)]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in kept}
    lines.insert(1, tuple("-" * widths.get(column, 0) for column in range(len(head))))
    return "\n".join("  ".join(line[column].ljust(widths[column]) for column in kept).rstrip() for line in lines)


if __name__ == "__main__":
    prepare()
    main(tyro.cli(StatusConfig, description=__doc__))
