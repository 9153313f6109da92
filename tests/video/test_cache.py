import json
import multiprocessing
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.video.cache import CLIPS_PER_SHARD, ClipCache
from common.video.clip_faces import extract_faces
from common.video.clips import Clip
from common.video.faces import make_face_detector
from common.video.files import write_video


def write_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    return path


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    """A video of ten frames, a folder of three and an image."""
    rng = np.random.default_rng(0)
    write_video(tmp_path / "video.mp4", rng.integers(0, 256, (10, 32, 48, 3), dtype=np.uint8), 5.0)
    for number in range(3):
        write_image(tmp_path / "frames" / f"{number}.png", number)
    write_image(tmp_path / "image.png", 7)
    return [Clip(tmp_path / name, False, "train") for name in ("video.mp4", "frames", "image.png")]


@pytest.fixture
def images(tmp_path) -> list[Clip]:
    """Enough for two full shards and one of five."""
    return [Clip(write_image(tmp_path / f"{n}.png", n), bool(n % 2), "train") for n in range(2 * CLIPS_PER_SHARD + 5)]


def cache(tmp_path: Path, kind: str = "crops", frames: int = 4, size: int = 16) -> ClipCache:
    return ClipCache(tmp_path / "cache", make_face_detector(kind), frames=frames, size=size)


