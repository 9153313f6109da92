"""Face detection in single frames, by one of several detectors, and cropping of faces."""

import hashlib
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from common.data.transforms import resize_image
from common.errors import UserError, listing
from common.tables import read_table
from common.video.config import FaceKind

SEARCH_WIDTH = 480
"""Largest width in px of a searched frame: faster than at full size, and faces large enough to judge are found."""
MTCNN_CONFIDENCE = 0.95
"""Least confidence of MTCNN's detections. In four real clips faces had 0.998 or more, false detections 0.91 or less."""
YUNET_CONFIDENCE = 0.9
"""Least confidence of YuNet's detections: OpenCV's default."""
MTCNN_SMALLEST = 20
"""Side in px, in the searched frame, of the smallest face that MTCNN detects."""
FACE_MARGIN = 1.3
"""Side of a crop in longer sides of the box: a swapped face is blended in at chin, brow and cheeks."""
_INSTALL = "pip install requests; pip install --no-deps facenet-pytorch==2.6.0"
_COLUMNS = ("file", "frame", "left", "top", "right", "bottom")


class FaceDetector(Protocol):
    """Detects the faces of a frame."""

    name: str
    """The detector with its settings and data; detectors of one name find the same faces."""

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """Detect all faces.

        Args:
            image: RGB, uint8 (H, W, 3).
            path: Clip of the frame.
            index: Number of the frame in the clip, from 0.

        Returns:
            float64 (n, 5): left, top, right, bottom in px of `image`, and confidence in [0, 1].
        """
        ...


def make_face_detector(
    kind: FaceKind = "auto", *, model: Path | None = None, boxes: Path | None = None
) -> FaceDetector:
    """Make a face detector.

    Args:
        kind: `mtcnn` is facenet-pytorch's, an optional package with its weights. `yunet` is OpenCV's, which needs
            `model`. `boxes` are those of a table, which needs `boxes`. `crops` takes each frame as a face. `centre`
            never finds one. `auto` is `mtcnn` if it is installed, else `centre`, with a printed note.
        model: YuNet's ONNX file (`face_detection_yunet_*.onnx` of the OpenCV model zoo).
        boxes: A table, see `BoxTable`.

    Raises:
        UserError: The kind needs a file that isn't given or is broken, or a package that isn't installed; or a file is
            given that the kind doesn't use.
    """
    for given, user, noun in ((model, "yunet", "model"), (boxes, "boxes", "table of boxes")):
        if given is None and kind == user:
            raise UserError(f"the face detector {kind!r} needs a {noun}. Name its file, or choose another detector.")
        if given is not None and kind != user:
            raise UserError(f"{given} is a {noun} for the face detector {user!r}, but {kind!r} is chosen.")
    if model is not None:
        return YuNet(model)
    if boxes is not None:
        return BoxTable(boxes)
    if kind == "auto":
        kind = "mtcnn" if find_spec("facenet_pytorch") else "centre"
        if kind == "centre":
            print(f"note: no face detector is installed: the centre of each frame is used. To find faces: {_INSTALL}")
    return Mtcnn() if kind == "mtcnn" else WholeFrame() if kind == "crops" else NoFace()


class Mtcnn:
    """MTCNN, a cascade of three small networks (Zhang et al. 2016), of facenet-pytorch, on the CPU."""

    def __init__(self) -> None:
        """Load its weights.

        Raises:
            UserError: facenet-pytorch isn't installed.
        """
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise UserError(
                f"the face detector 'mtcnn' needs facenet-pytorch ({error}). Install it: {_INSTALL}"
            ) from error
        self.name = f"mtcnn {SEARCH_WIDTH} {MTCNN_SMALLEST} {MTCNN_CONFIDENCE}"
        self._network = MTCNN(keep_all=True, min_face_size=MTCNN_SMALLEST)

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """As `FaceDetector.find`; boxes may reach over the frame's edges."""
        small, scale = _shrunk(image)
        if min(small.shape[:2]) < MTCNN_SMALLEST:  # it would raise
            return np.zeros((0, 5))
        boxes, confidence, *_ = self._network.detect(small)
        if boxes is None:
            return np.zeros((0, 5))
        faces = np.column_stack([np.asarray(boxes, np.float64) * scale, np.asarray(confidence, np.float64)])
        return faces[faces[:, 4] >= MTCNN_CONFIDENCE]


class YuNet:
    """YuNet (Wu et al. 2023) in OpenCV."""

    def __init__(self, model: Path) -> None:
        """Load an ONNX file.

        Raises:
            UserError: There is no such file, or it isn't YuNet's.
        """
        if not model.is_file():
            raise UserError(
                f"{model}: no such file. Download face_detection_yunet from the OpenCV model zoo on GitHub."
            )
        self.name = f"yunet {_digest(model)} {SEARCH_WIDTH} {YUNET_CONFIDENCE}"
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (64, 64), YUNET_CONFIDENCE)
            self._network.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise UserError(f"{model} can't be read as a YuNet face detector ({error.err or error}).") from error

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """As `FaceDetector.find`; boxes may reach over the frame's edges."""
        small, scale = _shrunk(image)
        self._network.setInputSize(small.shape[1::-1])
        _, faces = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if faces is None:
            return np.zeros((0, 5))
        boxes = np.column_stack([faces[:, :2], faces[:, :2] + faces[:, 2:4]]).astype(np.float64)
        return np.column_stack([boxes * scale, faces[:, -1].clip(0, 1)])


