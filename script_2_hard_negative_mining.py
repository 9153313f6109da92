"""Script 2: fine-tuning of script 1 on hard negatives, the authentic images that it calls forged.

The authentic images of the *training* folds are scanned; those with more than 0.1 % of their pixels above 0.5 are hard
negatives, and the worst 500 get weight 2 in the draws (bootstrapping, Sung and Poggio 1994). Forgeries get weight 3, 2
or 1: below 1 % of the image, up to 5 %, above. With --rounds N the network scans again and trains on, up to N times or
until there is no new hard negative.

    python script_2_hard_negative_mining.py --data-dir data
    python script_2_hard_negative_mining.py --data-dir data --rounds 3 --extra-authentic my_false_alarms
    python script_2_hard_negative_mining.py --data-dir data/demo --profile quick

Writes models/hard_negative_best.pth (weight 1.2), ..._last.pth, ..._metrics.json, and the list of each round,
models/hard_negative_round_<k>.csv. Prints what changed on the validation fold, which mining never sees.
Measured: the full recipe not yet. Quick, from script 1's network, on CASIA v1: Dice 0.471 → 0.503, flagged share of
authentic images 0.035 → 0.026; 10 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from functools import partial

from common.config.run import parse_config
from common.config.segmentation import HardNegativeConfig
from common.locks import locks_end

CONFIG = HardNegativeConfig(name="hard_negative")


@locks_end()
def main(config: HardNegativeConfig) -> None:
    """Mine the authentic training images, and the user's own, and fine-tune on what was found."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.data.samples import load_authentic
    from common.devices import main_process_prints
    from common.training.fine_tuning import mine_and_fit
    from common.training.member import load_split
    from common.training.mining import hard_negatives

    split = load_split(config)
    train = split.train
    if config.extra_authentic is not None:
        with main_process_prints():
            train = train + load_authentic(config.extra_authentic, split.val, skip_bad_files=config.skip_bad_files)
            print(f"{config.name}: {len(train) - len(split.train)} more authentic images from {config.extra_authentic}")
    find = partial(hard_negatives, most=config.most)
    mine_and_fit(config, split, train, name="hard_negative", forged=False, find=find)


if __name__ == "__main__":
    main(parse_config(CONFIG))
