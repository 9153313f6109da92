"""Mining of hard examples in rounds: scan of the training images, lists of the worst, weights for the sampler.

A hard negative is an authentic image in which the network finds forged pixels (Sung and Poggio 1994); a hard false
negative is a forgery that it misses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Subset
from tqdm import tqdm

from common.data.dataset import ForgeryDataset, collate_whole, make_loader
from common.data.samples import Sample
from common.data.sampling import WeightedSampler, mining_weights
from common.devices import process_state
from common.errors import UserError
from common.files import written_whole
from common.metrics.forgery import pixel_recall
from common.sizes import SIZES
from common.tables import read_table
from common.training.validation import FALSE_POSITIVE_SHARE, PIXEL_THRESHOLD, predict_maps

HARD_RECALL = 0.5
"""A forgery is missed if less than this share of its pixels is found (original recipe, script 3)."""
COLUMNS = ["case_id", "forged", "size", "flagged_share", "recall"]
ROUND_COLUMNS = ["case_id", "flagged_share", "recall", "size"]


@torch.inference_mode()
def scan(
    model: nn.Module,
    dataset: ForgeryDataset,
    positions: Sequence[int] | None = None,
    *,
    batch_size: int,
    workers: int = 0,
) -> pd.DataFrame:
    """Run the network on every sample once, without augmentation.

    The samples are split between the processes of the run; every process gets the whole table.

    Args:
        model: Logits (N, 1, S, S) for the set's squares; it stays on its device and in its mode (training or not).
        dataset: For instance that of the training: its cache is used, its augmentation is not.
        positions: Those of its samples to scan; by default all.
        batch_size: Images per step and process.
        workers: Processes that load images; 0 for none.

    Returns:
        A row per sample, in order, labelled with its position: `case_id`; `forged`; `size` (of the forgery, or
        `authentic`); `flagged_share`, the share of pixels at 0.5 or above; `recall`, the pixel recall at 0.5, nan for
        an authentic image.
    """
    device, was_training = next(model.parameters()).device, model.training
    state = process_state()
    positions = list(range(len(dataset)) if positions is None else positions)
    with state.split_between_processes(positions) as part:
        subset = Subset(dataset, part)  # pyrefly: ignore[bad-argument-type] # a list
        loader = make_loader(subset, batch_size, workers, collate=collate_whole)
    rows = []
    model.eval()
    hidden = None if state.is_main_process else True
    with tqdm(desc="mining", total=len(part), unit="img", leave=False, disable=hidden) as bar:
        for batch in loader:
            maps = predict_maps(model, batch | {"image": batch["image"].to(device)})
            for index, prob, mask in zip(batch["index"].tolist(), maps, batch["mask"], strict=True):
                sample, flagged = dataset.samples[index], prob >= PIXEL_THRESHOLD
                figures = (float(flagged.mean()), pixel_recall(flagged, mask[0].numpy()))
                rows.append((sample.case_id, sample.forged, sample.size, *figures))
            bar.update(len(maps))
    model.train(was_training)
    return pd.DataFrame(gather_object(rows), index=positions, columns=COLUMNS)


def hard_negatives(scanned: pd.DataFrame, most: int = 500) -> list[int]:
    """The `most` authentic images with the largest flagged share above 0.1 %, the worst first (original recipe).

    Returns:
        Their labels in the table's index: positions in the data set that was scanned.
    """
    hard = scanned[~scanned["forged"] & (scanned["flagged_share"] > FALSE_POSITIVE_SHARE)]
    return hard.sort_values("flagged_share", ascending=False, kind="stable").index[:most].tolist()


def hard_false_negatives(scanned: pd.DataFrame, min_recall: float = HARD_RECALL) -> list[int]:
    """The forged images with a pixel recall below `min_recall`, the worst first; labels as for `hard_negatives`."""
    hard = scanned[scanned["recall"] < min_recall]  # nan, of an authentic image, is not
    return hard.sort_values("recall", kind="stable").index.tolist()


def write_round(path: Path, scanned: pd.DataFrame, hard: Sequence[int]) -> None:
    """Write the hard examples of a round (labels in the table's index) in their order, as CSV.

    The column `size` also distinguishes an authentic image from the forged one of the same case id.
    """
    with written_whole(path) as file:
        scanned.loc[list(hard), ROUND_COLUMNS].to_csv(file, index=False)


def read_round(path: Path, samples: Sequence[Sample]) -> list[int]:
    """Read the list of a round, as positions in `samples`.

    Raises:
        UserError: The file is missing, is no such table, or names an image that is not among the samples.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; the run can't continue without it. Start it without --resume.")
    positions = _positions(samples)
    table = read_table(path, ROUND_COLUMNS)
    keys = [(case_id, size != "authentic") for case_id, size in zip(table["case_id"], table["size"], strict=True)]
    for case_id, forged in keys:
        if (case_id, forged) not in positions:
            raise UserError(
                f"{path}: the {_label(forged)} image {case_id} is not among the training images. The list belongs to "
                "another run or other data; start this run without --resume."
            )
    return [positions[key] for key in keys]


@dataclass(kw_only=True)
class Miner:
    """Rounds of mining: its `before_epoch` is the hook of `common.training.engine.fit`.

    The epochs of the run are divided evenly between the rounds. Each round begins with a scan by the current network;
    what was hard in any round so far keeps the weight of a hard example until the run ends.
    """

    name: str
    """`hard_negative` or `hard_false_negative`, for the lists and the printed messages."""
    models_dir: Path
    """Where the list of each round is written, as <name>_round_<k>.csv, k from 1."""
    samples: Sequence[Sample]
    """The training images."""
    candidates: Sequence[int]
    """Positions in `samples` of the images to mine, all forged or all authentic."""
    scan: Callable[[Sequence[int]], pd.DataFrame]
    """`scan` of positions in `samples` by the network that is trained."""
    find: Callable[[pd.DataFrame], list[int]]
    """`hard_negatives` or `hard_false_negatives`."""
    sampler: WeightedSampler
    """That of the training loader; it gets `mining_weights`."""
    hard_weight: float
    """Weight of a hard example."""
    rounds: int
    epochs: int
    """Number of epochs of the whole run."""
    hard: set[int] = field(default_factory=set, init=False)
    """Positions in `samples` of the hard examples of all rounds so far."""
    known: int = field(default=0, init=False)
    """Number of rounds that `hard` covers."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail in the middle of the run.

        Raises:
            UserError: More rounds than epochs, nothing to mine, or two samples of the same name.
        """
        if self.rounds < 1 or 0 < self.epochs < self.rounds:
            raise UserError(f"--rounds is {self.rounds}; it must be from 1 to the number of epochs, {self.epochs}.")
        if not self.candidates:
            raise UserError(f"the training folds have no images to search for {self._plural}.")
        _positions(self.samples)

    def before_epoch(self, epoch: int) -> bool:
        """Mine if the epoch, counted from 0, is the first of a round, and set the sampler's weights.

        To be called before each epoch of a run, and before the epoch's seed is set, since a scan draws random numbers.
        A resumed run reads the lists of the rounds before it.

        Returns:
            False if a round found nothing new: the run should stop.

        Raises:
            UserError: The list of an earlier round is missing, or belongs to other data.
        """
        number = self._round(epoch)
        begins = epoch == 0 or self._round(epoch - 1) < number
        mined = number - 1 if begins else number
        if self.known < mined:  # a resumed run
            for earlier in range(self.known + 1, mined + 1):
                self.hard.update(read_round(self._path(earlier), self.samples))
            self._weigh(mined)
        return self._mine(number) if begins else True

    def _mine(self, number: int) -> bool:
        """Scan, list and weigh the hard examples of a round; returns whether to go on."""
        scanned = self.scan(self.candidates)
        found = self.find(scanned)
        new = set(found) - self.hard
        go_on = bool(new) or number == 1  # without hard examples the first round trains with plain weights
        if process_state().is_main_process:
            write_round(self._path(number), scanned, found)
            among = f"{len(scanned)} {_label(self.samples[self.candidates[0]].forged)} images"
            tqdm.write(f"round {number}: {len(found)} {self._plural} among {among}, {len(new)} of them new")
            if not go_on:
                tqdm.write(f"round {number} has no new {self._plural}: the training stops")
        self.hard |= new
        self._weigh(number)
        return go_on

    def _weigh(self, number: int) -> None:
        self.known = number
        self.sampler.reweigh(mining_weights(self.samples, self.hard, self.hard_weight))

    def _round(self, epoch: int) -> int:
        return epoch * self.rounds // self.epochs + 1

    def _path(self, number: int) -> Path:
        return self.models_dir / f"{self.name}_round_{number}.csv"

    @property
    def _plural(self) -> str:
        return self.name.replace("_", " ") + "s"


def comparison(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """Metrics of two scans of the same images, before and after a training, and their change, as a text table.

    `false positives` is the share of authentic images with more than 0.1 % of pixels flagged, `flagged share` the mean
    share of such pixels, which may fall while every image is still flagged; the rest is mean pixel recall.

    Raises:
        ValueError: The tables are not of the same images.
    """
    if not before[["case_id", "forged"]].equals(after[["case_id", "forged"]]):
        raise ValueError("the tables are of different images")
    table = _figures(before).rename(columns={"value": "before"}).assign(after=_figures(after)["value"])
    change = (table["after"] - table["before"]).map("{:+.4f}".format, na_action="ignore")
    return table.assign(change=change).to_string(float_format="{:.4f}".format, na_rep="–")


def misses_by_size(scanned: pd.DataFrame) -> str:
    """Forged images, those missed (pixel recall below 0.5) and their share, by size, as a text table."""
    forged = scanned[scanned["forged"]]
    misses = (forged["recall"] < HARD_RECALL).groupby(forged["size"]).agg(["size", "sum", "mean"]).reindex(SIZES)
    misses.columns = ["n", "misses", "share"]
    misses = misses.fillna({"n": 0, "misses": 0}).astype({"n": int, "misses": int}).rename_axis(None)
    return misses.to_string(float_format="{:.3f}".format, na_rep="–")


def _figures(scanned: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparison` for one table: `n` images and `value`, nan where n is 0."""
    forged, authentic = scanned[scanned["forged"]], scanned[~scanned["forged"]]
    columns = {
        "authentic: false positives": authentic["flagged_share"] > FALSE_POSITIVE_SHARE,
        "authentic: flagged share": authentic["flagged_share"],
        "forged: recall": forged["recall"],
    }
    columns |= {f"forged: recall, {size}": forged["recall"][forged["size"] == size] for size in SIZES}
    return pd.DataFrame({name: {"n": len(c), "value": c.mean()} for name, c in columns.items()}).T.astype({"n": int})


def _positions(samples: Sequence[Sample]) -> dict[tuple[str, bool], int]:
    """(case id, forged) → position."""
    positions: dict[tuple[str, bool], int] = {}
    for position, sample in enumerate(samples):
        first = positions.setdefault((sample.case_id, sample.forged), position)
        if first != position:
            raise UserError(
                f"{samples[first].image} and {sample.image} have the same case id, which the lists of hard examples "
                "could not tell apart. Rename one of them."
            )
    return positions


def _label(forged: bool) -> str:  # noqa: FBT001 # its one argument
    return "forged" if forged else "authentic"
