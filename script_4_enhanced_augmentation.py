"""Script 4: new forgeries on the fly. Three images in ten get one more, and all of them stronger augmentation.

Half of the new forgeries are copy-moves within the image, with source and copy in the mask, as in the competition's;
the other half are splices from another training image. About half of the pasted parts are scaled by 0.5 to 1.5, rotated
or mirrored; all are blended at the edge. Then colour jitter for seven in ten, JPEG of quality 70 to 100, and holes.
Since the forgeries differ in every epoch, the network can't memorise where those of the training images are.

    python script_4_enhanced_augmentation.py --data-dir data
    python script_4_enhanced_augmentation.py --data-dir data/demo --profile quick

Of few untouched images, it trains a network that knows many sources: more forgeries, of more kinds, on images that are
cropped, scaled, compressed, inverted and printed on at random. The released network was trained so:

    python prepare_data.py pairs MICROGRAPHS data/pairs --figures 250 --drawn 200 --photographs 10
    python script_4_enhanced_augmentation.py --data-dir data/pairs --profile quick --folds 10 --lr 1e-3 --epochs 10 \
        --paste-probability 0.6 --paste-kinds splice inpaint redraw --vary-images --focal-gamma 0 --focal-weight 0.8 \
        --dice-weight 0.2                                # and a second, shorter run from it: docs/RESULTS.md

Writes models/enhanced_aug_best.pth (weight 0.8), enhanced_aug_last.pth, enhanced_aug_metrics.json.
Measured: the full recipe not yet. Quick on CASIA v1: validation pixel AUC 0.897, pixel F1 0.483, image AUC 0.734 after
26 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from common.config.run import parse_config
from common.config.segmentation import NewForgeriesConfig
from common.locks import locks_end

CONFIG = NewForgeriesConfig(name="enhanced_aug", lr=1e-4)


@locks_end()
def main(config: NewForgeriesConfig) -> None:
    """Train with new forgeries on all folds but one and validate on that one, as it is."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.data.sampling import WeightedSampler, small_forgery_weights
    from common.data.transforms import strong_augmentation
    from common.making.new_forgeries import NewForgeries
    from common.training.member import fit_member, load_split, make_datasets, start_network

    split = load_split(config)
    model, config = start_network(config, split)

    weights = small_forgery_weights(split.train, config.small_forgery_threshold, config.oversample_factor)
    sampler = WeightedSampler(weights, config.seed)
    new_forgeries = NewForgeries(
        split.train, config.paste_probability, config.paste_scales, config.paste_kinds, config.vary_images
    )
    train_set, val_set = make_datasets(config, split, strong_augmentation(), edit=new_forgeries)
    fit_member(config, split, model, train_set, val_set, sampler)


if __name__ == "__main__":
    main(parse_config(CONFIG))
