import io
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from common.ensemble.choices import MODE_THRESHOLDS
from common.ensemble.ensemble import Ensemble, Loaded
from common.ensemble.loading import original_settings
from common.ensemble.members import MEMBERS
from common.errors import UserError
from common.metrics.rle import parse_annotation
from common.submission.config import SubmissionConfig
from common.submission.inputs import open_parts
from common.submission.predictor import Predictor, load_predictor, read_source, write_part
from common.submission.shards import read_shard, shard_parts
from common.submission.sources import list_files, split_into_parts


class Brightness(nn.Module):
    """A pixel above 200 is forged: logits (N, 1, S, S) of uint8 (N, 3, S, S)."""

    def forward(self, images):
        return (images.float().mean(1, keepdim=True) - 200) / 8


@pytest.fixture(scope="module")
def ensemble():
    checkpoint = {"threshold": 0.5, "calibration": {"slope": 1.0, "intercept": 0.0}, "config": {"image_size": 64}}
    member = [Loaded(MEMBERS[0], Brightness(), checkpoint)]
    return Ensemble([member], original_settings(member), torch.device("cpu"))


@pytest.fixture
def config(tmp_path):
    """Seven images: of the even ones the upper left quarter is bright; one is broken."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(7):
        image = rng.integers(60, 120, (48 + 8 * number, 64, 3), dtype=np.uint8)
        if number % 2 == 0:
            image[: len(image) // 2, :32] = 250
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    (tmp_path / "models").mkdir()
    return SubmissionConfig(
        input=tmp_path / "images", models_dir=tmp_path / "models", output=tmp_path / "s.csv", batch_size=3
    )


def rows_of(config, ensemble, parts):
    predictor = Predictor(config, ensemble, None)
    return [row for part in parts for row in predictor.rows(part)]


@pytest.fixture
def write_tar(config, tmp_path):
    def write(name="s.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            for path in sorted(config.input.iterdir()):
                tar.add(path, path.name)
        return tmp_path / name

    return write


def test_rows_say_what_the_network_sees(config, ensemble):
    rows = rows_of(config, ensemble, split_into_parts(list_files(config.input), 500))
    assert [row.case_id for row in rows] == list("0123456")
    assert [row.verdict for row in rows] == [
        "unreadable" if n == 3 else "forged" if n % 2 == 0 else "authentic" for n in range(7)
    ]
    for number in (0, 2, 4, 6):
        row, height = rows[number], 48 + 8 * number
        (mask,) = parse_annotation(row.annotation, height, 64)
        expected = np.zeros((height, 64), bool)
        expected[: height // 2, :32] = True
        assert (mask & expected).sum() > 0.9 * (mask | expected).sum()
        assert row.scores["area_share"] == pytest.approx(mask.mean(), abs=1e-6)
        assert (row.scores["height"], row.scores["width"], row.scores["n_instances"]) == (height, 64, 1)
        assert row.scores["forged_probability"] >= MODE_THRESHOLDS["default"] == row.scores["threshold"]
    assert rows[1].annotation == rows[3].annotation == "authentic"
    assert (rows[1].scores["area_share"], rows[1].scores["n_instances"]) == (0, 0)
    assert set(rows[3].scores) == {"error"}
    assert "3.png cannot be read as an image" in rows[3].scores["error"]


def test_neither_the_batches_nor_the_parts_change_a_row(config, ensemble):
    whole = rows_of(config, ensemble, split_into_parts(list_files(config.input), 500))
    for batch_size, part_size in ((1, 500), (8, 500), (3, 1), (2, 4)):
        other = replace(config, batch_size=batch_size)
        assert rows_of(other, ensemble, split_into_parts(list_files(config.input), part_size)) == whole


def test_a_tar_has_the_rows_of_its_folder(config, ensemble, write_tar):
    (config.input / "3.png").unlink()
    shard = write_tar()
    assert rows_of(config, ensemble, shard_parts([shard])) == rows_of(
        config, ensemble, split_into_parts(list_files(config.input), 500)
    )


def test_a_broken_image_in_a_tar_is_named_by_both(config, ensemble, write_tar):
    rows = rows_of(config, ensemble, shard_parts([write_tar()]))
    assert "s.tar: 3.png cannot be read as an image" in rows[3].scores["error"]
    assert "/image.png" not in rows[3].scores["error"]


def test_a_tar_that_is_cut_short_has_a_row_that_says_so(config, ensemble, write_tar):
    first, second = write_tar("a.tar"), config.input.parent / "b.tar"
    with tarfile.open(second, "w") as tar:
        tar.add(config.input / "0.png", "x.png")
    first.write_bytes(first.read_bytes()[:-24_000])
    with tarfile.open(write_tar("whole.tar")) as tar:
        named = [m.name for m in tar if m.offset_data <= first.stat().st_size]
        whole = sum(m.offset_data + m.size <= first.stat().st_size for m in tar)
    rows = rows_of(config, ensemble, shard_parts([first, second]))
    assert 0 < whole < len(named) < 7
    assert [(row.case_id, row.kind) for row in rows] == [
        *((name[0], "image") for name in named),
        ("a.tar", "shard"),
        ("x", "image"),
    ]
    cut, broken = rows[whole : whole + 2]
    assert (cut.annotation, cut.verdict) == ("authentic", "unreadable") and "is truncated: of" in cut.scores["error"]
    assert "a.tar is truncated or broken" in broken.scores["error"]
    assert (broken.annotation, broken.verdict) == (None, "shard broken")


def test_a_member_that_cannot_be_read_has_a_row(config, ensemble, write_tar):
    """A link, and one that is stored with holes: in their places, and the others are as without them."""
    shard = write_tar()
    whole = rows_of(config, ensemble, shard_parts([shard]))
    with tarfile.open(shard) as old, tarfile.open(config.input.parent / "t.tar", "w", format=tarfile.PAX_FORMAT) as new:
        for member in old.getmembers():
            new.addfile(member, old.extractfile(member))
            if member.name == "2.png":
                link, sparse = tarfile.TarInfo("link.png"), tarfile.TarInfo("sparse.png")
                link.type, link.linkname = tarfile.SYMTYPE, "2.png"
                sparse.size, sparse.pax_headers = 4, {"GNU.sparse.map": "0,-1,x"}
                new.addfile(link)
                new.addfile(sparse, io.BytesIO(b"data"))
    rows = rows_of(config, ensemble, shard_parts([config.input.parent / "t.tar"]))
    assert [row.case_id for row in rows] == ["0", "1", "2", "link", "sparse", "3", "4", "5", "6"]
    assert [replace(row, scores={}) for row in rows[:3] + rows[6:]] == [
        replace(row, scores={}) for row in whole[:3] + whole[4:]
    ]
    assert [row.verdict for row in rows[3:5]] == ["unreadable"] * 2
    assert "t.tar: link.png is a link" in rows[3].scores["error"]
    assert "t.tar: sparse.png is stored with holes" in rows[4].scores["error"]


def test_a_tar_that_cannot_be_read_ends_the_run(config, ensemble, write_tar):
    """Its part is not done: a folder that was lost may be there again."""
    config = replace(config, input=write_tar())
    parts = open_parts(config)
    config.input.unlink()
    with pytest.raises(UserError, match=r"s\.tar can't be read \(No such file"):
        list(write_part(Predictor(config, ensemble, None), parts, parts.parts[0]))
    assert parts.missing() == parts.parts


@pytest.mark.parametrize(("local", "workers"), [("2", 3), ("1", 6)])
def test_the_processes_of_a_machine_share_its_cores(config, monkeypatch, local, workers):
    """Not those of the other machines."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setattr("common.submission.predictor.cpu_count", lambda: 6)
    config = replace(config, allow_missing=True, batch_size=100)
    assert load_predictor(config, {"image"}, 1000).ensemble.workers == workers


