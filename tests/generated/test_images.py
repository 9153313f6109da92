from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from common.generated.images import (
    LabelledImage,
    check_splits,
    fingerprint,
    hold_out,
    inspect,
    prompt_list,
    read_folders,
    read_table,
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
    assert read_table(table(*rows, head="image,class,split,generator,prompt")) == [
        LabelledImage(tmp_path / "set/a.png", True, "train", "SDXL", "a cat, asleep"),
        LabelledImage(tmp_path / "set/b.png", False, "val", "real"),
        LabelledImage(tmp_path / "set/c.png", True, "test", "generated"),
    ]
    assert [i.generator for i in read_table(table("set/a.png,1,train", "set/b.png,0,val"))] == ["generated", "real"]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (["set/a.png,1,train", "set/b.png,2,val"], ["row 3 (set/b.png)", "class is '2'"]),
        (["set/a.png,fake,train"], ["row 2", "class is 'fake'"]),
        (["set/a.png,1,dev"], ["row 2", "split is 'dev'", "train, val, test"]),
        (["set/a.png,1,train", "set/b.png,0,val", "set/../set/a.png,1,test"], ["row 4", "is in row 2 already"]),
        (["set/x.png,1,train", "set/b.png,0,val", "set/y.png,0,val"], ["2 of the 3 images", "row 2", "x.png", "row 4"]),
        ([], ["lists no images"]),
    ],
)
def test_faults_of_a_table_name_file_and_row(table, rows, parts):
    with pytest.raises(UserError) as error:
        read_table(table(*rows))
    for part in ("table.csv", *parts):
        assert part in str(error.value)


def test_a_table_needs_its_columns_and_real_is_no_generator(table):
    with pytest.raises(UserError, match=r"table\.csv needs the columns image, class, split"):
        read_table(table("set/a.png,1", head="image,class"))
    with pytest.raises(UserError, match=r"row 2 .*generator is 'real'"):
        read_table(table("set/a.png,1,train,real", head="image,class,split,generator"))


def test_long_lists_of_faults_are_cut(table):
    with pytest.raises(UserError, match=r"40 of the 40(.|\n)*row 11(.|\n)*and 30 more") as error:
        read_table(table(*(f"missing_{n}.png,1,train" for n in range(40))))
    assert "row 12:" not in str(error.value)


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
    images = read_folders(folders / "real", folders / "fake", seed=0)
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
    images = read_folders(folders / "real", folders / "fake", seed=1)
    for image in images:
        splits.setdefault(image.path.stem, set()).add(image.split)
    assert len(splits) == len(images) - 50
    assert all(len(found) == 1 for found in splits.values())


def test_splits_follow_from_names_and_seed(folders, tmp_path, monkeypatch):
    def drawn(folder, seed):
        images = read_folders(folder / "real", folder / "fake", seed)
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
    counts = Counter(i.split for i in read_folders(tmp_path / "real", tmp_path / "fake", seed=0) if i.generated)
    assert 110 < counts["train"] < 170 and counts["val"] > 15 and counts["test"] > 15


def test_folders_that_are_none(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "fake" / "real" / "1.png")
    for real, fake, message in (
        (folders / "real", tmp_path / "missing", "is not a folder"),
        (folders / "real", tmp_path / "empty", "holds no images"),
        (folders, folders / "fake", "share images"),
        (folders / "real", tmp_path / "fake", "name it after its generator"),
    ):
        with pytest.raises(UserError, match=message):
            read_folders(real, fake, seed=0)
    with pytest.raises(UserError, match="sum to 1"):
        read_folders(folders / "real", folders / "fake", 0, (0.7, 0.2, 0.2))


def test_inspection_lists_every_bad_file_or_leaves_it_out(tmp_path, capsys):
    paths = [save(tmp_path / f"{number}.png") for number in range(4)]
    paths[1].write_bytes(b"no image")
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    images = [LabelledImage(path, True, "train", "SDXL") for path in paths]
    with pytest.raises(UserError, match=r"2 bad files among 4 images:\n.*1\.png(.|\n)*3\.png(.|\n)*--skip-bad-files"):
        inspect(images)
    assert inspect(images, skip_bad_files=True) == [images[0], images[2]]
    assert "left out: 2 bad files" in capsys.readouterr().out
    assert inspect([images[0]]) == [images[0]]


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


def test_training_and_validation_need_both_classes():
    images = [image("a", "real", "train"), image("b", "SDXL", "train"), image("c", "SDXL", "val")]
    with pytest.raises(UserError, match="val has no real images"):
        check_splits(images)
    with pytest.raises(UserError, match=r"train has no generated images; val has no real images; val has no generated"):
        check_splits(images[:1])
    check_splits([*images, image("d", "real", "val")])


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
    folder = shared_data / "portraits"
    images = read_folders(folder / "real", folder / "fake", seed=0)
    assert Counter((i.generator, i.split) for i in images) == {
        ("real", "train"): 140,
        ("real", "val"): 30,
        ("real", "test"): 30,
        ("generated", "train"): 168,
        ("generated", "val"): 36,
        ("generated", "test"): 36,
    }
    assert len({i.path for i in images}) == 440
    check_splits(images)
    assert inspect(images[:10]) == images[:10]
