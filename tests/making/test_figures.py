"""Composed figures are deterministic, and their masks mark what is shown twice."""

import numpy as np
import pytest

from common.data.samples import load_samples
from common.errors import UserError
from common.making.checking import check_folder
from common.making.figures import RELATIONS, compose_figure, make_figures
from common.making.layout import new_folder, write_image


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    """Noise, so that what is equal is a copy."""
    return [np.random.default_rng(seed).integers(0, 256, (500, 400, 3), np.uint8) for seed in range(8)]


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_same_seed_gives_the_same_figure(fields, relation):
    one, two = (compose_figure(fields, np.random.default_rng(3), relation) for _ in range(2))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.panels == two.panels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("relation", RELATIONS)
def test_the_mask_marks_the_panels_that_show_the_same(fields, seed, relation):
    figure = compose_figure(fields, np.random.default_rng(seed), relation, labels=bool(seed % 2))
    height, width = figure.image.shape[:2]
    assert figure.relation in (relation, "whole")  # where a field is too small for an overlap
    assert figure.mask.shape == (1, height, width) and figure.mask.dtype == np.uint8
    marked = [figure.mask[0, y : y + high, x : x + wide].mean() for x, y, wide, high in figure.panels]
    assert np.count_nonzero(np.array(marked) > 0.02) == {"none": 0, "within": 1}.get(figure.relation, 2)
    assert all(
        x >= 0 and y >= 0 and x + wide <= width + 1 and y + high <= height + 1 for x, y, wide, high in figure.panels
    )
    shares = sorted(share for share in marked if share > 0.02)
    if figure.relation == "whole":
        assert min(shares) > 0.97
    if figure.relation == "overlap":
        assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert (figure.relation == "none") == (relation == "none") == (figure.transform == "")


def test_natural_relations_are_not_marked(fields):
    for seed in range(6):
        for natural in ("channels", "enlargement", "exposures"):
            figure = compose_figure(fields, np.random.default_rng(seed), natural=natural)
            assert figure.natural == natural and not figure.mask.any()


def test_a_field_without_content_is_not_shown_twice(fields):
    """Nobody could see it: another field is taken, and none if all are empty."""
    empty = np.full((400, 400, 3), 90, np.uint8)
    assert compose_figure([empty] * 6, np.random.default_rng(0), "whole").relation == "none"
    for seed in range(6):
        figure = compose_figure([*[empty] * 5, fields[0]], np.random.default_rng(seed), "whole", labels=False)
        assert figure.relation == "whole"
        assert figure.image[figure.mask[0] > 0].std() > 20


def test_what_is_marked_is_equal(fields):
    """Of an overlap that is neither turned nor brightened, without print and compression."""
    equal = 0
    for seed in range(80):
        figure = compose_figure(fields, np.random.default_rng(seed), "overlap", natural="none", labels=False)
        one, other = (
            figure.image[y : y + high, x : x + wide][figure.mask[0, y : y + high, x : x + wide] > 0]
            for x, y, wide, high in figure.panels
            if figure.mask[0, y : y + high, x : x + wide].any()
        )
        equal += np.array_equal(one, other)
    assert equal >= 5


@pytest.fixture
def paths(fields, tmp_path):
    for number, field in enumerate(fields):
        write_image(tmp_path / "fields" / f"{number}.png", field)
    return sorted((tmp_path / "fields").iterdir())


def test_a_data_folder_of_figures(paths, tmp_path):
    contents = []
    for name in ("one", "two"):
        with new_folder(tmp_path / name) as folder:
            relations = make_figures(paths, folder, train=6, test=3, seed=5)
        assert relations.count("none") == 5 and len(relations) == 9
        report = check_folder(tmp_path / name)
        assert report.faults == [] and report.images["test_images"] == 3
        written = sorted(path for path in (tmp_path / name).rglob("*") if path.suffix in (".png", ".npy"))
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in written})
    assert contents[0] == contents[1] and len(contents[0]) == 9 + 4
    samples = load_samples(tmp_path / "one")
    assert [sample.forged for sample in samples].count(True) == 3
    assert {sample.kind for sample in samples if sample.forged} <= {"overlap", "whole", "within"}


def test_too_few_or_too_small_fields(paths, tmp_path):
    with pytest.raises(UserError, match="7 pictures are too few for figures; 8 or more"):
        make_figures(paths[:7], tmp_path, train=4, test=1, seed=0)
    write_image(paths[0], np.zeros((40, 400, 3), np.uint8))
    with pytest.raises(UserError, match="has a side below 64 px"):
        make_figures(paths, tmp_path, train=8, test=0, seed=0)
