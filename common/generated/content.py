"""What is reached by content alone: a classifier that sees thumbnails, from which all traces of generation are gone.

A detector's AUC tells little where this one is as high: the classes then show different things.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from common.data.images import read_image
from common.data.transforms import to_tensor
from common.generated.images import LabelledImage
from common.networks.pixels import IMAGENET_MEAN, IMAGENET_STD, unit_range
from common.networks.pretrained import package_weights

ENCODER = "tf_efficientnet_lite0"
THUMBNAIL, COLOURS, ENCODED = 48, 8, 160
"""Sides in pixels: of what is seen, of the grid of mean colours, and of what the encoder gets."""
FOLDS = 5
STRENGTH = 0.01
"""Inverse of the regularisation: there are more features than images."""


def content_probabilities(images: Sequence[LabelledImage]) -> np.ndarray:
    """Probability that each image is generated, by its thumbnail, (n,): cross-validated logistic regression.

    Its features are mean colours and, where the package of weights is installed, the embedding of an ImageNet encoder.
    Images of one file stem are in one fold, as they are in one split. All are nan if a class has fewer than two stems.
    """
    generated = np.array([image.generated for image in images])
    stems = np.array([image.path.stem for image in images])
    folds = min(FOLDS, *(len(set(stems[generated == label])) for label in (False, True)))
    probabilities = np.full(len(images), np.nan)
    if folds < 2:
        return probabilities
    features = _features(images)
    for train, test in StratifiedGroupKFold(folds).split(features, generated, stems):
        if len(set(generated[train])) < 2:
            return np.full(len(images), np.nan)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000))
        probabilities[test] = model.fit(features[train], generated[train]).predict_proba(features[test])[:, 1]
    return probabilities


@torch.inference_mode()
def _features(images: Sequence[LabelledImage]) -> np.ndarray:
    encoder, rows = _encoder(), []
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    for image in images:
        pixels = read_image(image.path, upright=True)
        thumbnail = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        row = [cv2.resize(thumbnail, (COLOURS, COLOURS), interpolation=cv2.INTER_AREA).ravel() / 255]
        if encoder is not None:
            shown = to_tensor(cv2.resize(thumbnail, (ENCODED, ENCODED), interpolation=cv2.INTER_CUBIC))
            row.append(encoder(((unit_range(shown) - mean) / std)[None])[0].numpy())
        rows.append(np.concatenate(row))
    return np.array(rows)


def _encoder() -> nn.Module | None:
    """An ImageNet encoder, images (B, 3, H, W) → (B, 1280); None if no package of its weights is installed."""
    packaged = package_weights(f"tu-{ENCODER}")
    if packaged is None:
        return None
    weights = {name: value for name, value in packaged[0].items() if not name.startswith("classifier.")}
    encoder = timm.create_model(ENCODER, num_classes=0)
    encoder.load_state_dict(weights)
    return encoder.eval()
