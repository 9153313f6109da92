"""Script 3: fine-tuning of script 1 on hard false negatives, the forgeries that it misses.

The forged images of the *training* folds are scanned; those with a pixel recall below 0.5 get weight 5 in the draws,
the others 3, 2 or 1: below 1 % of the image, up to 5 %, above. The best epoch is that of 0.6 · recall + 0.4 · Dice,
since this member should find what the others miss; they limit its false alarms.

    python script_3_hard_fn_mining.py --data-dir data
    python script_3_hard_fn_mining.py --data-dir data/demo --profile quick

Writes models/high_recall_best.pth (weight 1.0), ..._last.pth, ..._metrics.json, and the list of each round,
models/hard_false_negative_round_<k>.csv. Prints the misses by size, and what changed on the validation fold, which
mining never sees.
Measured: the full recipe not yet. Quick, from script 1's network, on CASIA v1: pixel recall 0.562 → 0.613, image recall
at 5 % false positives 0.245 → 0.333; 7 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.config.segmentation import HardFalseNegativeConfig
from common.locks import locks_end

CONFIG = HardFalseNegativeConfig(name="high_recall")


@locks_end()
def main(config: HardFalseNegativeConfig) -> None:
    """Mine the forged training images and fine-tune on what was missed."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.training.fine_tuning import mine_and_fit
    from common.training.member import load_split
    from common.training.mining import hard_false_negatives

    split = load_split(config)
    find = hard_false_negatives
    mine_and_fit(config, split, split.train, name="hard_false_negative", forged=True, find=find)


if __name__ == "__main__":
    main(parse_config(CONFIG))