def shards(tmp_path: Path) -> dict[str, int]:
    """Name of each shard → when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("shard_*")}


def test_a_cached_clip_is_its_main_face(clips, tmp_path):
    cached = cache(tmp_path)
    assert cached.fill(clips) == clips
    for reader in (cached, cache(tmp_path)):
        for clip, count in zip(clips, (4, 3, 1), strict=True):
            faces = extract_faces(clip.path, make_face_detector("crops"), frames=4, size=16)
            main, read = faces.tracks[0], reader.read(clip)
            assert read.crops.shape == (count, 16, 16, 3) and read.crops.dtype == np.uint8
            assert isinstance(read.crops, np.memmap) and not read.crops.flags.writeable
            for name in ("crops", "found"):
                expected, found = getattr(main, name), getattr(read, name)
                assert expected.dtype == found.dtype and np.array_equal(expected, found)
            assert (read.coverage, read.warnings) == (main.coverage, faces.warnings)


def test_what_is_known_of_a_clip_is_written_down(clips, tmp_path):
    cache(tmp_path).fill(clips)
    (shard,) = cache(tmp_path).folder.glob("*.json")
    for clip, entry in zip(clips, json.loads(shard.read_text())["clips"], strict=True):
        faces = extract_faces(clip.path, make_face_detector("crops"), frames=4, size=16)
        main = faces.tracks[0]
        assert (entry["file"], entry["coverage"]) == (str(clip.path), main.coverage)
        assert (tuple(entry["warnings"]), entry["indices"]) == (faces.warnings, main.indices.tolist())
        assert (entry["found"], entry["boxes"]) == (main.found.tolist(), main.boxes.tolist())


def test_a_second_start_decodes_nothing(images, tmp_path):
    cache(tmp_path).fill(images)
    before = shards(tmp_path)
    assert sorted(before) == [f"shard_0000{n}.{suffix}" for n in range(3) for suffix in ("json", "npy")]
    again = cache(tmp_path)
    again.detector = None  # nothing could be found
    assert again.fill(images) == images
    assert shards(tmp_path) == before


def test_only_what_is_missing_is_added(images, tmp_path):
    cache(tmp_path).fill(images[:3])
    before = shards(tmp_path)
    cached = cache(tmp_path)
    assert cached.fill(images) == images
    assert before.items() <= shards(tmp_path).items()
    written = [json.loads(path.read_text())["clips"] for path in sorted((tmp_path / "cache").rglob("*.json"))]
    assert [len(entries) for entries in written] == [3, 32, 32, 2]
    assert len({entry["key"] for entries in written for entry in entries}) == len(images)
    for clip in (images[0], images[3], images[-1]):
        faces = extract_faces(clip.path, make_face_detector("crops"), frames=4, size=16)
        assert np.array_equal(cached.read(clip).crops, faces.tracks[0].crops)


def test_a_run_that_breaks_off_goes_on(images, tmp_path):
    class Interrupted:
        name = make_face_detector("crops").name
        seen = 0

        def find(self, image, path, index):
            self.seen += 1
            if self.seen > CLIPS_PER_SHARD + 10:
                raise KeyboardInterrupt
            return np.array([[0.0, 0.0, image.shape[1], image.shape[0], 1.0]])

    first = ClipCache(tmp_path / "cache", Interrupted(), frames=4, size=16)
    with pytest.raises(KeyboardInterrupt):
        first.fill(images)
    before = shards(tmp_path)
    assert sorted(before) == ["shard_00000.json", "shard_00000.npy"]
    assert cache(tmp_path).fill(images) == images
    assert before.items() <= shards(tmp_path).items()


@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_half_a_shard_does_not_count(images, tmp_path, suffix):
    cache(tmp_path).fill(images[:2])
    lost = images[2:40]
    cache(tmp_path).fill(lost)
    folder = cache(tmp_path).folder
    (folder / f"shard_00001{suffix}").unlink()
    again = cache(tmp_path)
    with pytest.raises(UserError, match="is not in the cache"):
        again.read(lost[0])
    assert again.fill(images[:40]) == images[:40]
    assert len(again.read(lost[0]).crops) == len(again.read(images[0]).crops) == 1
    assert sorted(path.name for path in folder.glob("shard_*.npy")) == [f"shard_0000{n}.npy" for n in range(3)]
    assert cache(tmp_path).fill(images[:40]) == images[:40]


CLIP = {"key": "k", "offset": 0, "found": [True], "coverage": 1.0, "warnings": []}


@pytest.mark.parametrize(
    "content",
    [
        *("[" * 10**5, '{"clips": ' * 10**4, "9" * 5000, "[]", "null", "{", '{"clips": 7}', '{"clips": [[]]}', "{}"),
        *(
            json.dumps({"clips": [CLIP | change]})
            for change in (
                *({"offset": "0"}, {"offset": -1}, {"found": "yes"}, {"found": ["yes"]}, {"found": {}}),
                *({"coverage": None}, {"warnings": [7]}, {"warnings": 7}, {"key": []}),
            )
        ),
    ],
)
def test_a_shard_whose_json_is_broken_is_named(images, tmp_path, content):
    cache(tmp_path).fill(images[:2])
    (cache(tmp_path).folder / "shard_00000.json").write_text(content)
    with pytest.raises(UserError, match=r"shard_00000\.json is broken \(.*Delete the folder"):
        cache(tmp_path)


@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_crops_that_are_broken_are_named(images, tmp_path, content):
    cache(tmp_path).fill(images[:3])
    path = cache(tmp_path).folder / "shard_00000.npy"
    if content is None:
        np.save(path, np.load(path)[:2])
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"shard_00000\.npy is broken \(.*Delete the folder"):
        cache(tmp_path).read(images[2]).crops


def test_what_is_known_of_lost_crops_is_not_taken_for_that_of_others(images, tmp_path, monkeypatch):
    cache(tmp_path).fill(images[:2])
    (cache(tmp_path).folder / "shard_00000.npy").unlink()

    def broken_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("common.video.cache.write_json", broken_off)
        cache(tmp_path).fill(images[2:4])
    with pytest.raises(UserError, match="is not in the cache"):
        cache(tmp_path).read(images[0])
    assert cache(tmp_path).fill(images[:4]) == images[:4]


def test_a_changed_file_is_another_clip(clips, tmp_path):
    cached = cache(tmp_path)
    cached.fill(clips)
    before = cached.read(clips[2]).crops
    write_image(clips[2].path, 8)
    os.utime(clips[2].path, (1, 1))  # whatever the file system's clock
    with pytest.raises(UserError, match=r"image\.png .*has changed"):
        cached.read(clips[2])
    write_image(clips[1].path / "3.png", 9)
    assert cached.fill(clips) == clips
    assert not np.array_equal(cached.read(clips[2]).crops, before)
    assert len(cached.read(clips[1]).crops) == 4


def test_other_settings_are_another_cache(clips, tmp_path):
    cache(tmp_path).fill(clips[:1])
    for other in (cache(tmp_path, frames=5), cache(tmp_path, size=24), cache(tmp_path, kind="centre")):
        with pytest.raises(UserError, match=r"video\.mp4 is not in the cache"):
            other.read(clips[0])
    large = cache(tmp_path, frames=5, size=24)
    large.fill(clips[:1])
    assert large.read(clips[0]).crops.shape == (5, 24, 24, 3)
    assert cache(tmp_path).read(clips[0]).crops.shape == (4, 16, 16, 3)


def test_bad_files_are_listed_when_all_others_are_cached(images, tmp_path, capsys):
    clips = images[:6]
    clips[1].path.write_bytes(b"no image")
    clips[4].path.unlink()
    good = [clip for clip in clips if clip not in (clips[1], clips[4])]
    with pytest.raises(UserError, match=r"2 bad files among 6 clips:\n(.|\n)*skip_bad_files") as error:
        cache(tmp_path).fill(clips)
    assert clips[1].path.name in str(error.value) and clips[4].path.name in str(error.value)
    before = shards(tmp_path)
    assert cache(tmp_path).fill(clips, skip_bad_files=True) == good
    assert shards(tmp_path) == before
    assert "left out: 2 bad files among 6 clips" in capsys.readouterr().out


def test_clips_without_a_face_are_counted(clips, tmp_path, capsys):
    cache(tmp_path).fill(clips)
    assert "no face" not in capsys.readouterr().out
    cached = cache(tmp_path, kind="centre")
    cached.fill(clips)
    assert "no face was found in 3 of 3 clips" in capsys.readouterr().out
    assert cached.read(clips[0]).coverage == 0 and not cached.read(clips[0]).found.any()
    cache(tmp_path, kind="centre").fill(clips[:2])
    assert "no face was found in 2 of 2 clips\n" in capsys.readouterr().out


def test_a_table_that_names_none_of_the_clips(clips, tmp_path, capsys):
    def filled(name):
        (tmp_path / "faces.csv").write_text(f"file,frame,left,top,right,bottom\n{name},0,1,2,20,20\n")
        table = make_face_detector("boxes", boxes=tmp_path / "faces.csv")
        ClipCache(tmp_path / "cache", table, frames=4, size=16).fill(clips)
        return capsys.readouterr().out

    assert "no face was found in 3 of 3 clips: the table of boxes has none for any" in filled("faces/image.png")
    assert "no face was found in 2 of 3 clips\n" in filled("image.png")


def test_new_clips_that_are_unusual_are_counted_by_kind(clips, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, share in (("a.mp4", 0.6), ("b.mp4", 0.8)):
        with av.open(str(tmp_path / name), "w", options={"movflags": "faststart"}) as file:  # its index comes first
            stream = file.add_stream("libx264", width=32, height=32, pix_fmt="yuv420p")
            for image in rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            file.mux(stream.encode())
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    broken = [Clip(tmp_path / name, True, "train") for name in ("a.mp4", "b.mp4")]
    cache(tmp_path, "centre").fill(clips[:1])
    assert capsys.readouterr().out == "no face was found in 1 of 1 clips\n"
    cached = cache(tmp_path, "centre")
    assert cached.fill([*clips, *broken]) == [*clips, *broken]
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert head == f"of 4 new clips (each is described in {cached.folder}):"
    assert rows == [
        f"  one frame only: 1, for instance {clips[2].path}",
        f"  the file breaks off: 2, for instance {broken[0].path}",
        f"  times counted at n frames/s: 1, for instance {clips[1].path}",
    ]
    cached.fill([*clips, *broken])
    assert capsys.readouterr().out == "no face was found in 5 of 5 clips\n"


def test_one_file_under_two_names_is_decoded_once(clips, tmp_path):
    (tmp_path / "link.png").symlink_to(clips[2].path)
    linked = [*clips, Clip(tmp_path / "link.png", True, "val")]
    cached = cache(tmp_path)
    assert cached.fill(linked) == linked
    assert cached.read(linked[3]).offset == cached.read(clips[2]).offset


def fill_at_once(barrier, clips, tmp_path):
    cached = cache(tmp_path)
    barrier.wait()
    assert cached.fill(clips) == clips


def test_two_processes_fill_one_cache(images, tmp_path):
    context = multiprocessing.get_context("fork")  # others would import torch anew
    barrier = context.Barrier(2)
    processes = [context.Process(target=fill_at_once, args=(barrier, images, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    entries = [e for path in cache(tmp_path).folder.glob("*.json") for e in json.loads(path.read_text())["clips"]]
    assert len(entries) == len({entry["key"] for entry in entries}) == len(images)
    cached = cache(tmp_path)
    for clip in images[::8]:
        faces = extract_faces(clip.path, make_face_detector("crops"), frames=4, size=16)
        assert np.array_equal(cached.read(clip).crops, faces.tracks[0].crops)


def test_a_folder_that_can_not_be_written(clips, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match="Choose another place for the cache"):
        cache(tmp_path).fill(clips)


def test_a_folder_that_can_not_be_listed(clips, tmp_path, monkeypatch):
    """Its clips would be decoded again. Permissions bind no administrator: the refusal is made up."""
    filled = cache(tmp_path)
    filled.fill(clips)

    def refuse(place="."):
        raise PermissionError(13, "Permission denied", str(place))

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(UserError, match=rf"{filled.folder.name} can't be read \(Permission denied\)"):
        cache(tmp_path)


def test_real_faces(shared_data, tmp_path):
    paths = sorted((shared_data / "faces").rglob("*.jpg"))[::100]
    clips = [Clip(path, "fake" in path.parts, "train") for path in paths]
    cached = cache(tmp_path, size=64)
    assert cached.fill(clips) == clips
    assert all(cached.read(clip).crops.shape == (1, 64, 64, 3) for clip in clips)
    assert np.std([cached.read(clip).crops for clip in clips]) > 20
