import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.submission.config import SubmissionConfig, exit_status, summary
from common.submission.inputs import find_parts, open_parts


@pytest.fixture
def config(tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.mp4"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    (tmp_path / "models").mkdir()
    return SubmissionConfig(
        input=tmp_path / "images", models_dir=tmp_path / "models", output=tmp_path / "out" / "s.csv", part_size=2
    )


def ids(config):
    return [[case_id for case_id, _ in part.files()] for part in find_parts(config)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_shards": 2}, "--num-shards and --shard-index go together"),
        ({"shard_index": 0}, "--num-shards and --shard-index go together"),
        ({"num_shards": 2, "shard_index": 2}, "--shard-index is 2; of 2 shards it must be 0 to 1"),
        ({"num_shards": 2, "shard_index": -1}, "--shard-index is -1"),
        ({"num_shards": 0, "shard_index": 0}, "--num-shards is 0; it must be 1 or more"),
        ({"part_size": 0}, "--part-size is 0"),
        ({"output": Path(__file__).parent}, "--output .*: .* is a folder. Name another file"),
        ({"output": Path()}, r"--output \.: \. is a folder. Name another file"),
        ({"output": Path("/")}, "--output /: / is a folder. Name another file"),
        ({"maps_as": "png"}, "--maps-as png says how --maps are written, and there are none. Add --maps DIR"),
        ({"output": Path("out/scores.csv")}, "--output out/scores.csv is the name of the table of scores"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        SubmissionConfig(input=Path("images"), **flags)


def test_images_in_parts_and_videos_after_them(config):
    assert ids(config) == [["a", "b"], ["c"], ["d.mp4"]]
    assert ids(replace(config, videos=False)) == [["a", "b"], ["c"]]


def test_a_sample_gives_the_order(config):
    (config.input / "sample_submission.csv").write_text("case_id,annotation\nc,authentic\n404,authentic\na,authentic\n")
    parts = find_parts(config)
    assert ids(config) == [["c", "404"], ["a"], ["d.mp4"]]
    assert parts[0].files() == [("c", str(config.input / "c.png")), ("404", "")]


def test_where_the_sample_names_no_image(config, tmp_path):
    sample, videos = tmp_path / "sample_submission.csv", tmp_path / "videos"
    sample.write_text("case_id,annotation\na,authentic\n")
    videos.mkdir()
    (config.input / "d.mp4").rename(videos / "d.mp4")
    sample.rename(videos / sample.name)
    config = replace(config, input=videos)
    assert ids(config) == [["d.mp4"]]
    with pytest.raises(UserError, match=r"none of the 1 case ids in .* is an image"):
        find_parts(replace(config, sample_submission=videos / sample.name))


def test_an_input_without_images_is_named(config, tmp_path):
    (tmp_path / "m.csv").write_text("file\n")
    for source in (config.models_dir, tmp_path / "m.csv"):
        with pytest.raises(UserError, match="holds no images"):
            find_parts(replace(config, input=source))


def test_an_input_without_images_says_why(config, tmp_path):
    (tmp_path / "m.csv").write_text("file\n")
    with pytest.raises(UserError, match=r"m\.csv holds no images .*: no row of it names one"):
        find_parts(replace(config, input=tmp_path / "m.csv"))
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(Path(__file__), "notes.txt")
    shard = replace(config, input=tmp_path / "s.tar")
    with pytest.raises(UserError, match=r"s\.tar holds no images .*: none of its tars has a member"):
        find_parts(shard)
    shard.input.write_bytes(shard.input.read_bytes()[:700])
    with pytest.raises(UserError, match=r"s\.tar is truncated or broken after notes\.txt"):
        find_parts(shard)


def test_a_table_that_cannot_be_written_is_named_at_the_start(config, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/x\.csv can't be written"):
        open_parts(replace(config, output=tmp_path / "file" / "x.csv"))


def test_shards_have_their_own_order_and_stand_alone(config, tmp_path):
    with tarfile.open(tmp_path / "images" / "s.tar", "w") as tar:
        tar.add(config.input / "a.png", "a.png")
    with pytest.raises(UserError, match=r"both files and \.tar shards"):
        find_parts(config)
    shard = replace(config, input=config.input / "s.tar")
    assert [part.kind for part in find_parts(shard)] == ["shard"]
    with pytest.raises(UserError, match="can't order shards"):
        find_parts(replace(shard, sample_submission=tmp_path / "s.csv"))


def test_what_decides_makes_another_run(config):
    plain = open_parts(config).run
    free = {"batch_size": 3, "workers": 2, "output": Path("x.csv"), "part_size": 7, "num_shards": 2, "shard_index": 1}
    assert open_parts(replace(config, **free)).run == plain
    decides = {"mode": "balanced", "tta": "d4", "min_area_share": 0.1, "instances": "merge", "copy_move": False}
    decides |= {"maps": Path("maps"), "backend": "torch", "generated": False, "target_fpr": 0.1}
    runs = [open_parts(replace(config, **{name: value})).run for name, value in decides.items()]
    for name in ("highres_no_ela_best.pth", "spai_best.pth", "deepfake_video_best.pth", "ensemble.json"):
        for content in (b"a checkpoint", b"another"):
            (config.models_dir / name).write_bytes(content)
            runs.append(open_parts(config).run)
    faces = replace(config, face_model=config.models_dir / "yunet.onnx")
    for content in (b"a model", b"another"):
        faces.face_model.write_bytes(content)
        runs.append(open_parts(faces).run)
    assert len({plain, *runs}) == 1 + len(decides) + 10


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({}, 0),
        ({"authentic": 5, "unreadable": 2, "failed": 0}, 0),
        ({"failed": 1}, 1),
        ({"forged": 9, "failed": 300}, 1),
    ],
)
def test_the_exit_status_says_whether_any_image_failed(counts, status):
    counts = Counter(counts)
    assert exit_status(counts) == status and type(exit_status(counts)) is int


def test_the_summary_counts_what_there_is(config):
    counts = Counter({"forged": 2, "authentic": 3, "unreadable": 1, "video fake": 1, "video not scored": 2})
    tables = f" → {config.output}, {config.scores_path}"
    assert (
        summary(config, counts)
        == "6 images: 2 forged, 3 authentic, 1 unreadable; 3 videos: 1 fake, 2 not scored" + tables
    )
    assert summary(config, Counter({"authentic": 1, "shard broken": 1})) == (
        "1 images: 1 authentic; 1 shards are truncated: see their rows in the scores" + tables
    )
    notes = summary(config, Counter({"forged": 2, "pages left out": 7, "turned": 1})).splitlines()
    assert notes[1].startswith("note: 7 pages were left out") and notes[2].startswith("note: 1 images have an EXIF")
