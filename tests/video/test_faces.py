import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from common.errors import UserError
from common.video.faces import FACE_MARGIN, crop_area, face_area, make_face_detector
from common.video.files import open_video, read_frames

CLIP = Path("clip.mp4")
BLACK = np.zeros((240, 960, 3), np.uint8)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A photograph of one face (NASA, public domain), 512×512; its centre lies at about x = 222, y = 118."""
    return data.astronaut()


@pytest.fixture(scope="module")
def mtcnn():
    pytest.importorskip("facenet_pytorch")
    return make_face_detector("mtcnn")


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def crop_face(image, box, size, margin=FACE_MARGIN) -> np.ndarray:
    return crop_area(image, face_area(box, margin), size)


def test_crop_is_the_square_about_the_box(noise):
    np.testing.assert_array_equal(crop_face(noise, [30, 20, 50, 40], 20, margin=1), noise[20:40, 30:50])
    np.testing.assert_array_equal(crop_face(noise, [30, 20, 50, 40], 26), noise[17:43, 27:53])
    np.testing.assert_array_equal(crop_face(noise, [36, 20, 44, 40], 20, margin=1), noise[20:40, 30:50])
    np.testing.assert_array_equal(crop_face(noise, [30, 28, 50, 30], 20, margin=1), noise[19:39, 30:50])


def test_crop_is_mirrored_over_the_edges(noise):
    mirrored = np.pad(noise, ((50, 50), (50, 50), (0, 0)), mode="reflect")
    for left, top in ((-6, 5), (55, 30), (-12, -14), (64, 44)):
        crop = crop_face(noise, [left, top, left + 30, top + 30], 30, margin=1)
        np.testing.assert_array_equal(crop, mirrored[top + 50 : top + 80, left + 50 : left + 80])


def test_crop_larger_than_the_image(noise):
    crop = crop_face(noise, [0, 0, 80, 60], 104)
    np.testing.assert_array_equal(crop[22:82, 12:92], noise)


def test_crop_averages_where_it_shrinks_and_is_smooth_where_it_grows():
    board = np.indices((64, 64)).sum(0) % 2 * 200
    shrunk = crop_face(np.dstack([board] * 3).astype(np.uint8), [0, 0, 64, 64], 16, margin=1)
    assert shrunk.shape == (16, 16, 3)
    assert (shrunk == 100).all()
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    assert np.abs(np.diff(crop_face(ramp, [0, 0, 16, 16], 64, margin=1)[..., 0].astype(int), axis=1)).max() <= 3


def test_a_box_outside_the_image_is_no_crop(noise):
    for box in ([-60, 0, -40, 20], [0, 100, 20, 120]):
        with pytest.raises(ValueError, match="outside the image of 80×60"):
            crop_face(noise, box, 16)


def test_mtcnn_finds_a_face_where_it_is(mtcnn, portrait):
    ((left, top, right, bottom, confidence),) = mtcnn.find(portrait, CLIP, 0)
    assert confidence > 0.99
    assert (left + right) / 2 == pytest.approx(222, abs=12)
    assert (top + bottom) / 2 == pytest.approx(118, abs=20)
    assert 60 < right - left < 120
    assert 80 < bottom - top < 150


def test_mtcnn_boxes_are_in_pixels_of_the_frame(mtcnn, portrait):
    """Beside the same face at half the size in a frame that is searched at its own size."""
    half = np.zeros((256, 480, 3), np.uint8)
    half[:, 100:356] = portrait.reshape(256, 2, 256, 2, 3).mean((1, 3))
    wide = np.kron(half, np.ones((4, 4, 1), np.uint8))
    small, large = mtcnn.find(half, CLIP, 0), mtcnn.find(wide, CLIP, 0)
    assert len(small) == 1
    np.testing.assert_allclose(large[:, :4], 4 * small[:, :4], atol=0.5)


def test_mtcnn_finds_nothing_where_no_face_is(mtcnn, noise):
    for image in (BLACK, noise, noise[:8], noise[:1, :1], np.repeat(noise[:2], 10, axis=1)):
        assert mtcnn.find(image, CLIP, 0).shape == (0, 5)


def test_auto_takes_mtcnn_if_it_is_installed(mtcnn, capsys):
    assert make_face_detector().name == mtcnn.name
    assert not capsys.readouterr().out


def test_without_mtcnn(monkeypatch, capsys, portrait):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(UserError, match="pip install --no-deps facenet-pytorch"):
        make_face_detector("mtcnn")
    detector = make_face_detector("auto")
    assert detector.name == "centre"
    assert detector.find(portrait, CLIP, 0).shape == (0, 5)
    out = capsys.readouterr().out
    assert out.startswith("note: ")
    assert "pip install --no-deps facenet-pytorch" in out


def test_crops_are_faces_as_a_whole():
    assert make_face_detector("crops").find(BLACK, CLIP, 3).tolist() == [[0, 0, 960, 240, 1]]


def test_files_are_asked_for_and_not_ignored(tmp_path):
    with pytest.raises(UserError, match="'yunet' needs a model"):
        make_face_detector("yunet")
    with pytest.raises(UserError, match="'boxes' needs a table"):
        make_face_detector("boxes")
    with pytest.raises(UserError, match=r"faces\.csv is a table .* but 'mtcnn' is chosen"):
        make_face_detector("mtcnn", boxes=tmp_path / "faces.csv")
    with pytest.raises(UserError, match=r"faces\.onnx is a model .* but 'auto' is chosen"):
        make_face_detector("auto", model=tmp_path / "faces.onnx")


@pytest.fixture
def boxes(tmp_path):
    """Writes a table of boxes and makes its detector."""

    def write(*rows: str, head: str = "file,frame,left,top,right,bottom"):
        (tmp_path / "faces.csv").write_text("\n".join([head, *rows]) + "\n")
        return make_face_detector("boxes", boxes=tmp_path / "faces.csv")

    return write


def test_boxes_of_a_table(boxes, tmp_path):
    table = boxes("real/a.mp4,0,10,20,30,45.5", "b.mp4,7,1,2,3,4", "b.mp4,7,5,6,7,8", "real/a.mp4,2,-5,200,30,250")
    clip, named = tmp_path / "real" / "a.mp4", tmp_path / "elsewhere" / "b.mp4"
    assert table.find(BLACK, clip, 0).tolist() == [[10, 20, 30, 45.5, 1]]
    assert table.find(BLACK, tmp_path / "real" / ".." / "real" / "a.mp4", 0).tolist() == [[10, 20, 30, 45.5, 1]]
    assert table.find(BLACK, clip, 2).tolist() == [[0, 200, 30, 240, 1]]  # cut at the frame's edges
    assert table.find(BLACK, named, 7).tolist() == [[1, 2, 3, 4, 1], [5, 6, 7, 8, 1]]
    for path, index in ((clip, 1), (named, 0), (tmp_path / "a.mp4", 0), (tmp_path / "fake" / "a.mp4", 0)):
        assert table.find(BLACK, path, index).shape == (0, 5)


def test_a_path_in_a_table_rules_over_a_name(boxes, tmp_path):
    (tmp_path / "a.mp4").touch()
    table = boxes("a.mp4,0,1,2,3,4")
    assert len(table.find(BLACK, tmp_path / "a.mp4", 0)) == 1
    assert len(table.find(BLACK, tmp_path / "fake" / "a.mp4", 0)) == 0


def test_a_name_that_two_clips_have_is_no_name(boxes, tmp_path):
    table = boxes("a.mp4,0,1,2,3,4")
    assert len(table.find(BLACK, tmp_path / "real" / "a.mp4", 0)) == 1
    assert len(table.find(BLACK, tmp_path / "real" / "a.mp4", 0)) == 1
    with pytest.raises(UserError, match=r"faces\.csv has boxes for a\.mp4, but there are two"):
        table.find(BLACK, tmp_path / "fake" / "a.mp4", 0)


def test_other_boxes_are_another_detector(boxes):
    one, other = boxes("a.mp4,0,1,2,3,4").name, boxes("a.mp4,0,1,2,3,5").name
    assert one != other
    assert boxes("a.mp4,0,1,2,3,4").name == one


def test_the_same_table_elsewhere_names_other_clips(tmp_path, monkeypatch):
    names = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "faces.csv").write_text("file,frame,left,top,right,bottom\nreal/a.mp4,0,1,2,3,4\n")
        table = make_face_detector("boxes", boxes=tmp_path / place / "faces.csv")
        assert len(table.find(BLACK, tmp_path / "here" / "real" / "a.mp4", 0)) == (place == "here")
        names.append(table.name)
    assert names[0] != names[1]
    monkeypatch.chdir(tmp_path / "here")
    assert make_face_detector("boxes", boxes=Path("faces.csv")).name == names[0]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["lists no boxes"]),
        (["a.mp4,0,1,2,3,4", "a.mp4,x,1,2,3,4", "a.mp4,1,1,2,,4"], ["2 wrong rows", "row 3", "'x'", "row 4"]),
        (["a.mp4,0,30,2,3,4"], ["row 2", "left < right"]),
        (["a.mp4,-1,1,2,3,4"], ["row 2", "frame -1"]),
        (["a.mp4,0,1,2,3,nan"], ["row 2"]),
        (["a.mp4,0,1,2,3,inf"], ["row 2"]),
        ([f"a.mp4,{number},3,3,3,3" for number in range(30)], ["30 wrong rows", "row 11", "and 20 more"]),
    ],
)
def test_faults_of_a_table(boxes, rows, parts):
    with pytest.raises(UserError) as error:
        boxes(*rows)
    for part in ("faces.csv", *parts):
        assert part in str(error.value)


def test_a_table_needs_its_columns_and_boxes_inside_the_frame(boxes):
    with pytest.raises(UserError, match=r"faces\.csv needs the columns file, frame"):
        boxes("a.mp4,0", head="file,frame")
    with pytest.raises(UserError, match=r"a box outside frame 4 of .*clip\.mp4, which is 960×240"):
        boxes("clip.mp4,4,1000,20,1100,120").find(BLACK, CLIP, 4)


def tagged(*fields) -> bytes:
    """A protocol buffer of numbered fields: whole numbers, texts, bytes; lists are repeated fields."""
    out = b""
    for number, value in fields:
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, int):
                out += varint(number << 3) + varint(entry)
            else:
                content = entry.encode() if isinstance(entry, str) else entry
                out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def tensor(name: str, values: np.ndarray) -> bytes:
    return tagged((1, list(values.shape)), (2, 1), (8, name), (9, values.astype("<f4").tobytes()))


def node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    entries = [tagged((1, name), (8, values), (20, 7)) for name, values in attributes.items()]
    return tagged((1, inputs), (2, output), (3, output), (4, kind), (5, entries))


def value(name: str, shape: list[int | str]) -> bytes:
    dims = [tagged((2 if isinstance(side, str) else 1, side)) for side in shape]
    return tagged((1, name), (2, tagged((1, tagged((1, 1), (2, tagged((1, dims))))))))


@pytest.fixture
def red_finder(tmp_path) -> Path:
    """An ONNX file with the outputs of YuNet that finds red: every red cell of 8×8 px is the centre of a face of 32 px.

    Its numbers follow from what OpenCV makes of the outputs: per cell of 8, 16 and 32 px a score (cls × obj), the
    box's centre relative to the cell's corner and its size's logarithm, both in cells, and five key points.
    """
    nodes, weights, outputs = [], [], []
    # Reads B, G, R: pure red is 1, any other pure colour or white at most 0.
    redness = np.array([-1, -1, 1]).reshape(1, 3, 1, 1) / 255
    heads = {"cls": (redness, [0.0]), "obj": (redness, [0.0])}
    heads |= {"bbox": (np.zeros((4, 3, 1, 1)), [0.5, 0.5, np.log(4), np.log(4)])}
    heads |= {"kps": (np.zeros((10, 3, 1, 1)), [0.5] * 10)}
    for cell in (8, 16, 32):
        nodes.append(node("AveragePool", ["input"], f"pool_{cell}", kernel_shape=[cell] * 2, strides=[cell] * 2))
        for head, (weight, bias) in heads.items():
            name = f"{head}_{cell}"
            if cell > 8 and head == "cls":
                weight = np.zeros_like(weight)
            weights += [tensor(f"{name}_w", weight), tensor(f"{name}_b", np.array(bias))]
            nodes.append(node("Conv", [f"pool_{cell}", f"{name}_w", f"{name}_b"], f"{name}_map", kernel_shape=[1, 1]))
            nodes.append(node("Transpose", [f"{name}_map"], name, perm=[0, 2, 3, 1]))
            outputs.append(value(name, [1, "rows", "columns", len(bias)]))
    inputs = value("input", [1, 3, "height", "width"])
    graph = tagged((1, nodes), (2, "red"), (5, weights), (11, inputs), (12, outputs))
    (tmp_path / "red.onnx").write_bytes(tagged((1, 8), (7, graph), (8, tagged((1, ""), (2, 13)))))
    return tmp_path / "red.onnx"


def test_yunet_boxes_are_in_pixels_of_the_frame(red_finder):
    detector = make_face_detector("yunet", model=red_finder)
    image = BLACK.copy()
    image[96:112, 160:176] = 255, 0, 0  # a cell of 8 px once 960 px are shrunk to 480
    image[96:112, 480:496] = 0, 0, 255
    image[96:112, 640:656] = 200, 0, 0  # not sure enough
    ((*box, confidence),) = detector.find(image, CLIP, 0)
    np.testing.assert_allclose(box, [136, 72, 200, 136], atol=0.01)
    assert confidence == pytest.approx(1, abs=0.01)
    ((*box, _),) = detector.find(image[90:, 100:250], CLIP, 1)[:1]  # searched as it is, in another size
    np.testing.assert_allclose([box[2] - box[0], box[3] - box[1]], 32, atol=0.01)
    assert detector.find(BLACK, CLIP, 2).shape == (0, 5)


def test_yunet_needs_its_own_model(tmp_path):
    with pytest.raises(UserError, match=r"missing\.onnx: no such file"):
        make_face_detector("yunet", model=tmp_path / "missing.onnx")
    for content in (b"", b"no network", tagged((1, 8))):
        (tmp_path / "broken.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.onnx can't be read as a YuNet"):
            make_face_detector("yunet", model=tmp_path / "broken.onnx")


def test_mtcnn_drops_what_it_is_not_sure_of(mtcnn, shared_data):
    """Beside the face, the network gives 0.81 to something behind it."""
    path = shared_data / "clips" / "real" / "ffpp_c23_004.mp4"
    (frame,) = read_frames(open_video(path), [254])
    assert len(mtcnn.find(frame.image, path, 254)) == 1