def test_a_part_is_written_and_counted(config, ensemble):
    parts = open_parts(replace(config, part_size=4))
    predictor = Predictor(config, ensemble, None)
    for part in reversed(parts.parts):
        assert len(list(write_part(predictor, parts, part))) == part.count
    assert parts.merge() == {"forged": 4, "authentic": 2, "unreadable": 1}
    lines = config.output.read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["case_id", *"0123456"]
    scores = config.scores_path.read_text().splitlines()
    assert [line.split(",")[:2] for line in scores[1:]] == [[str(n), "image"] for n in range(7)]


def test_maps_stay_in_their_folder(config, ensemble, tmp_path):
    config = replace(config, maps=tmp_path / "maps")
    rows_of(config, ensemble, split_into_parts([("image", "sub/0", str(config.input / "0.png"))], 1))
    assert np.load(tmp_path / "maps" / "sub" / "0.npy").shape == (48, 64)
    for case_id in ("../0", str(tmp_path / "0"), "a/../../0", "名" * 90):
        files = [("image", name, str(config.input / "0.png")) for name in (case_id, "1")]
        failed, other = rows_of(config, ensemble, split_into_parts(files, 1))
        assert (failed.verdict, other.verdict) == ("failed", "forged")
        assert failed.annotation == other.annotation != "authentic"
        error = "outside --maps" if "0" in case_id else "File name too long"
        assert error in failed.scores.pop("error")
        assert failed.scores == other.scores
    assert not (tmp_path / "0.npy").exists()


def test_an_image_without_a_verdict_is_a_row_with_an_error(config, ensemble):
    class Overflowing(nn.Module):
        """Not finite in images with bright pixels."""

        def forward(self, images):
            bright = images.amax(dim=(1, 2, 3), keepdim=True) > 200
            return torch.where(bright, torch.nan, -5.0).expand(-1, 1, *images.shape[2:])

    member = [replace(ensemble.folds[0][0], network=Overflowing())]
    broken = Ensemble([member], original_settings(member), torch.device("cpu"))
    rows = rows_of(config, broken, split_into_parts(list_files(config.input), 500))
    verdicts = ["unreadable" if n == 3 else "failed" if n % 2 == 0 else "authentic" for n in range(7)]
    assert [row.verdict for row in rows] == verdicts
    assert all(row.annotation == "authentic" for row in rows)
    assert "result is not finite" in rows[0].scores["error"]
    assert set(rows[0].scores) == {"error", "height", "width"}


def test_images_as_they_are_read(config, write_tar):
    images = [read_source((path.stem, str(path))) for path in sorted(config.input.iterdir())]
    members = [read_source(member) for member in read_shard(write_tar())]
    for own, other in zip(images, members, strict=True):
        assert type(own) is type(other)
        assert isinstance(own, str) or (own.pixels == other.pixels).all()
    assert "there is no such image" in read_source(("404", ""))
    assert "nowhere.png cannot be read" in read_source(("1", str(Path("nowhere.png"))))
