"""Script 5: RGB and error level analysis, four channels.

A JPEG compression changes what was compressed before less than what was not, so that a pasted region with another
history stands out (Krawetz 2007). The levels (quality 90, amplified 10 times) are taken from the file's own pixels,
before anything is resized or turned, and then moved with the image; jitter and blur leave them alone. Pretrained
weights of the first convolution are adapted to the fourth channel.

    python script_5_ela.py --data-dir data
    python script_5_ela.py --data-dir data/demo --profile quick

Writes models/ela_best.pth (weight 0.5), ela_last.pth, ela_metrics.json. The weight is low because error levels depend
on the file's last compression as much as on forgery: the member helps where the others see nothing.
Measured: not measured yet.
"""

from common.config import OversamplingConfig, parse_config
from common.data.dataset import ForgeryDataset, make_loader
from common.data.sampling import WeightedSampler, small_forgery_weights
from common.data.transforms import basic_augmentation
from common.training.engine import fit
from common.training.start import load_split, result_line, segmentation_loss, start_network

CONFIG = OversamplingConfig(name="ela", in_channels=4)


def main(config: OversamplingConfig) -> None:
    """Train on four channels, on all folds but one, and validate on that one."""
    split = load_split(config)
    model, config = start_network(config, split)

    def dataset(samples, augmentation=None):
        return ForgeryDataset(samples, config.image_size, augmentation, in_channels=config.in_channels)

    weights = small_forgery_weights(split.train, config.small_forgery_threshold, config.oversample_factor)
    sampler = WeightedSampler(weights, config.seed)
    train_loader = make_loader(dataset(split.train, basic_augmentation()), config.batch_size, config.workers, sampler)
    val_loader = make_loader(dataset(split.val), config.batch_size, config.workers)

    metrics = fit(config, model, segmentation_loss(config), train_loader, val_loader, split.fingerprint)
    print(result_line(config, metrics))


if __name__ == "__main__":
    main(parse_config(CONFIG))
