"""Script 6: the specialist for forgeries below 2 % of the image, which are lost when the image is resized to a square.

It is trained on crops alone: squares of 2 to 4 times the forgery's size, at least 128 px, with the forgery anywhere in
them; tiny forgeries (below 0.5 %) have weight 5 in the draws, the others 2. Focal loss with α 0.85, γ 4. It starts from
a pretrained encoder, not from script 1, so that its errors are independent. Since every training image has a forgery,
it is not averaged with the other members but joined by union, max(average, 0.8 · p), and predicts on tiles as large as
its crops.

    python script_6_small_forgery_specialist.py --data-dir data
    python script_6_small_forgery_specialist.py --data-dir data/demo --profile quick

Writes models/small_forgery_specialist_best.pth, ..._last.pth, ..._metrics.json. It is validated on crops too: around
the fold's small forgeries, and anywhere in its authentic images.
Measured: the full recipe not yet. Quick on the 53 small forgeries of CASIA v1's training folds: on crops pixel AUC
0.910, recall 0.909; 3 minutes on one CPU core (docs/RESULTS.md).
"""

from common.process import prepare

prepare()  # before torch is imported

from functools import partial

from common.config.run import parse_config
from common.config.segmentation import SpecialistConfig
from common.errors import UserError
from common.locks import locks_end

CONFIG = SpecialistConfig(name="small_forgery_specialist")


@locks_end()
def main(config: SpecialistConfig) -> None:
    """Train on crops around the small forgeries of all folds but one, validate on crops of that one."""
    # Imported here, not above: torch takes seconds, and --help needs none of it.
    from common.data.cropping import crop_around
    from common.data.dataset import ForgeryDataset
    from common.data.sampling import WeightedSampler
    from common.data.transforms import basic_augmentation
    from common.devices import process_state
    from common.training.member import fit_member, load_split, start_network

    split = load_split(config)
    small = [sample for sample in split.train if sample.forged and sample.area_share < config.max_area_share]
    val = [sample for sample in split.val if not sample.forged or sample.area_share < config.max_area_share]
    if not small:
        raise UserError(
            f"{config.data_dir} has no forgery below {config.max_area_share:.2%} of its image to train on. Raise "
            "--max-area-share, or go on without this member (make_submission.py --allow-missing)."
        )
    if not val:
        raise UserError(f"no image of fold {config.fold} is authentic or has a small forgery. Choose another --fold.")
    process_state().print(f"{config.name}: {len(small)} of them have small forgeries")
    model, config = start_network(config, split)

    weights = [config.tiny_weight if sample.size == "tiny" else config.small_weight for sample in small]
    sampler = WeightedSampler(weights, config.seed)
    crop = partial(crop_around, factors=config.crop_factors, least=config.min_crop)
    train_set = ForgeryDataset(small, config.image_size, basic_augmentation(), edit=crop)
    val_set = ForgeryDataset(val, config.image_size, edit=crop)
    fit_member(config, split, model, train_set, val_set, sampler)


if __name__ == "__main__":
    main(parse_config(CONFIG))
