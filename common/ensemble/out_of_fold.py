"""Out-of-fold predictions of the members, cached on disk."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from common.data.images import read_image
from common.data.masks import read_mask
from common.data.samples import Sample, assign_folds, fingerprint
from common.data.transforms import resize_mask
from common.devices import process_state
from common.ensemble.choices import TTA, Backend
from common.ensemble.decision import COPY_FEATURES, FEATURE_SIZE, copy_features, feature_maps
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.evidence import EVIDENCE_THRESHOLD, gather
from common.ensemble.fitting import Oof
from common.ensemble.loading import load_members, original_settings
from common.ensemble.members import checkpoint_paths, identities, map_members
from common.ensemble.views import LARGE, MIN_TILE, TILE_WEIGHT, TILES_ALONG, VIEWS
from common.errors import UserError
from common.files import written_whole
from common.forensics.copy_move import VERSION
from common.generated import DETECTOR, DETECTORS, find_detectors, load_detectors
from common.training.checkpoint import load_checkpoint

BATCH_SIZE = 8

_EVIDENCE = np.dtype([("prob", "<f2", (FEATURE_SIZE, FEATURE_SIZE)), ("features", "<f8", (len(COPY_FEATURES),))])


def out_of_fold(
    models_dir: Path,
    samples: list[Sample],
    *,
    tta: TTA = "none",
    allow_missing: bool = False,
    copy_move: bool = True,
    workers: int = 1,
    generated: bool = True,
    backend: Backend = "torch",
) -> Oof:
    """Predict each image with the members that were not trained on its fold.

    Args:
        models_dir: The folder of one fold's checkpoints; its folders `fold_*`, if there are any, are those of others.
        samples: All images of the data folder that the members were trained on.
        tta: Views of each image.
        allow_missing: Continue without members that were not trained, printing each.
        copy_move: Whether copy-move evidence is one of the members.
        workers: Processes for copy-move detection.
        generated: Whether to use the detectors of generated images, blended, if there are any. They have no folds:
            their training images must be others.
        backend: What runs the members' networks. Cached maps are used whichever made them: the differences are too
            small to count.

    Returns:
        Maps and truth of the images of those folds. The maps are memory-mapped from `models_dir`/oof_<tta>_<key>.npy,
        the evidence from oof_copy_move_<key>.npy, the probabilities of being generated from oof_generated_<key>.npy.
        They are computed again when checkpoints, detectors, data or the content of an image have changed.

    Raises:
        UserError: Checkpoints are missing, were trained on other data, or do not make up folds.
    """
    # All that determines the maps: if any of it changes, cached ones are stale.
    checkpoints, data = identities(models_dir, generated=generated), fingerprint(samples)
    detectors = [checkpoints.pop(name) for name in DETECTORS if name in checkpoints]
    shares = [member.tile_share for member in map_members() if member.name in checkpoints]
    constants = [FEATURE_SIZE, LARGE, TILES_ALONG, TILE_WEIGHT, MIN_TILE]
    pixels = _pixels(samples)
    maps_key = [checkpoints, data, pixels, shares, constants]
    device = cast(torch.device, process_state().device)
    members = load_members(
        models_dir,
        device,
        missing="note" if allow_missing else "refuse",
        copy_move=copy_move,
        backend="torch" if _path(models_dir, tta, maps_key).is_file() else backend,  # cached: no network is run
        n_views=len(samples) // _folds(models_dir) * len(VIEWS[tta]),
    )
    if not members[0]:
        raise UserError(f"{models_dir} has no trained network, and copy-move evidence alone needs no fit. Train one.")
    parts = []
    for fold in members:
        runs = {_run(loaded, data) for loaded in fold}
        if len(runs) > 1:
            raise UserError(
                f"the members in {models_dir} were trained on different folds. Train all with the same `folds`, "
                "`fold_seed` and `fold`."
            )
        folds, seed, number = runs.pop()
        held_out = np.flatnonzero(assign_folds(samples, folds, seed) == number)
        parts.append([samples[position] for position in held_out])
    chosen = [sample for part in parts for sample in part]
    names = [(sample.case_id, sample.forged) for sample in chosen]
    evidence, probabilities = None, None
    if copy_move:
        key = [VERSION, EVIDENCE_THRESHOLD, FEATURE_SIZE, data, pixels, names]
        evidence = _cached(models_dir, "copy_move", key, lambda file: _write_evidence(chosen, workers, file))
    if detectors:
        key = [*detectors, data, pixels, names]
        paths = list(find_detectors(models_dir).values())
        probabilities = _cached(
            models_dir, "generated", key, lambda file: _write_generated(paths, device, chosen, file)
        )
    settings = replace(original_settings(members[0], copy_move=copy_move), tta=tta)
    ensemble = Ensemble(members, settings, device, copy_move=copy_move)
    maps = _cached(models_dir, tta, maps_key, lambda file: _write_maps(ensemble, parts, file))
    return Oof(
        names=tuple(member.name for member in ensemble.members),
        roles=tuple(member.role for member in ensemble.members),
        original_weights=tuple(member.weight for member in ensemble.members),
        maps=maps,
        evidence=None if evidence is None else evidence["prob"],
        copies=None if evidence is None else evidence["features"],
        generated=probabilities,
        truths=[_truth(sample) for sample in chosen],
        groups=np.array([sample.group for sample in chosen]),
        sizes=np.array([sample.size for sample in chosen]),
    )


def _cached(models_dir: Path, what: str, key: list, write: Callable[[IO], None]) -> np.ndarray:
    """The array of oof_<what>_<hash of the key>.npy, memory-mapped; `write` makes the file if it is missing."""
    path = _path(models_dir, what, key)
    if not path.is_file():
        for stale in models_dir.glob(f"oof_{what}_*.npy"):
            stale.unlink()
        with written_whole(path, "wb") as file:
            write(file)
    return np.load(path, mmap_mode="r")


def _path(models_dir: Path, what: str, key: list) -> Path:
    return models_dir / f"oof_{what}_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}.npy"


def _pixels(samples: list[Sample]) -> str:
    """Hash of the images' files in their order: the fingerprint of the data holds their sizes only."""
    return hashlib.sha256("".join(sample.image_hash for sample in samples).encode()).hexdigest()


