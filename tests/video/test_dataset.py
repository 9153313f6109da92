import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.data.dataset import make_loader
from common.data.sampling import EpochSampler
from common.data.transforms import reseed
from common.errors import UserError
from common.video.blending import self_blended
from common.video.cache import ClipCache
from common.video.clips import Clip, read_clip_folders
from common.video.dataset import ClipDataset, clip_augmentation, collate_clips
from common.video.faces import make_face_detector

SIZE = 32


def smooth(rng: np.random.Generator) -> np.ndarray:
    noise = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 20, 230, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """Folders of 3, 5, 1 and 4 different frames; the second and fourth are fake. The fifth is one frame six times."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    found = []
    for name, count in (("a", 3), ("b", 5), ("c", 1), ("d", 4), ("still", 6)):
        (folder / name).mkdir()
        frames = [smooth(rng)] * count if name == "still" else [smooth(rng) for _ in range(count)]
        for number, frame in enumerate(frames):
            cv2.imwrite(str(folder / name / f"{number}.png"), frame)
        found.append(Clip(folder / name, name in "bd", "train"))
    return found


@pytest.fixture(scope="module")
def cache(clips, tmp_path_factory) -> ClipCache:
    cache = ClipCache(tmp_path_factory.mktemp("cache"), make_face_detector("crops"), frames=8, size=SIZE)
    assert cache.fill(clips) == clips
    return cache


def test_item(clips, cache):
    dataset = ClipDataset(clips, cache)
    assert len(dataset) == 5
    for index, (clip, count) in enumerate(zip(clips, (3, 5, 1, 4, 6), strict=True)):
        item = dataset[index]
        assert item.keys() == {"frames", "label", "index"}
        assert item["frames"].shape == (count, 3, SIZE, SIZE) and item["frames"].dtype == torch.uint8
        frame = cv2.imread(str(clip.path / f"{count - 1}.png"))[..., ::-1].transpose(2, 0, 1)
        assert np.array_equal(item["frames"][-1], frame)
        assert item["label"].dtype == torch.int64 and item["label"].shape == () and item["label"] == int(clip.fake)
        assert item["index"] == index
        assert torch.equal(dataset[index, 3]["frames"], item["frames"])


def test_a_seed_decides_the_item(clips, cache):
    dataset = ClipDataset(clips, cache, clip_augmentation(SIZE))
    plain = ClipDataset(clips, cache)
    changed = set()
    for seed in range(20):
        item = dataset[1, seed]["frames"]
        assert item.shape == (5, 3, SIZE, SIZE) and item.dtype == torch.uint8
        dataset[0, seed + 1]
        assert torch.equal(dataset[1, seed]["frames"], item)
        changed.add(item.numpy().tobytes())
    assert len(changed) > 15
    assert torch.equal(dataset[1]["frames"], plain[1]["frames"])


def test_one_draw_serves_all_frames_of_a_clip(clips, cache):
    augmentation = clip_augmentation(SIZE)
    dataset, plain = ClipDataset(clips, cache, augmentation), ClipDataset(clips, cache)
    for seed in range(30):
        still = dataset[4, seed]["frames"]
        assert (still == still[:1]).all()
        frames = []
        for frame in plain[1]["frames"]:
            reseed(augmentation, seed)
            frames.append(augmentation(image=frame.permute(1, 2, 0).numpy())["image"])
        assert np.array_equal(dataset[1, seed]["frames"].permute(0, 2, 3, 1), np.stack(frames))


def test_the_fake_that_is_made_of_a_real_clip(clips, cache):
    """It differs with the seed, and without one it is the same each time."""
    real = clips[0]
    dataset = ClipDataset([real, replace(real, fake=True, self_blended=True)], cache)
    first, made = dataset[0]["frames"], dataset[1]["frames"]
    assert [int(dataset[index]["label"]) for index in (0, 1)] == [0, 1]
    np.testing.assert_array_equal(made.permute(0, 2, 3, 1), self_blended(first.permute(0, 2, 3, 1).numpy(), 1))
    assert torch.equal(dataset[1]["frames"], made) and torch.equal(dataset[0, 7]["frames"], first)
    drawn = {dataset[1, seed]["frames"].numpy().tobytes() for seed in range(5)}
    assert len(drawn) == 5


def test_fewer_frames_are_evenly_spaced(clips, cache):
    whole = ClipDataset(clips, cache)[1]["frames"]  # five frames
    for most, taken in ((1, [2]), (2, [1, 3]), (3, [0, 2, 4]), (5, range(5)), (9, range(5))):
        assert torch.equal(ClipDataset(clips, cache, most_frames=most)[1]["frames"], whole[list(taken)])


def test_augmentation_keeps_what_is_up(clips):
    """Bright above dark stays so; left and right are exchanged half the time."""
    rows = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    rows[:, : SIZE // 2] = 200
    columns = rows.transpose(0, 2, 1, 3).copy()
    augmentation, mirrored = clip_augmentation(SIZE), 0
    for seed in range(200):
        reseed(augmentation, seed)
        image = augmentation(images=rows)["images"][0].astype(int)
        assert image[: SIZE // 4].mean() > image[-SIZE // 4 :].mean() + 50
        reseed(augmentation, seed)
        image = augmentation(images=columns)["images"][0].astype(int)
        mirrored += image[:, : SIZE // 4].mean() < image[:, -SIZE // 4 :].mean()
    assert 70 < mirrored < 130


def test_cached_crops_are_not_changed(clips, cache):
    dataset = ClipDataset(clips, cache)
    dataset[0]["frames"].zero_()
    assert dataset[0]["frames"].float().mean() > 20


def test_clips_that_are_not_cached(clips, cache, tmp_path):
    with pytest.raises(UserError, match="is not in the cache"):
        ClipDataset(clips, ClipCache(tmp_path, cache.detector, frames=8, size=SIZE))


def test_batch_is_padded(clips, cache):
    dataset = ClipDataset(clips, cache)
    items = [dataset[index] for index in (2, 1, 0)]
    batch = collate_clips(items)
    assert batch.keys() == {"frames", "lengths", "label", "index"}
    assert batch["frames"].shape == (3, 5, 3, SIZE, SIZE) and batch["frames"].dtype == torch.uint8
    for row, (item, length) in enumerate(zip(items, (1, 5, 3), strict=True)):
        assert torch.equal(batch["frames"][row, :length], item["frames"])
        assert not batch["frames"][row, length:].any()
    assert all(batch[name].dtype == torch.int64 for name in ("lengths", "label", "index"))
    assert batch["lengths"].tolist() == [1, 5, 3]
    assert batch["label"].tolist() == [0, 1, 0] and batch["index"].tolist() == [2, 1, 0]


@pytest.mark.parametrize("workers", [2])
def test_batches_do_not_depend_on_the_workers(clips, cache, workers):
    dataset = ClipDataset(clips, cache, clip_augmentation(SIZE))

    def batches(n):
        return list(make_loader(dataset, 2, n, EpochSampler(5, seed=3), collate_clips))

    for batch, other in zip(batches(0), batches(workers), strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_workers_need_no_detector(clips, cache):
    """It need not be picklable, which processes that are spawned would ask for."""

    class Unpicklable:
        name = cache.detector.name

        def __reduce__(self):
            raise TypeError("can't be pickled")

    parent = cache.folder.parent
    dataset = ClipDataset(clips, ClipCache(parent, Unpicklable(), frames=8, size=SIZE), clip_augmentation(SIZE))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1, 5]["frames"], dataset[1, 5]["frames"])


def test_real_faces(shared_data: Path, tmp_path):
    clips = read_clip_folders(shared_data / "faces")[495:505]
    cache = ClipCache(tmp_path, make_face_detector("crops"), frames=4, size=64)
    dataset = ClipDataset(cache.fill(clips), cache, clip_augmentation(64))
    (batch,) = make_loader(dataset, 10, 0, EpochSampler(10, seed=0), collate_clips)
    assert batch["frames"].shape == (10, 1, 3, 64, 64) and batch["frames"].float().std() > 20
    assert sorted(batch["index"].tolist()) == list(range(10)) and batch["label"].sum() == 5
