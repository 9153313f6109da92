import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from common.generated.images import (
    LabelledImage,
    fingerprint,
    hold_out,
    images_of_folders,
    images_of_table,
    prompt_list,
    readable_images,
)


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)
    return path


@pytest.fixture
def table(tmp_path):
    """Writes a table beside three images."""
    for name in ("a", "b", "c"):
        save(tmp_path / "set" / f"{name}.png")

    def write(*rows: str, head: str = "image,class,split") -> Path:
        (tmp_path / "table.csv").write_text("\n".join([head, *rows]) + "\n")
        return tmp_path / "table.csv"

    return write


def test_table(table, tmp_path):
    rows = (
        'set/a.png,1,train,SDXL,"a cat, asleep"',
        f"{tmp_path / 'set' / 'b.png'},0,val,camera,",
        "set/c.png,1,test,,",
    )
    assert images_of_table(table(*rows, head="image,class,split,generator,prompt"), seed=0) == [
        LabelledImage(tmp_path / "set/a.png", True, "train", "SDXL", "a cat, asleep"),
        LabelledImage(tmp_path / "set/b.png", False, "val", "real"),
        LabelledImage(tmp_path / "set/c.png", True, "test", "generated"),
    ]
    plain = images_of_table(table("set/a.png,fake,train", "set/b.png,real,val", head="file,label,split"), seed=0)
    assert [image.generator for image in plain] == ["generated", "real"]


def test_a_table_s_faults_are_named_with_their_rows(table):
    with pytest.raises(UserError, match=r"table\.csv has 1 wrong rows(.|\n)*row 3 \(set/b\.png\): class is '2'"):
        images_of_table(table("set/a.png,1,train", "set/b.png,2,val"), seed=0)


def test_real_is_no_generator(table, tmp_path):
    csv = table("set/a.png,1,train,real", "set/b.png,0,train,real", head="image,class,split,generator")
    with pytest.raises(UserError, match=r"table\.csv has 1 generated images whose generator is 'real'.*\n.*a\.png"):
        images_of_table(csv, seed=0)
    save(tmp_path / "fake" / "real" / "1.png")
    with pytest.raises(UserError, match=r"generator is 'real'; name what generated them:\n.*fake/real/1\.png"):
        images_of_folders(tmp_path, seed=0)


def test_a_table_without_splits_is_split_as_folders_are(folders, tmp_path):
    images = images_of_folders(folders, seed=3)
    rows = [f"{i.path},{int(i.generated)},{i.generator if i.generated else ''}" for i in images]
    (tmp_path / "table.csv").write_text("\n".join(["file,label,generator", *rows]))
    assert images_of_table(tmp_path / "table.csv", seed=3) == images


def test_splits_that_folders_give_are_kept(tmp_path):
    for number, name in enumerate(("train/real", "train/fake/gan", "val/real", "val/fake", "test/fake/gan")):
        save(tmp_path / name / f"{number}.png")
    assert [(i.path.name, i.generated, i.split, i.generator) for i in images_of_folders(tmp_path, seed=0)] == [
        ("0.png", False, "train", "real"),
        ("1.png", True, "train", "gan"),
        ("2.png", False, "val", "real"),
        ("3.png", True, "val", "generated"),
        ("4.png", True, "test", "gan"),
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """200 real pictures, 100 each of two generators and 20 of unknown; the first 50 of `one` are twins of real ones."""
    folder = tmp_path_factory.mktemp("folders")
    for number in range(200):
        save(folder / "real" / f"{number:03}.png")
    for number in range(100):
        save(folder / "fake" / "one" / "deep" / f"{number if number < 50 else f'one_{number}'!s:0>3}.png")
        save(folder / "fake" / "two" / f"two_{number}.png")
    for number in range(20):
        save(folder / "fake" / f"some_{number}.png")
    return folder


def test_folders_are_split_alike_in_every_generator(folders):
    images = images_of_folders(folders, seed=0)
    counts = Counter((image.generator, image.split) for image in images)
    for generator, total in (("real", 200), ("one", 100), ("two", 100), ("generated", 20)):
        parts = [counts[generator, split] for split in ("train", "val", "test")]
        assert sum(parts) == total
        assert parts == pytest.approx([0.7 * total, 0.15 * total, 0.15 * total], abs=2)
    assert [counts["two", split] for split in ("train", "val", "test")] == [70, 15, 15]
    assert all(image.generated == (image.generator != "real") for image in images)
    assert [p.path for p in images] == sorted((p.path for p in images), key=lambda p: ("fake" in p.parts, p))


def test_twins_share_their_split(folders):
    splits: dict[str, set[str]] = {}
    images = images_of_folders(folders, seed=1)
    for image in images:
        splits.setdefault(image.path.stem, set()).add(image.split)
    assert len(splits) == len(images) - 50
    assert all(len(found) == 1 for found in splits.values())


def test_splits_follow_from_names_and_seed(folders, tmp_path, monkeypatch):
    def drawn(folder, seed):
        images = images_of_folders(folder, seed)
        return {image.path.relative_to(folder): image.split for image in images}

    before = drawn(folders, 3)
    other = drawn(folders, 4)
    assert sum(other[path] != split for path, split in before.items()) > 100
    (tmp_path / "moved").symlink_to(folders)
    monkeypatch.setattr("common.generated.images.find_images", reversed_find_images)
    assert drawn(tmp_path / "moved", 3) == before


def reversed_find_images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.rglob("*.png"), reverse=True)}


