import shutil

import numpy as np
import pandas as pd
import pytest
from skimage import data

import benchmarks.aligned_set as aligned
from common.data.images import find_images, read_image
from common.data.samples import find_samples
from common.errors import UserError
from common.files import files_below
from common.generated.images import images_of_folders
from common.making.layout import write_image


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Twelve crops of two photographs, in two groups and alone."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        picture = (data.astronaut(), data.coffee())[number % 2]
        top, left = 12 * number, 20 * number
        write_image(folder / f"{number:02}.png", picture[top : top + 160, left : left + 180])
    rows = [f"{number:02}.png,{number // 3}" for number in range(6)]
    (folder / "groups.csv").write_text("\n".join(["file,group", *rows]))
    return folder


def test_versions_of_one_source_are_aligned(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(aligned, "STEPS", 3)
    made = [tmp_path / "a", tmp_path / "b"]
    for output in made:
        aligned.main(photographs, output, groups=photographs / "groups.csv", pasted=True, seed=3)
    names = [path.relative_to(made[0]) for path in files_below(made[0])]
    assert names == [path.relative_to(made[1]) for path in files_below(made[1])]
    assert all((made[0] / name).read_bytes() == (made[1] / name).read_bytes() for name in names)

    images = images_of_folders(made[0], seed=0)
    assert {image.generator for image in images} == {"real", "resampled", "autoencoded"}
    by_name: dict[str, list] = {}
    for image in images:
        if "pasted" not in image.path.parts:
            by_name.setdefault(image.path.stem, []).append(image)
    assert len(by_name) == 12
    for versions in by_name.values():
        assert len(versions) == 3 and len({image.split for image in versions}) == 1
        found = {version.generator: read_image(version.path).astype(int) for version in versions}
        assert len({pixels.shape for pixels in found.values()}) == 1
        assert 0 < np.abs(found["resampled"] - found["real"]).mean() < 15
        # The autoencoder is hardly trained, but has the colours.
        assert 0 < np.abs(found["autoencoded"].mean((0, 1)) - found["real"].mean((0, 1))).max() < 8
    sources = pd.read_csv(made[0] / "sources.csv", dtype=str)
    for group in (sources[:3], sources[3:6]):
        assert group["split"].nunique() == 1

    samples = find_samples(made[0] / "pasted")
    assert sum(sample.forged for sample in samples) == 12
    name = "00004"
    real, forged = (read_image(made[0] / f"pasted/train_images/{kind}/{name}.png") for kind in ("authentic", "forged"))
    mask = np.load(made[0] / f"pasted/train_masks/{name}.npy")[0] > 0
    assert 0 < mask.mean() < 0.5
    assert np.array_equal(real[~mask], forged[~mask]) and np.abs(real.astype(int) - forged)[mask].mean() > 0.3
    with pytest.raises(UserError, match=r"a exists\. Choose another output folder"):
        aligned.main(photographs, made[0])


def test_what_cannot_be_made_is_said(photographs, tmp_path):
    write_image(tmp_path / "small/a.png", np.zeros((100, 200, 3), np.uint8))
    with pytest.raises(UserError, match="holds no image of 128 px"):
        aligned.main(tmp_path / "small", tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere_encoder\.pth: no such file"):
        aligned.main(photographs, tmp_path / "out", vae=tmp_path / "nowhere")
    with pytest.raises(UserError, match="ncnn"):
        aligned.main(photographs, tmp_path / "out", esrgan=tmp_path / "nowhere.param")
    assert not (tmp_path / "out").exists()


def test_the_vae_rebuilds_photographs(shared_data, tmp_path):
    through = aligned.load_vae(shared_data / "weights/taef2")
    path = list(find_images(shared_data / "casia1/authentic").values())[3]
    image = read_image(path)[:96, :128]
    rebuilt = through(image, np.random.default_rng(0))
    error = np.square(rebuilt.astype(float) - image).mean()
    assert 10 * np.log10(255**2 / error) > 20  # dB
    for half in ("encoder", "decoder"):
        shutil.copy(shared_data / "weights/taef2_decoder.pth", tmp_path / f"x_{half}.pth")
    with pytest.raises(UserError, match=r"x_encoder\.pth does not hold the encoder"):
        aligned.load_vae(tmp_path / "x")
