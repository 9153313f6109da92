import numpy as np

from common.data.images import find_images, read_image
from common.data.masks import read_mask
from common.making.examples import EXAMPLES, make_examples
from common.making.layout import new_folder


def test_examples_are_four_forged_and_two_untouched_and_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        with new_folder(tmp_path / name) as folder:
            assert make_examples(folder, seed=0) == list(EXAMPLES)
    images = find_images(tmp_path / "first/test_images")
    masks = {path.stem: read_mask(path) for path in (tmp_path / "first/test_masks").iterdir()}
    assert set(images) == set(EXAMPLES)
    assert set(EXAMPLES) - set(masks) == {"untouched_figure", "untouched_photograph"}
    for name, path in images.items():
        image = read_image(path)
        assert min(image.shape[:2]) > 200 and max(image.shape[:2]) < 1600
        assert np.array_equal(image, read_image(tmp_path / f"second/test_images/{name}.png"))
        if name in masks:
            assert masks[name].shape[1:] == image.shape[:2]
            assert 0.01 < masks[name].any(axis=0).mean() < 0.5
