"""The loaded ensemble: the members' maps of images, their blend, and the image-level probability of a forgery."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from common.data.transforms import resize_map
from common.ensemble.blending import blend, join_evidence, to_half, to_single
from common.ensemble.decision import (
    FEATURE_SIZE,
    copy_features,
    feature_maps,
    generated_features,
    map_features,
    with_copies,
)
from common.ensemble.evidence import Evidence, gather
from common.ensemble.members import COPY_MOVE, Member
from common.ensemble.settings import Settings
from common.ensemble.views import (
    InputSpec,
    Network,
    PieceNetwork,
    Pieces,
    at_a_time,
    extract_pieces,
    is_large,
    predict_pieces,
    worker_count,
)
from common.errors import UserError
from common.generated import BlendedDetector, Detector, Generated

T = TypeVar("T")
R = TypeVar("R")
Blend = tuple[np.ndarray, dict[str, float]]
"""The blend of one fold's networks for an image, float32 (h, w), and its features."""


@dataclass(frozen=True)
class Loaded:
    """A member's network of one fold."""

    member: Member
    network: Network
    checkpoint: dict[str, Any]
    """Without the weights."""

    @property
    def piece_network(self) -> PieceNetwork:
        """The network with its input."""
        config = self.checkpoint["config"]
        spec = InputSpec(config["image_size"], self.member.tile_share, config.get("framing", "squeeze"))
        return PieceNetwork(self.network, spec, self.member.in_channels)


@dataclass(frozen=True)
class Prediction:
    """The ensemble's result for an image."""

    prob: np.ndarray
    """Probability of each pixel, float32 (h, w): the size of the image where evidence is drawn in it, else that of the
    networks' largest map (`Pieces.maps`)."""
    forged_probability: float
    """Calibrated, in (0, 1]; nan where a network's result is not finite: there is no verdict then."""
    evidence: Evidence | None = None
    """The copies found; None where copy-move detection is off."""
    generated: Generated | None = None
    """Whether the image as a whole is generated; None without a detector."""