def _folds(models_dir: Path) -> int:
    """The number of folds that the networks were trained in; 1 if there are none."""
    paths = checkpoint_paths(models_dir)
    return load_checkpoint(paths[0], mapped=True)["config"]["folds"] if paths else 1


def _write_evidence(samples: list[Sample], workers: int, file: IO) -> None:
    """Write the evidence in each sample, image by image."""
    np.lib.format.write_array_header_2_0(file, _header(_EVIDENCE, len(samples)))
    images = (read_image(sample.image) for sample in samples)
    for found in tqdm(gather(images, workers), "copy_move", len(samples), unit="img", disable=None):
        features = copy_features(found.score, found.inliers, found.area_share)
        record = np.array((feature_maps(found.prob[None])[0], tuple(features.values())), _EVIDENCE)
        file.write(record.tobytes())


def _write_generated(paths: list[Path], device: torch.device, samples: list[Sample], file: IO) -> None:
    """Write the probability that each sample is generated, float64 (n,), by batches."""
    np.lib.format.write_array_header_2_0(file, _header(np.dtype("<f8"), len(samples)))
    detector = load_detectors(paths, device)
    with tqdm(total=len(samples), desc=DETECTOR, unit="img", disable=None) as bar:
        for start in range(0, len(samples), BATCH_SIZE):
            images = [read_image(sample.image, upright=True) for sample in samples[start : start + BATCH_SIZE]]
            probabilities = [found.probability for found in detector.predict(images)]
            file.write(np.array(probabilities, "<f8").tobytes())
            bar.update(len(images))


def _header(dtype: np.dtype, *shape: int) -> dict[str, Any]:
    return {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}


def _run(loaded: Loaded, data: str) -> tuple[int, int, int]:
    """Number of folds, their seed, and the fold of a member, which must be trained on the data of this fingerprint."""
    if loaded.checkpoint.get("data_fingerprint") != data:
        raise UserError(
            f"{loaded.member.name} was trained on other data: its held-out images are not known. Name the data folder "
            "that it was trained on, or train it on this one."
        )
    config = loaded.checkpoint["config"]
    return config["folds"], config["fold_seed"], config["fold"]


def _write_maps(ensemble: Ensemble, parts: list[list[Sample]], file: IO) -> None:
    """Write the maps of each fold's samples, float16 (n, M, S, S), image by image."""
    count = sum(map(len, parts))
    header = _header(np.dtype("<f2"), count, len(ensemble.networks), FEATURE_SIZE, FEATURE_SIZE)
    np.lib.format.write_array_header_2_0(file, header)
    with tqdm(total=count, desc=f"views {ensemble.settings.tta}", unit="img", disable=None) as bar:
        for fold, samples in enumerate(parts):
            for start in range(0, len(samples), BATCH_SIZE):
                batch = samples[start : start + BATCH_SIZE]
                images = [read_image(sample.image) for sample in batch]
                for sample, maps in zip(batch, ensemble.member_maps(images, fold), strict=True):
                    for member, prob in zip(ensemble.networks, maps, strict=True):
                        if not np.isfinite(prob).all():
                            raise UserError(f"{member.name} has no finite result for {sample.image}. Train it again.")
                    file.write(feature_maps(maps).astype("<f2").tobytes())
                bar.update(len(images))


def _truth(sample: Sample) -> np.ndarray:
    """Masks uint8 (k, S, S) of an image at the maps' size; k = 0 for an authentic one."""
    if sample.mask is None:
        return np.zeros((0, FEATURE_SIZE, FEATURE_SIZE), np.uint8)
    return np.stack([resize_mask(channel[None], FEATURE_SIZE) for channel in read_mask(sample.mask)])
