import numpy as np
import pytest

from common.generated.content import content_probabilities
from common.generated.images import LabelledImage
from common.making.layout import write_image
from common.metrics.forgery import image_auc


def labelled(folder, pixels, *, generated, stem):
    path = folder / f"{'fake' if generated else 'real'}/{stem}.png"
    write_image(path, pixels)
    return LabelledImage(path, generated, "test", "gan" if generated else "real")


def test_classes_that_show_different_things_are_told(tmp_path):
    rng, images = np.random.default_rng(0), []
    for number in range(20):
        pixels = rng.integers(60, 120, (60, 70, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 60  # red, or blue
        images.append(labelled(tmp_path, pixels, generated=bool(number % 2), stem=number))
    found = content_probabilities(images)
    assert image_auc(found, np.array([image.generated for image in images])) == 1


def test_twins_are_not_told(tmp_path):
    """Each image and its twin with other noise: a fold that had one of a pair would know the other."""
    rng, images = np.random.default_rng(0), []
    for number in range(12):
        scene = rng.integers(0, 200, (4, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        for generated in (False, True):
            noise = rng.integers(0, 4, scene.shape, dtype=np.uint8)
            images.append(labelled(tmp_path, scene + noise, generated=generated, stem=number))
    found = content_probabilities(images)
    assert image_auc(found, np.array([image.generated for image in images])) < 0.65


def test_too_few_images_tell_nothing(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    images = [labelled(tmp_path, pixels, generated=generated, stem=0) for generated in (False, True)]
    assert np.isnan(content_probabilities(images)).all()


@pytest.mark.parametrize("package", [True, False])
def test_without_the_encoders_package_colours_are_left(package, tmp_path, monkeypatch):
    import common.generated.content as content

    if not package:
        monkeypatch.setattr(content, "package_weights", lambda name: None)
    rows = content._features([labelled(tmp_path, np.full((30, 40, 3), 51, np.uint8), generated=False, stem=0)])
    assert rows[0, :192] == pytest.approx(0.2)
    if not package:
        assert rows.shape == (1, 192)
