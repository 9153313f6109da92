"""Script 1, the base of the ensemble: RGB at 512 px, EfficientNet-B2, feature pyramid, attention gate. No ELA.

It is trained on all images; forgeries below 3 % of their image are drawn three times as often. Focal loss (Lin et al.
2017) for the few forged pixels, Dice for compact regions.

    python script_1_highres_no_ela.py --data-dir data
    python script_1_highres_no_ela.py --data-dir data/demo --profile quick

Writes models/highres_no_ela_best.pth (weight 1.5), highres_no_ela_last.pth, highres_no_ela_metrics.json.
Measured: the full recipe not yet. Quick (EfficientNet-Lite0, squares of 256 px) on CASIA v1: validation pixel AUC 0.90,
pixel F1 0.49, image AUC 0.74 (three seeds) after 25 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.config.segmentation import OversamplingConfig
from common.locks import locks_end

CONFIG = OversamplingConfig(name="highres_no_ela")


@locks_end()
def main(config: OversamplingConfig) -> None:
    """Train the base model on all folds but one and validate on that one."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.data.sampling import WeightedSampler, small_forgery_weights
    from common.data.transforms import basic_augmentation
    from common.training.member import fit_member, load_split, make_datasets, start_network

    split = load_split(config)
    model, config = start_network(config, split)

    weights = small_forgery_weights(split.train, config.small_forgery_threshold, config.oversample_factor)
    sampler = WeightedSampler(weights, config.seed)
    train_set, val_set = make_datasets(config, split, basic_augmentation())
    fit_member(config, split, model, train_set, val_set, sampler)


if __name__ == "__main__":
    main(parse_config(CONFIG))
