"""The members of the ensemble: this table is the one place that names them. And what they say of an image together."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from common.data.transforms import resize_map
from common.errors import UserError
from common.forensics.copy_move import VERSION
from common.inference.backends import Backend, choose_backend, load_by
from common.inference.blending import Role, blend, join_evidence
from common.inference.evidence import EVIDENCE_THRESHOLD, Evidence, gather
from common.inference.gate import (
    COPY_FEATURES,
    DETECTOR,
    FEATURE_SIZE,
    Decision,
    copy_features,
    feature_maps,
    generated_features,
    map_features,
)
from common.inference.generated import Detector, Generated, find_detector, load_detector
from common.inference.instances import MIN_AREA_SHARE, Cleanup
from common.inference.precision import to_half, to_single
from common.inference.settings import Settings
from common.inference.views import TTA, VIEWS, Network, Pieces, Sight, Viewer, cut, is_large, predict_maps
from common.training.checkpoint import load_checkpoint

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network's place in the ensemble, or that of the copy-move evidence."""

    name: str
    """models/<name>_best.pth, of the detector of generated images models/<name>*_best.pth."""
    script: str | None = None
    """The program that trains it; None for evidence, which is not trained and has no checkpoint."""
    in_channels: int = 3
    weight: float
    """Of the role `average`: in the weighted mean. Of `union` and `evidence`: the factor on its probabilities (seed's
    values). Of a `gate`: 0, since it has no map to be weighed."""
    role: Role
    tile_share: float | None = None
    """For a member trained on crops: it sees an image in tiles of this share of the longer side only."""


COPY_MOVE = Member(name="copy_move", weight=1.0, role="evidence")
SPAI = Member(name=DETECTOR, script="script_7_spai_fusion.py", weight=0.0, role="gate")
MEMBERS = (
    Member(name="highres_no_ela", script="script_1_highres_no_ela.py", in_channels=3, weight=1.5, role="average"),
    Member(name="hard_negative", script="script_2_hard_negative_mining.py", in_channels=3, weight=1.2, role="average"),
    Member(name="high_recall", script="script_3_hard_fn_mining.py", in_channels=3, weight=1.0, role="average"),
    Member(name="enhanced_aug", script="script_4_enhanced_augmentation.py", in_channels=3, weight=0.8, role="average"),
    Member(name="ela", script="script_5_ela.py", in_channels=4, weight=0.5, role="average"),
    Member(
        name="small_forgery_specialist",
        script="script_6_small_forgery_specialist.py",
        in_channels=3,
        weight=0.8,
        role="union",
        tile_share=0.4,
    ),
    COPY_MOVE,
    SPAI,
)
SETTINGS_FILE = "ensemble.json"


@dataclass(frozen=True)
class Loaded:
    """A member's network of one fold."""

    member: Member
    network: Network
    checkpoint: dict[str, Any]
    """Without the weights."""

    @property
    def viewer(self) -> Viewer:
        """The network, and what it is to be shown."""
        sight = Sight(self.checkpoint["config"]["image_size"], self.member.tile_share)
        return Viewer(self.network, sight, self.member.in_channels)


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says of an image."""

    prob: np.ndarray
    """Probability of each pixel, float32 (h, w): the size of the image if it is large or evidence is drawn in it, else
    the networks'."""
    forged_probability: float
    """Calibrated, in (0, 1]."""
    evidence: Evidence | None = None
    """The copies found; None where none were looked for."""
    generated: Generated | None = None
    """Whether the image as a whole is generated; None where no detector was asked."""


