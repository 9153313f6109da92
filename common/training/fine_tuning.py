"""Fine-tuning of a member on mined hard examples (scripts 2 and 3)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from common.config.segmentation import MiningConfig
from common.data.packed import PackedList
from common.data.samples import Sample
from common.data.sampling import WeightedSampler
from common.data.transforms import basic_augmentation
from common.devices import process_state
from common.networks.segmentation import load_network
from common.training.checkpoint import load_checkpoint
from common.training.member import Split, fit_member, keep_decoded, make_datasets, start_network
from common.training.mining import Miner, comparison, misses_by_size, scan


def mine_and_fit(
    config: MiningConfig,
    split: Split,
    train: Sequence[Sample],
    *,
    name: str,
    forged: bool,
    find: Callable[[pd.DataFrame], list[int]],
) -> None:
    """Start from another member's weights, train in rounds of mining, and print what that changed.

    Args:
        config: Of the run.
        split: Its validation images are scanned before and after, for the printed tables only.
        train: The images that are mined and trained on.
        name: Of the hard examples: `hard_negative` or `hard_false_negative`.
        forged: Whether forged or authentic images are mined.
        find: The hard ones of a scan (see `common.training.mining`).
    """
    model, config = start_network(config, split)
    config = replace(config, epochs=config.epochs * config.rounds)
    train_set, val_set = make_datasets(config, replace(split, train=PackedList(train)), basic_augmentation())
    keep_decoded(config, split, train_set, val_set)
    scan_batches = partial(scan, batch_size=config.batch_size, workers=config.workers)
    before = scan_batches(model.to(process_state().device), val_set)

    sampler = WeightedSampler([1.0] * len(train), config.seed)
    miner = Miner(
        name=name,
        models_dir=config.models_dir,
        samples=train,
        candidates=[position for position, sample in enumerate(train) if sample.forged == forged],
        scan=partial(scan_batches, model, train_set),
        find=find,
        sampler=sampler,
        hard_weight=config.hard_weight,
        rounds=config.rounds,
        epochs=config.epochs,
    )
    fit_member(config, split, model, train_set, val_set, sampler, miner.before_epoch)

    best = config.models_dir / f"{config.name}_best.pth"
    after = scan_batches(load_network(load_checkpoint(best), best).to(process_state().device), val_set)
    if process_state().is_main_process:
        print(f"the {len(split.val)} images of the validation fold, before and after:\n{comparison(before, after)}")
        print(f"misses by size, before:\n{misses_by_size(before)}\nafter:\n{misses_by_size(after)}")
