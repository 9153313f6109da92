"""What the members of the ensemble say of an image together."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from common.data.transforms import resize_map
from common.ensemble.ahead import ahead, threads
from common.ensemble.blending import blend, join_evidence
from common.ensemble.decision import (
    COPY_FEATURES,
    FEATURE_SIZE,
    copy_features,
    feature_maps,
    generated_features,
    map_features,
)
from common.ensemble.evidence import Evidence, gather
from common.ensemble.members import COPY_MOVE, Member
from common.ensemble.precision import to_half, to_single
from common.ensemble.settings import Settings
from common.ensemble.views import Network, Pieces, Sight, Viewer, cut, is_large, predict_pieces, streams
from common.generated import Detector, Generated


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
    """The loaded members, and how they are blended. One preprocessing serves them all (`common.ensemble.views`)."""

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
        # The networks look in threads of their own, so many at once; beside them is cut and blended, on CPUs a sixth of
        # the work at most (docs/SCALING.md).
        self._streams = streams(self.map_size, device)
        self._threads = max(1, torch.get_num_threads() // 4)
        for fold in folds:
            for loaded in fold:
                if isinstance(loaded.network, nn.Module):
                    loaded.network.to(device)

    def predict(self, images: list[np.ndarray]) -> list[Prediction]:
        """Blend and decide RGB images, uint8 (H, W, 3). The folds' maps, and their probabilities, are averaged.

        While networks look at an image, threads cut the next one and blend the last, and processes look for copies.
        """
        evidence = gather(images, self.workers) if self.copy_move else iter([None] * len(images))
        # With all of torch's threads, which the networks share out.
        generated = iter(self.detector.predict(images) if self.detector else [None] * len(images))
        decided = []
        with self._looking() as looking, threads(self._threads) as beside:
            for batch, shown in self._shown(images, range(len(self.folds)), beside):
                if len(decided) > 1:
                    decided[-2].result()  # the maps of two large images at a time are enough for the memory
                by_fold = [
                    beside.submit(self._blends, fold, len(batch), self._look(fold, shown, looking, beside))
                    for fold in range(len(self.folds))
                ]
                found, own = (list(islice(whole, len(batch))) for whole in (evidence, generated))
                decided.append(beside.submit(self._decide, by_fold, found, own))
            predictions = [prediction for batch in decided for prediction in batch.result()]
        next(evidence, None)  # ends it here: while the garbage collector ends it, Python loses a Ctrl-C
        return predictions

    def member_maps(self, images: list[np.ndarray], fold: int = 0) -> Iterator[np.ndarray]:
        """The networks' maps of each image, float16 (M, h, w): at the image's size if it is large, else `map_size`.

        Args:
            images: RGB, uint8 (H, W, 3).
            fold: Position in `folds`.
        """
        with self._looking() as looking, threads(self._threads) as beside:
            looks = (self._look(fold, shown, looking, beside) for _, shown in self._shown(images, [fold], beside))
            for stacks in ahead(beside, self._stacks, looks):
                yield from stacks

    @contextmanager
    def _looking(self) -> Iterator[ThreadPoolExecutor]:
        """Threads for the networks, which share out torch's."""
        total = torch.get_num_threads()
        each = max(1, total // self._streams)
        try:
            with threads(self._streams, initializer=torch.set_num_threads, initargs=(each,)) as looking:
                yield looking
        finally:
            torch.set_num_threads(total)  # for threads that are started later

    def _shown(
        self, images: list[np.ndarray], folds: Iterable[int], beside: ThreadPoolExecutor
    ) -> Iterator[tuple[list[np.ndarray], dict[Sight, Pieces]]]:
        """Batches of the images, and what the networks of these folds see of them; one for each thread is cut ahead."""
        viewers = [viewer for fold in folds for viewer in self._viewers[fold]]
        batches = self._batches(images)
        pieces = ahead(beside, lambda batch: cut(batch, viewers, device=self.device), batches, self._threads)
        return zip(batches, pieces, strict=True)

    def _batches(self, images: list[np.ndarray]) -> list[list[np.ndarray]]:
        """All at a time, unless one is large: then each is one."""
        alone = any(is_large(*image.shape[:2], self.map_size) for image in images)
        return [[image] for image in images] if alone or not images else [images]

    def _look(
        self, fold: int, shown: dict[Sight, Pieces], looking: ThreadPoolExecutor, beside: ThreadPoolExecutor
    ) -> list[Future[list[np.ndarray]]]:
        """Each network's maps of the images shown, float16, as they come to be."""
        drawn = []
        for viewer in self._viewers[fold]:
            pieces = shown[viewer.sight]
            probs = looking.submit(predict_pieces, viewer, pieces, self.settings.tta, n_streams=self._streams)
            drawn.append(beside.submit(_draw, pieces, probs))
        return drawn

    def _stacks(self, drawn: list[Future[list[np.ndarray]]]) -> list[np.ndarray]:
        """`member_maps` of the images that were looked at."""
        return [self._stack(maps) for maps in zip(*(future.result() for future in drawn), strict=True)]

    def _stack(self, maps: tuple[np.ndarray, ...]) -> np.ndarray:
        """Maps of one image, float16, at the size of the largest."""
        size = max((prob.shape for prob in maps), key=lambda shape: shape[0] * shape[1])
        if size[0] * size[1] < self.map_size**2:
            size = (self.map_size, self.map_size)
        return np.stack([prob if prob.shape == size else to_half(resize_map(to_single(prob), *size)) for prob in maps])

    def _blends(
        self, fold: int, n_images: int, drawn: list[Future[list[np.ndarray]]]
    ) -> list[tuple[np.ndarray, dict[str, float]]]:
        """The blend of a fold's networks for each image, and its features."""
        if not self.networks:
            return [(np.zeros((self.map_size, self.map_size), np.float32), {})] * n_images
        roles, weights = zip(*((m.role, self.settings.weights[m.name]) for m in self.networks), strict=True)
        blends = []
        for maps in self._stacks(drawn):
            # The features are of the maps that the decision was fitted on: brought to their size first, then blended.
            half = feature_maps(maps)
            small = to_single(half)
            blended = blend(small, roles, weights)
            by_name = {member.name: prob for member, prob in zip(self.networks, small, strict=True)}
            features = map_features(blended, by_name, self.settings.pixel_threshold)
            blends.append((blended if half is maps else blend(maps, roles, weights), features))
        return blends

    def _decide(
        self,
        by_fold: list[Future[list[tuple[np.ndarray, dict[str, float]]]]],
        evidence: list[Evidence | None],
        generated: list[Generated | None],
    ) -> list[Prediction]:
        """The images, by each fold's blends, the evidence and the detector."""
        by_image = zip(*(future.result() for future in by_fold), strict=True)
        return [self._decide_one(*own) for own in zip(by_image, evidence, generated, strict=True)]

    def _decide_one(
        self,
        by_fold: Sequence[tuple[np.ndarray, dict[str, float]]],
        found: Evidence | None,
        generated: Generated | None,
    ) -> Prediction:
        """One image, by each fold's blend with its features, the evidence and the detector."""
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


def _draw(pieces: Pieces, probs: Future[np.ndarray]) -> list[np.ndarray]:
    # As float16 at once: as float32, those of all networks of a large image would take twice the memory.
    return [to_half(prob) for prob in pieces.maps(probs.result())]