class Ensemble:
    """The loaded members, and how they are blended. One preprocessing serves them all (`common.inference.views`)."""

    def __init__(
        self,
        folds: list[list[Loaded]],
        settings: Settings,
        device: torch.device,
        copy_move: bool = False,
        workers: int = 1,
        detector: Detector | None = None,
    ) -> None:
        """Hold the networks of each fold; see `load_ensemble`.

        Args:
            folds: At least one, with the same members in each; without any, the evidence alone decides.
            settings: With a weight for each member.
            device: Where the networks run.
            copy_move: Whether the evidence is one of the members.
            workers: Processes that look for copies. As many as `predict` has images at a time can be busy.
            detector: Of generated images; without a fit that reads it, it changes no decision.
        """
        self.folds = folds
        self.settings = settings
        self.device = device
        self.copy_move = copy_move
        self.workers = workers
        self.detector = detector
        self.networks = [loaded.member for loaded in folds[0]]
        self.members = [*self.networks, *([COPY_MOVE] if copy_move else [])]
        self._viewers = [[loaded.viewer for loaded in fold] for fold in folds]
        self.map_size = max((v.sight.size for viewers in self._viewers for v in viewers), default=FEATURE_SIZE)
        for fold in folds:
            for loaded in fold:
                if isinstance(loaded.network, nn.Module):
                    loaded.network.to(device)

    def predict(self, images: list[np.ndarray]) -> list[Prediction]:
        """Blend and decide RGB images, uint8 (H, W, 3). The folds' maps, and their probabilities, are averaged.

        Processes look for copies while the networks predict.
        """
        evidence = gather(images, self.workers) if self.copy_move else iter([None] * len(images))
        predictions = [prediction for batch in self._batches(images) for prediction in self._predict(batch, evidence)]
        next(evidence, None)  # ends it here: while the garbage collector ends it, Python loses a Ctrl-C
        return predictions

    def _batches(self, images: list[np.ndarray]) -> list[list[np.ndarray]]:
        """All at a time, unless one is large: one large image's maps at a time are enough for the memory."""
        alone = any(is_large(*image.shape[:2], self.map_size) for image in images)
        return [[image] for image in images] if alone else [images]

    def _predict(self, images: list[np.ndarray], evidence: Iterator[Evidence | None]) -> list[Prediction]:
        """The next images, and the evidence in them."""
        shown = self._show(images)
        by_fold = [list(self._blends(images, fold, shown)) for fold in range(len(self.folds))]
        generated = self.detector.predict(images) if self.detector else [None] * len(images)
        found = islice(evidence, len(images))
        by_image = zip(zip(*by_fold, strict=True), found, generated, strict=True)
        return [self._decide(*own) for own in by_image]

    def _decide(
        self,
        by_fold: Sequence[tuple[np.ndarray, dict[str, float]]],
        found: Evidence | None,
        generated: Generated | None,
    ) -> Prediction:
        """One image, by the evidence, the detector and each fold's blend with its features."""
        blends = [blended for blended, _ in by_fold]
        prob = blends[0] if len(blends) == 1 else np.mean(blends, axis=0)
        decision, own = self.settings.decision, {}
        if found is not None:
            prob = join_evidence(prob, found.prob, self.settings.weights[COPY_MOVE.name])
            own |= copy_features(found.score, found.inliers, found.area_share)
        if generated is not None:
            own |= generated_features(generated.probability)
        probability = float(np.mean([decision.probability(features | own) for _, features in by_fold]))
        if found is not None and not set(COPY_FEATURES) & set(decision.features):
            # It is the networks' alone: of two witnesses that know nothing of each other, the surer one counts.
            probability = max(probability, found.score)
        return Prediction(prob, probability, found, generated)

    def _blends(
        self, images: list[np.ndarray], fold: int, shown: dict[Sight, Pieces]
    ) -> Iterator[tuple[np.ndarray, dict[str, float]]]:
        """The blend of a fold's networks for each image, and its features."""
        if not self.networks:
            yield from [(np.zeros((self.map_size, self.map_size), np.float32), {})] * len(images)
            return
        roles, weights = zip(*((m.role, self.settings.weights[m.name]) for m in self.networks), strict=True)
        for maps in self._maps(fold, shown):
            # The features are of the maps that the decision was fitted on: brought to their size first, then blended.
            half = feature_maps(maps)
            small = to_single(half)
            blended = blend(small, roles, weights)
            by_name = {member.name: prob for member, prob in zip(self.networks, small, strict=True)}
            features = map_features(blended, by_name, self.settings.pixel_threshold)
            yield blended if half is maps else blend(maps, roles, weights), features

    def member_maps(self, images: list[np.ndarray], fold: int = 0) -> Iterator[np.ndarray]:
        """The networks' maps of each image, float16 (M, h, w): at the image's size if it is large, else `map_size`.

        Args:
            images: RGB, uint8 (H, W, 3).
            fold: Position in `folds`.
        """
        for batch in self._batches(images):
            yield from self._maps(fold, self._show(batch, [fold]))

    def _show(self, images: list[np.ndarray], folds: Iterable[int] | None = None) -> dict[Sight, Pieces]:
        """What the networks of these folds, by default of all, see of images."""
        return cut(images, [viewer for fold in folds or range(len(self.folds)) for viewer in self._viewers[fold]])

    def _maps(self, fold: int, shown: dict[Sight, Pieces]) -> list[np.ndarray]:
        """`member_maps` of the images shown."""
        predicted = predict_maps(self._viewers[fold], shown, device=self.device, tta=self.settings.tta)
        # As float16 at once: as float32, those of all networks of a large image would take twice the memory.
        by_member = {number: [to_half(prob) for prob in maps] for number, maps in predicted}
        in_order = (by_member[number] for number in range(len(self.networks)))
        return [self._stack(maps) for maps in zip(*in_order, strict=True)]

    def _stack(self, maps: tuple[np.ndarray, ...]) -> np.ndarray:
        """Maps of one image, float16, at the size of the largest."""
        size = max((prob.shape for prob in maps), key=lambda shape: shape[0] * shape[1])
        if size[0] * size[1] < self.map_size**2:
            size = (self.map_size, self.map_size)
        return np.stack([prob if prob.shape == size else to_half(resize_map(to_single(prob), *size)) for prob in maps])