def test_rare_generators_reach_every_split(tmp_path):
    save(tmp_path / "real" / "photo.png")
    for number in range(200):
        save(tmp_path / "fake" / f"generator_{number}" / f"{number}.png")
    counts = Counter(i.split for i in images_of_folders(tmp_path, seed=0) if i.generated)
    assert 110 < counts["train"] < 170 and counts["val"] > 15 and counts["test"] > 15


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*missing"):
        images_of_folders(tmp_path / "missing", seed=0)
    with pytest.raises(UserError, match="the folders real and fake"):
        images_of_folders(tmp_path, seed=0)
    (tmp_path / "fake").mkdir()
    with pytest.raises(UserError, match="holds no files"):
        images_of_folders(tmp_path, seed=0)
    save(tmp_path / "fake" / "1.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "fake" / "1.jpg")
    with pytest.raises(UserError, match="share a case id"):
        images_of_folders(tmp_path, seed=0)


def test_every_bad_file_is_listed_or_left_out(tmp_path, capsys):
    paths = [save(tmp_path / f"{number}.png") for number in range(4)]
    paths[1].write_bytes(b"no image")
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    images = [LabelledImage(path, True, "train", "SDXL") for path in paths]
    with pytest.raises(UserError, match=r"2 bad files among 4 images:\n.*1\.png(.|\n)*3\.png(.|\n)*skip_bad_files"):
        readable_images(images)
    assert readable_images(images, skip_bad_files=True) == [images[0], images[2]]
    assert "left out: 2 bad files" in capsys.readouterr().out
    assert readable_images([images[0]]) == [images[0]]


def image(name: str, generator: str, split: str, prompt: str = "") -> LabelledImage:
    return LabelledImage(Path(name), generator != "real", split, generator, prompt)


def test_leave_one_generator_out():
    images = [image(f"{g}_{s}", g, s) for g in ("real", "SDXL", "Flux") for s in ("train", "val", "test")]
    held = [(i.path.name, i.split) for i in hold_out(images, "Flux")]
    assert held == [
        ("real_train", "train"),
        ("real_val", "val"),
        ("real_test", "test"),
        ("SDXL_train", "train"),
        ("SDXL_val", "val"),
        ("Flux_train", "test"),
        ("Flux_val", "test"),
        ("Flux_test", "test"),
    ]
    for name in ("Glide", "real"):
        with pytest.raises(UserError, match=f"'{name}'; there are Flux, SDXL"):
            hold_out(images, name)


def test_what_is_left_out_shares_no_content_with_the_training():
    """Versions of one picture have one stem: of those in training and validation none is tested."""
    images = [image(f"{g}/{s}.png", g, s) for g in ("real", "vae", "esrgan") for s in ("train", "val", "test")]
    images += [image("vae/alone.png", "vae", "train")]
    held = {i.path.as_posix(): i.split for i in hold_out(images, "vae")}
    assert [name for name, split in held.items() if split == "test"] == [
        "real/test.png",
        "vae/test.png",
        "vae/alone.png",
    ]
    assert {name for name in held if name.startswith("vae")} == {"vae/test.png", "vae/alone.png"}
    assert held["esrgan/train.png"] == "train" and "esrgan/test.png" not in held


def test_prompts_once_and_sorted():
    prompts = ("dog", "", "cat", "dog")
    assert prompt_list(image(str(n), "SDXL", "train", p) for n, p in enumerate(prompts)) == ["cat", "dog"]


def test_fingerprint_follows_content_not_place(tmp_path):
    images = [LabelledImage(save(tmp_path / "here" / f"{n}.png"), bool(n), "train", "SDXL") for n in range(2)]
    moved = [replace(i, path=save(tmp_path / "there" / i.path.name)) for i in images]
    before = fingerprint(images)
    assert fingerprint(moved[::-1]) == before
    for change in ({"split": "val"}, {"generated": True}, {"generator": "Flux"}, {"prompt": "cat"}):
        assert fingerprint([replace(images[0], **change), images[1]]) != before
    Image.new("RGB", (400, 300), "red").save(moved[0].path)
    assert fingerprint(moved) != before


def test_real_portraits(shared_data):
    images = images_of_folders(shared_data / "portraits", seed=0)
    assert Counter((i.generator, i.split) for i in images) == {
        ("real", "train"): 140,
        ("real", "val"): 30,
        ("real", "test"): 30,
        ("generated", "train"): 168,
        ("generated", "val"): 36,
        ("generated", "test"): 36,
    }
    assert len({i.path for i in images}) == 440
    assert readable_images(images[:10]) == images[:10]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_images_of_any_name_are_drawn_and_known(tmp_path):
    for number in range(12):
        name = os.fsdecode(b"caf\xe9%d.png" % number) if number % 2 else f"\x1b[31m\n{number}.png"
        for folder in ("real", os.fsdecode(b"fake/g\xe9n")):
            save(tmp_path / folder / name)
    images = images_of_folders(tmp_path, seed=0)
    assert Counter(image.generator for image in images) == {"real": 12, r"g\xe9n": 12}
    assert {image.split for image in images} == {"train", "val", "test"} and len(fingerprint(images)) == 16
    assert readable_images(images) == images