class BoxTable:
    """Boxes of a table: CSV with the columns file, frame, left, top, right, bottom.

    `file` is a clip's path relative to the table's folder, or its name alone, wherever the clip is; `frame` is a number
    from 0, in the order of display. Several rows of one frame are several faces. A frame without a row has none.
    """

    def __init__(self, table: Path) -> None:
        """Read the table.

        Raises:
            UserError: It can't be read, lacks a column, has no rows, or has wrong numbers.
        """
        rows = read_table(table, _COLUMNS)
        if not len(rows):
            raise UserError(f"{table} lists no boxes. Give each a row: {','.join(_COLUMNS)}.")
        self.name = f"boxes {_digest(table)} {table.parent.resolve()}"  # paths in the table are relative to its folder
        self._table = table
        self._boxes: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
        self._named: dict[str, Path] = {}
        faults = []
        for number, row in enumerate(rows.to_dict("records"), 2):
            try:
                frame, box = int(row["frame"]), [float(row[side]) for side in _COLUMNS[2:]]
            except ValueError as error:
                faults.append(f"row {number}: {error}")
                continue
            if frame < 0 or not (box[0] < box[2] and box[1] < box[3] and np.isfinite(box).all()):
                faults.append(f"row {number}: frame {frame}, box {box}; a box needs left < right and top < bottom")
            self._boxes[self._key(row["file"]), frame].append([*box, 1.0])
        if faults:
            raise UserError(listing(f"{table} has {len(faults)} wrong rows:", faults))
        self._names = {key for key, _ in self._boxes if not Path(key).is_absolute()}

    def _key(self, file: str) -> str:
        """The clip's absolute path if the table gives a path, else its name."""
        path = self._table.parent / file
        return file if Path(file).name == file and not path.exists() else str(path.resolve())

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """As `FaceDetector.find`, with confidence 1; boxes are clipped to the frame.

        Raises:
            UserError: A box lies outside the frame, or two clips have a name that the table gives without a path.
        """
        boxes = self._boxes.get((str(path.resolve()), index)) or self._boxes.get((self._name(path), index))
        if boxes is None:
            return np.zeros((0, 5))
        height, width = image.shape[:2]
        faces = np.array(boxes)
        faces[:, :4] = faces[:, :4].clip(0, (width, height, width, height))
        if (faces[:, :2] >= faces[:, 2:4]).any():
            raise UserError(
                f"{self._table} has a box outside frame {index} of {path}, which is {width}×{height}. Boxes are in px "
                "of the frame as it is shown, from its upper left corner."
            )
        return faces

    def _name(self, path: Path) -> str:
        """A clip's name, after a check that no other clip of that name was searched."""
        first = self._named.setdefault(path.name, path.resolve()) if path.name in self._names else path.resolve()
        if first != path.resolve():
            raise UserError(
                f"{self._table} has boxes for {path.name}, but there are two clips of that name: {first} and {path}. "
                "Give their paths in the table, relative to its folder."
            )
        return path.name


class WholeFrame:
    """Takes each frame as one face, for clips that show nothing else."""

    name = "crops"

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """The whole frame, with confidence 1."""
        return np.array([[0.0, 0.0, image.shape[1], image.shape[0], 1.0]])


class NoFace:
    """Never finds a face, so that the centre of each frame is used."""

    name = "centre"

    def find(self, image: np.ndarray, path: Path, index: int) -> np.ndarray:
        """Nothing."""
        return np.zeros((0, 5))


def face_area(box: np.ndarray, margin: float = FACE_MARGIN) -> np.ndarray:
    """The square around a face, in whole pixels; it may reach beyond the image.

    Args:
        box: Left, top, right, bottom in px.
        margin: Side of the square in longer sides of the box.

    Returns:
        Left, top, right, bottom, int64 (4,).
    """
    left, top, right, bottom = (float(side) for side in box)
    side = max(1, round(margin * max(right - left, bottom - top)))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    return np.array([x, y, x + side, y + side])


def crop_area(image: np.ndarray, area: np.ndarray, size: int) -> np.ndarray:
    """Crop an area of an image and resize it, by averaging if it shrinks.

    Args:
        image: RGB, uint8 (H, W, 3).
        area: Left, top, right, bottom in whole pixels. Parts outside the image are filled by mirroring.
        size: Side of the crop in px.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ValueError: No part of the area lies in the image.
    """
    left, top, right, bottom = (int(side) for side in area)
    height, width = image.shape[:2]
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:
        raise ValueError(f"the area {area} lies outside the image of {width}×{height}")
    outside = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if any(outside):
        part = cv2.copyMakeBorder(part, *outside, cv2.BORDER_REFLECT_101)
    return resize_image(part, size)


def _shrunk(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frame at the size at which it is searched, and the factors (4,) from its boxes to those of the frame."""
    height, width = image.shape[:2]
    if width <= SEARCH_WIDTH:
        return image, np.ones(4)
    size = (SEARCH_WIDTH, max(1, round(height * SEARCH_WIDTH / width)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.tile([width / small.shape[1], height / small.shape[0]], 2)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