def load_ensemble(
    models_dir: Path,
    device: torch.device,
    allow_missing: bool = False,
    tta: TTA | None = None,
    fitted: bool = True,
    copy_move: bool = True,
    workers: int = 1,
    generated: bool = True,
    backend: Backend = "torch",
    n_images: int = 0,
) -> Ensemble:
    """Load every network's checkpoint, and the fitted settings where they belong to these checkpoints.

    Args:
        models_dir: Where the training scripts wrote them. Its folders `fold_*`, where there are any, hold the same
            members of other folds.
        device: Where the networks run.
        allow_missing: Go on without members that were not trained, printing each.
        tta: Views of each image; None for those of the settings.
        fitted: Read the settings; else the seed's count.
        copy_move: Whether copy-move evidence is one of the members. With `allow_missing` it decides alone where no
            network was trained.
        workers: Processes that look for copies.
        generated: Whether the detector of generated images is asked, if there is one in `models_dir`.
        backend: What runs the members' networks; which one `auto` takes is printed, and why. Several processes that
            start at once convert each for itself what is not kept yet: run export_models.py before.
        n_images: About how many images will be predicted: for few of them `auto` converts no network.

    Raises:
        UserError: A checkpoint is missing (with the script that makes it) or broken, all that are averaged are
            missing, the folder is, the checkpoints are not of one training in folds, there are several detectors, or
            the backend is not installed or can't run a network.
    """
    networks = map_members()
    missing = [member for member in networks if not member_path(models_dir, member).is_file()]
    listing = "".join(f"\n  {member_path(models_dir, m)} (made by {m.script})" for m in missing)
    alone = copy_move and missing == networks
    if alone and allow_missing and not models_dir.is_dir():
        raise UserError(f"there is no folder {models_dir}. Train a network, or name an empty folder.")
    if not alone and all(member in missing for member in networks if member.role == "average"):
        raise UserError(f"no member of the average is trained; missing checkpoints:{listing}\nTrain one.")
    if missing and not allow_missing:
        rest = ", and decide by copy-move evidence alone," if alone else ""
        raise UserError(f"missing checkpoints:{listing}\nTrain them, or go on without{rest} by --allow-missing.")
    if missing:
        print(f"the ensemble goes on without:{listing}")
    if alone:
        print("no network is trained: copy-move evidence alone decides")
    members = [member for member in networks if member not in missing]
    n_views = n_images * len(VIEWS[tta or "none"])
    folds = [[]] if alone else _load_folds(_folders(models_dir), members, backend, device, n_views)
    _check_folds(models_dir, folds)
    path = find_detector(models_dir) if generated else None
    detector = None if path is None else load_detector(path, device)
    settings = _settings(models_dir, folds, copy_move, path) if fitted else seed_settings(folds[0], copy_move)
    if tta is not None and tta != settings.tta and settings.checkpoints:  # else nothing was fitted
        print(f"note: the decision was fitted on maps of --tta {settings.tta}; {tta} may shift its probabilities")
    settings = settings if tta is None else replace(settings, tta=tta)
    return Ensemble(folds, settings, device, copy_move, workers, detector)


def checkpoint_paths(models_dir: Path) -> list[Path]:
    """The checkpoints of the networks that draw maps, of all folds, as far as they were trained."""
    paths = [member_path(folder, member) for folder in _folders(models_dir) for member in map_members()]
    return [path for path in paths if path.is_file()]


def _folders(models_dir: Path) -> list[Path]:
    """One a fold: the folder itself, and its folders `fold_*`."""
    return [models_dir, *sorted(models_dir.glob("fold_*"))]