class Ensemble:
    """The loaded members and their settings. Made by `common.ensemble.loading.load_ensemble`."""

    def __init__(
        self,
        folds: list[list[Loaded]],
        settings: Settings,
        device: torch.device,
        *,
        copy_move: bool = False,
        workers: int = 1,
        detector: Detector | BlendedDetector | None = None,
    ) -> None:
        """Move the networks to the device.

        Args:
            folds: At least one, with the same members in each; without any, the evidence alone decides.
            settings: With a weight for each member.
            device: Where the networks run.
            copy_move: Whether the evidence is one of the members.
            workers: Processes for copy-move detection. At most as many as `predict` gets images are busy.
            detector: Of generated images; it changes no decision unless the settings were fitted with it.
        """
        self.folds = folds
        self.settings = settings
        self.device = device
        self.copy_move = copy_move
        self.workers = workers
        self.detector = detector
        self.networks = [loaded.member for loaded in folds[0]]
        self.members = [*self.networks, *([COPY_MOVE] if copy_move else [])]
        self._networks = [[loaded.piece_network for loaded in fold] for fold in folds]
        self.map_size = max((n.spec.size for fold in self._networks for n in fold), default=FEATURE_SIZE)
        self._threads = worker_count(self.map_size, device)
        share = max(1, torch.get_num_threads() // self._threads)
        self._pool = ThreadPoolExecutor(self._threads, initializer=_limit_threads, initargs=(share,))
        for loaded in chain.from_iterable(folds):
            if isinstance(loaded.network, nn.Module):
                loaded.network.to(device)

    def predict(self, images: Sequence[np.ndarray], upright: Sequence[np.ndarray] | None = None) -> list[Prediction]:
        """Predict images of any sizes. The folds' maps, and their probabilities, are averaged.

        Args:
            images: RGB, uint8 (H, W, 3).
            upright: The same as viewers show them, for the detector of generated images; by default `images`.
        """
        # A single image in this process: sent to another one, a large image would be in memory several times.
        workers = self.workers if len(images) > 1 else 1
        evidence = gather(images, workers) if self.copy_move else iter([None] * len(images))
        shown = images if upright is None else upright
        generated = self.detector.predict(shown) if self.detector else [None] * len(images)
        with closing(self._by_batch(self._blend_batch, images)) as batches:
            # `strict` ends the evidence here: while the garbage collector ends it, Python loses a Ctrl-C.
            by_image = zip(chain.from_iterable(batches), evidence, generated, strict=True)
            return [self.decide(*own) for own in by_image]

    def member_maps(self, images: Sequence[np.ndarray], fold: int = 0) -> Iterator[np.ndarray]:
        """The networks' maps of each image, float16 (M, h, w), at the size of the largest (`Pieces.maps`).

        Args:
            images: RGB, uint8 (H, W, 3).
            fold: Position in `folds`.
        """

        def work(batch: Sequence[np.ndarray], mapped: Callable = map) -> list[np.ndarray]:
            return self._maps(fold, extract_pieces(batch, self._networks[fold], self.device), len(batch), mapped)

        with closing(self._by_batch(work, images)) as batches:
            yield from chain.from_iterable(batches)

    def fold_mean(self, image: np.ndarray) -> np.ndarray:
        """The networks' maps of an image, RGB, uint8 (H, W, 3), averaged over the folds: float32 (M, h, w)."""
        maps = [to_single(next(self.member_maps([image], fold))) for fold in range(len(self.folds))]
        return np.mean(maps, axis=0)

    def blends(self, image: np.ndarray) -> tuple[Blend, ...]:
        """What `decide` takes of an image, RGB, uint8 (H, W, 3): the blend of each fold."""
        (folds,) = self._blend_batch([image])
        return folds

    def network_map(self, image: np.ndarray) -> np.ndarray:
        """The networks' blend alone, averaged over the folds, float32 (h, w): without evidence, and without a decision.

        Args:
            image: RGB, uint8 (H, W, 3).

        Raises:
            UserError: A network's result is not finite.
        """
        prob = np.asarray(np.mean([blended for blended, _ in self.blends(image)], axis=0), np.float32)
        if not np.isfinite(prob).all():
            raise UserError("a network's result is not finite. Train it again, or leave it out.")
        return prob

    def _by_batch(self, work: Callable[..., R], images: Sequence[np.ndarray]) -> Generator[R]:
        """The results of `work` on each batch of the images, in order; a single batch's networks share the threads."""
        batches = self._batches(images)
        if len(batches) == 1:
            return (work(batch, mapped=self._mapped) for batch in batches)
        return self._mapped(work, batches)

    def _batches(self, images: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        """An equal part of the images for each thread; if any is large, to bound the memory, each on its own."""
        large = any(is_large(image.shape[0], image.shape[1], self.map_size) for image in images)
        size = 1 if large else max(1, -(-len(images) // self._threads))
        return [images[start : start + size] for start in range(0, len(images), size)]

    def _mapped(self, work: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
        """The results of `work` on each item, in order, by the threads. Closing it drops what has not begun."""
        if self._threads == 1:  # in this thread, so that an interrupt ends it
            return (work(item) for item in items)
        return cast(Generator[R], self._pool.map(work, items))

    def _blend_batch(self, images: Sequence[np.ndarray], mapped: Callable = map) -> list[tuple[Blend, ...]]:
        """For each image, the blend of each fold."""
        pieces = extract_pieces(images, list(chain.from_iterable(self._networks)), self.device)
        by_fold = [
            [self._blend(maps) for maps in self._maps(fold, pieces, len(images), mapped)]
            for fold in range(len(self.folds))
        ]
        return list(zip(*by_fold, strict=True))

    def _maps(self, fold: int, pieces: dict[InputSpec, Pieces], n_images: int, mapped: Callable) -> list[np.ndarray]:
        """The networks' maps of each image, float16 (M, h, w), all at the size of the largest.

        `mapped` applies the networks: `map`, one after the other, or `_mapped`, by the threads.
        """

        def predict(network: PieceNetwork) -> list[np.ndarray]:
            own, batch_size = pieces[network.spec], at_a_time(network.spec.size, self.device) // self._threads
            probs = predict_pieces(network, own, self.settings.tta, max(1, batch_size))
            # As float16 at once: as float32, those of all networks of a large image would take twice the memory.
            return [to_half(prob) for prob in own.maps(probs)]

        by_network = list(mapped(predict, self._networks[fold]))
        stacks = []
        for number in range(n_images):
            maps = [own[number] for own in by_network]
            shapes = [prob.shape for prob in maps] or [(self.map_size, self.map_size)]  # without networks: no map
            shape = max(shapes, key=lambda shape: shape[0] * shape[1])
            stack = np.empty((len(maps), *shape), np.float16)
            for place, prob in enumerate(maps):
                stack[place] = prob if prob.shape == shape else to_half(resize_map(to_single(prob), *shape))
            stacks.append(stack)
        return stacks

    def _blend(self, maps: np.ndarray) -> Blend:
        """The blend of one fold's maps (M, h, w) of an image."""
        if not self.networks:
            return np.zeros(maps.shape[1:], np.float32), {}
        roles, weights = zip(*((m.role, self.settings.weights[m.name]) for m in self.networks), strict=True)
        # The features are of the maps that the decision was fitted on: brought to their size first, then blended.
        half = feature_maps(maps)
        small = to_single(half)
        blended = blend(small, roles, weights)
        by_name = {member.name: prob for member, prob in zip(self.networks, small, strict=True)}
        features = map_features(blended, by_name, self.settings.pixel_threshold) if np.isfinite(half).all() else {}
        return blended if half is maps else blend(maps, roles, weights), features

    def decide(self, folds: Sequence[Blend], evidence: Evidence | None, generated: Generated | None) -> Prediction:
        """The result for an image, without running any network.

        Args:
            folds: From `blends`.
            evidence: The copies that count; None where copy-move detection is off.
            generated: Whether it is generated; None without a detector.
        """
        prob = folds[0][0] if len(folds) == 1 else np.mean([blended for blended, _ in folds], axis=0)
        decision, others = self.settings.decision, {}
        decided = all(features for _, features in folds) or not self.networks
        if evidence is not None:
            prob = join_evidence(prob, evidence.prob, self.settings.weights[COPY_MOVE.name])
            others |= copy_features(evidence.score, evidence.inliers, evidence.area_share)
        if generated is not None:
            others |= generated_features(generated.probability)
        if not decided or (generated is not None and np.isnan(generated.probability)):
            return Prediction(prob, np.nan, evidence, generated)
        probability = float(np.mean([decision.probability(features | others) for _, features in folds]))
        if evidence is not None:
            probability = with_copies(probability, decision, evidence.score)
        return Prediction(prob, probability, evidence, generated)


def _limit_threads(count: int) -> None:
    """Give torch so many threads in the calling thread alone; `torch.set_num_threads` would change the process."""
    torch.get_num_threads()  # its first use in a thread sets the process's number
    threadpool_limits(count, user_api="openmp")
