"""Loading of the ensemble: checkpoints, and the fitted settings if they belong to exactly these checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from common.devices import process_state
from common.ensemble.backends import choose_backend, load_with
from common.ensemble.choices import TTA, Backend
from common.ensemble.decision import Decision
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.evidence import EVIDENCE_THRESHOLD
from common.ensemble.instances import MIN_AREA_SHARE, Cleanup
from common.ensemble.members import (
    COPY_MOVE,
    SETTINGS_FILE,
    Member,
    checkpoint_paths,
    fold_folders,
    map_members,
    member_path,
)
from common.ensemble.settings import Settings
from common.ensemble.views import VIEWS, worker_count
from common.errors import UserError
from common.generated import DETECTORS, find_detectors, load_detectors
from common.training.checkpoint import load_checkpoint


def load_ensemble(
    models_dir: Path,
    device: torch.device | None = None,
    *,
    allow_missing: bool = False,
    tta: TTA | None = None,
    copy_move: bool = True,
    generated: bool = True,
    backend: Backend = "torch",
    n_images: int = 0,
) -> Ensemble:
    """Load all members and the settings: `load_ensemble(Path("models"), allow_missing=True).predict(images)`.

    Args:
        models_dir: Where the training scripts wrote the checkpoints. Its folders `fold_*`, if there are any, hold the
            same members of other folds. A folder of released networks alone (`.safetensors`) is whole as it is.
        device: Where the networks run; by default the process's.
        allow_missing: Continue without members that were not trained, printing each. With `copy_move`, its evidence
            decides alone if no network was trained.
        tta: Views of each image; None for those of the settings.
        copy_move: Whether copy-move evidence is one of the members.
        generated: Whether to use the detectors of generated images in `models_dir`, blended if there are two.
        backend: What runs the members' networks; the choice of `auto` is printed with its reason. Several processes
            that start at once all export what is not kept yet: run export_models.py before.
        n_images: About how many images will be predicted: for few of them `auto` exports no network.

    Raises:
        UserError: A checkpoint is missing (with the script that makes it) or broken, all networks of the average are
            missing, the folder is, the checkpoints are not of one training in folds, there are several detectors of
            one name, or the backend is not installed or can't run a network.
    """
    device = device or cast(torch.device, process_state().device)
    n_views = n_images * len(VIEWS[tta or "none"])
    paths = checkpoint_paths(models_dir)
    released = bool(paths) and all(path.suffix == ".safetensors" for path in paths)
    folds = load_members(
        models_dir,
        device,
        missing="ignore" if released else "note" if allow_missing else "refuse",
        copy_move=copy_move,
        backend=backend,
        n_views=n_views,
    )
    detectors = list(find_detectors(models_dir).values()) if generated else []
    detector = load_detectors(detectors, device) if detectors else None
    settings = _settings(models_dir, folds, detectors, copy_move=copy_move)
    if tta is not None and tta != settings.tta and settings.checkpoints:  # else nothing was fitted
        print(f"note: the decision was fitted on maps of the views {settings.tta}; {tta} may shift its probabilities")
    settings = settings if tta is None else replace(settings, tta=tta)
    return Ensemble(folds, settings, device, copy_move=copy_move, detector=detector)


def load_members(
    models_dir: Path,
    device: torch.device,
    *,
    missing: Literal["refuse", "note", "ignore"],
    copy_move: bool,
    backend: Backend,
    n_views: int,
) -> list[list[Loaded]]:
    """The networks of each fold, one empty fold where copy-move evidence decides alone.

    Args:
        models_dir: The folder of the checkpoints itself; the other arguments are as for `load_ensemble`.
        device: Where the networks run.
        missing: What to do about members that were not trained: note prints each and continues.
        copy_move: Whether copy-move evidence is one of the members.
        backend: What runs the networks.
        n_views: How many images and views of them each network will be applied to.

    Raises:
        UserError: As `load_ensemble`.
    """
    networks = map_members()
    absent = [member for member in networks if not member_path(models_dir, member).is_file()]
    listing = "".join(f"\n  {member_path(models_dir, m)} (made by {m.script})" for m in absent)
    alone = copy_move and absent == networks
    if alone and missing != "refuse" and not models_dir.is_dir():
        raise UserError(f"there is no folder {models_dir}. Train a network, or name an empty folder.")
    if not alone and all(member in absent for member in networks if member.role == "average"):
        raise UserError(f"no member of the average is trained; missing checkpoints:{listing}\nTrain one.")
    if absent and missing == "refuse":
        rest = ", and decide by copy-move evidence alone," if alone else ""
        raise UserError(f"missing checkpoints:{listing}\nTrain them, or go on without{rest} by allow_missing.")
    if absent and missing == "note":
        print(f"the ensemble goes on without:{listing}")
    if alone:
        print("no network is trained: copy-move evidence alone decides")
        return [[]]
    members = [member for member in networks if member not in absent]
    folds = _load_folds(fold_folders(models_dir), members, backend, device, n_views)
    _check_folds(models_dir, folds)
    return folds


def _load_folds(
    folders: list[Path], members: list[Member], backend: Backend, device: torch.device, n_views: int
) -> list[list[Loaded]]:
    """The members of each folder, all with the same backend."""
    folds = [_load_checkpoints(folder, members) for folder in folders]
    paths = [path for fold in folds for path in fold]
    size = max(checkpoint["config"]["image_size"] for checkpoint in folds[0].values())
    chosen, why = choose_backend(backend, device, paths, n_views * size**2)
    if backend == "auto":
        print(f"the networks are run by {chosen}: {why}")
    loaded, threads = [], max(1, torch.get_num_threads() // worker_count(size, device))
    for fold in folds:
        loaded.append([])
        for member, (path, checkpoint) in zip(members, fold.items(), strict=True):
            network = load_with(chosen, path, checkpoint, fall_back=backend == "auto", threads=threads)
            rest = {key: value for key, value in checkpoint.items() if not key.endswith("_state_dict")}
            loaded[-1].append(Loaded(member, network, rest))
    return loaded


def _load_checkpoints(folder: Path, members: list[Member]) -> dict[Path, dict[str, Any]]:
    """The checkpoint of each member, by its file."""
    fold = {}
    for member in members:
        path = member_path(folder, member)
        if not path.is_file():
            raise UserError(
                f"{path} is missing: each fold_* folder needs the members of {folder.parent} (`make folds`)."
            )
        checkpoint = load_checkpoint(path, mapped=True)
        if (channels := checkpoint["config"]["in_channels"]) != member.in_channels:
            raise UserError(
                f"{path} reads {channels} channels, {member.name} {member.in_channels}: it is another network under "
                f"this name. Train it again with {member.script}."
            )
        fold[path] = checkpoint
    return fold


def _check_folds(models_dir: Path, folds: list[list[Loaded]]) -> None:
    """Refuse checkpoints that are not folds of one training: one fold would count twice, or the data differ."""
    if len(folds) == 1:
        return
    checkpoints = [loaded.checkpoint for fold in folds for loaded in fold]
    runs = {(c.get("data_fingerprint"), c["config"].get("folds"), c["config"].get("fold_seed")) for c in checkpoints}
    numbers = [{loaded.checkpoint.get("fold") for loaded in fold} for fold in folds]
    if len(runs) > 1 or any(len(n) > 1 for n in numbers) or len(set.union(*numbers)) < len(folds):
        raise UserError(
            f"the checkpoints in {models_dir} and its fold_* folders are not one training in folds: they need equal "
            "data, `folds` and `fold_seed`, and another `fold` in each folder. Train them again (`make folds`), or "
            "move the folders that don't belong."
        )


def original_settings(networks: list[Loaded], *, copy_move: bool = False) -> Settings:
    """Settings before any fit: the original recipe's weights, and the decision of one network.

    Threshold and calibration are those of the averaged network with the highest weight, fitted on its own maps of its
    validation fold: good for that network alone, a guess for the blend. Without a network the calibrated score of the
    copies decides.
    """
    weights = {loaded.member.name: loaded.member.weight for loaded in networks}
    if copy_move:
        weights[COPY_MOVE.name] = COPY_MOVE.weight
    feature, threshold, calibration = "copy_score", EVIDENCE_THRESHOLD, {"slope": 1.0, "intercept": 0.0}
    averaged = [loaded for loaded in networks if loaded.member.role == "average"]
    if averaged:
        leader = max(averaged, key=lambda loaded: loaded.member.weight).checkpoint
        feature, threshold, calibration = "quantile_999", leader["threshold"], leader["calibration"]
    return Settings(
        weights=weights,
        pixel_threshold=threshold,
        min_area_share=MIN_AREA_SHARE,
        cleanup=Cleanup(),
        tta="none",
        # A model of one feature with coefficient 1 is Platt scaling of that feature.
        decision=Decision(
            features=(feature,), mean=(0.0,), scale=(1.0,), coefficients=(1.0,), intercept=0.0, calibration=calibration
        ),
        source="original",
        checkpoints={},
    )


def _settings(models_dir: Path, folds: list[list[Loaded]], detectors: list[Path], *, copy_move: bool) -> Settings:
    """The fitted settings if there are any for exactly these members, else the original ones.

    Those that do not read the detector of generated images are valid with and without one.
    """
    path = models_dir / SETTINGS_FILE
    if path.is_file():
        settings = Settings.load(path)
        reads = settings.decision.reads_generated
        changed = set(settings.changed_members(models_dir, copy_move=copy_move, generated=bool(detectors)))
        if not changed:
            if detectors and not reads:
                print(
                    f"note: the decision of {path} does not read {', '.join(detector.name for detector in detectors)}"
                )
            return settings
        others = "other checkpoints"
        if changed == {COPY_MOVE.name}:
            others = "other copy-move evidence, or none,"
        elif changed <= set(DETECTORS):
            others = "a detector of generated images that is not used now"
        print(f"{path} was fitted for {others} and is left aside. Fit again: python fit_ensemble.py")
    if len(folds[0]) > 1:
        print(f"the decision is not fitted for this blend: {folds[0][0].member.name}'s stands in (fit_ensemble.py)")
    return original_settings(folds[0], copy_move=copy_move)