def _load_folds(
    folders: list[Path], members: list[Member], backend: Backend, device: torch.device, n_views: int
) -> list[list[Loaded]]:
    """The members of each folder, run by one backend, each to look at so many images and views of them."""
    folds = [_load_checkpoints(folder, members) for folder in folders]
    paths = [path for fold in folds for path in fold]
    size = max(checkpoint["config"]["image_size"] for checkpoint in folds[0].values())
    chosen, why = choose_backend(backend, device, paths, n_views * size**2)
    if backend == "auto":
        print(f"the networks are run by {chosen}: {why}")
    loaded = []
    for fold in folds:
        loaded.append([])
        for member, (path, checkpoint) in zip(members, fold.items(), strict=True):
            network = load_by(chosen, path, checkpoint, or_torch=backend == "auto")
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
    """Refuse checkpoints that don't make up folds: their average would be of other data, or count one fold twice."""
    if len(folds) == 1:
        return
    checkpoints = [loaded.checkpoint for fold in folds for loaded in fold]
    runs = {(c.get("data_fingerprint"), c["config"].get("folds"), c["config"].get("seed")) for c in checkpoints}
    numbers = [{loaded.checkpoint.get("fold") for loaded in fold} for fold in folds]
    if len(runs) > 1 or any(len(n) > 1 for n in numbers) or len(set.union(*numbers)) < len(folds):
        raise UserError(
            f"the checkpoints in {models_dir} and its fold_* folders are not one training in folds: they need the same "
            "data, --folds and --seed, and a --fold of its own for each folder. Train them again (`make folds`), or "
            "move the folders that don't belong."
        )


def seed_settings(networks: list[Loaded], copy_move: bool = False) -> Settings:
    """How members are blended before anything was fitted for them together.

    The weights are the seed's; threshold and calibration are those of the heaviest averaged network, fitted on its
    own maps of its validation fold: near the truth for that network alone, a guess for the blend. Without a network
    the score of the copies, calibrated as it is, decides.
    """
    weights = {loaded.member.name: loaded.member.weight for loaded in networks}
    if copy_move:
        weights[COPY_MOVE.name] = COPY_MOVE.weight
    feature, threshold, calibration = "copy_score", EVIDENCE_THRESHOLD, {"slope": 1.0, "intercept": 0.0}
    averaged = [loaded for loaded in networks if loaded.member.role == "average"]
    if averaged:
        leader = max(averaged, key=lambda loaded: loaded.member.weight).checkpoint
        feature, threshold, calibration = "quantile_999", leader["threshold"], leader["calibration"]
    # A model of one feature with coefficient 1 is what Platt scaling of that feature is.
    platt = {"mean": (0.0,), "scale": (1.0,), "coefficients": (1.0,), "intercept": 0.0}
    return Settings(
        weights=weights,
        pixel_threshold=threshold,
        min_area_share=MIN_AREA_SHARE,
        cleanup=Cleanup(),
        tta="none",
        decision=Decision(features=(feature,), calibration=calibration, **platt),
        source="seed",
        checkpoints={},
    )


def _settings(models_dir: Path, folds: list[list[Loaded]], copy_move: bool, detector: Path | None) -> Settings:
    """The fitted settings if there are any for exactly these members, else the seed's.

    Those that do not read the detector of generated images are for submissions with and without one.
    """
    path = models_dir / SETTINGS_FILE
    if path.is_file():
        settings = Settings.load(path)
        reads = settings.decision.reads_generated
        present = identities(models_dir, copy_move, generated=reads and detector is not None)
        if settings.checkpoints == present:
            if detector is not None and not reads:
                print(f"note: the decision of {path} does not read {detector.name}")
            return settings
        changed = {name for name, _ in settings.checkpoints.items() ^ present.items()}
        others = "other checkpoints"
        if changed == {COPY_MOVE.name}:
            others = "other copy-move evidence, or none,"
        elif changed == {SPAI.name}:
            others = "a detector of generated images that is not asked now"
        print(f"{path} was fitted for {others} and is left aside. Fit anew: python fit_ensemble.py")
    if len(folds[0]) > 1:
        print(f"the decision is not fitted for this blend: {folds[0][0].member.name}'s stands in (fit_ensemble.py)")
    return seed_settings(folds[0], copy_move)


def identities(models_dir: Path, copy_move: bool = False, generated: bool = False) -> dict[str, str]:
    """Name → hash of its checkpoint files, those of `fold_*` folders included, for the networks that have any.

    With `copy_move`, the version of its detector too; with `generated`, the hash of the detector of generated images,
    if there is one.
    """
    found = {}
    for member in map_members():
        files = [member_path(folder, member) for folder in _folders(models_dir)]
        if digests := b"".join(_digest(path) for path in files if path.is_file()):
            found[member.name] = hashlib.sha256(digests).hexdigest()[:16]
    if copy_move:
        found[COPY_MOVE.name] = f"version {VERSION}"
    if generated and (path := find_detector(models_dir)):
        found[SPAI.name] = _digest(path).hex()[:16]
    return found


def map_members() -> list[Member]:
    """The members that draw a map by a network, trained or not."""
    return [member for member in MEMBERS if member.role in ("average", "union")]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def member_path(models_dir: Path, member: Member) -> Path:
    """The member's checkpoint."""
    return models_dir / f"{member.name}_best.pth"
