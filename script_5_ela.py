"""Script 5: RGB and error level analysis, four channels.

A JPEG compression changes pixels that were compressed before less than others, so that a pasted region with another
history stands out (Krawetz 2007). The error levels (quality 90, amplified 10 times) are computed from the file's own
pixels, before resizing, and then resized and flipped with the image; colour jitter and blur do not touch them.
Pretrained weights of the first convolution are adapted to the fourth channel.

    python script_5_ela.py --data-dir data
    python script_5_ela.py --data-dir data/demo --profile quick

Writes models/ela_best.pth (weight 0.5), ela_last.pth, ela_metrics.json. The weight is low because error levels depend
on the file's last compression as much as on forgery.
Measured: the full recipe not yet. Quick on CASIA v1: validation pixel AUC 0.892, pixel F1 0.475, image AUC 0.722 after
26 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.config.segmentation import ElaConfig
from common.locks import locks_end

CONFIG = ElaConfig(name="ela")


@locks_end()
def main(config: ElaConfig) -> None:
    """Train on four channels, on all folds but one, and validate on that one."""
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
