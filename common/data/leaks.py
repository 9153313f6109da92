"""What tells the files of two classes apart whatever they show: for images format and JPEG tables, width and height.

A network sees how strongly a picture was compressed. Where one class was saved otherwise than the other, its scores of
whole images measure that: on CASIA v1 the JPEG tables alone have an AUC of 1.00 on sources that they were not counted
on.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LEAST = 20
"""Files of each class from which shares are counted."""
MOST = 3000
"""Files that are opened; of more, as many drawn at random, half of either class where there are enough."""
TELLING = 0.8
"""AUC on other sources from which a sign is named."""
_PARTS = 5

Header = Mapping[str, Hashable]
"""What a file's header says, by its name in words; nothing of a file that can't be read."""


def image_header(path: Path) -> Header:
    """The header of an image, as far as Pillow reads it."""
    try:
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None) or {}
            storage = image.format, image.mode, tuple(tuple(table) for table in tables.values())
            return {"file format and JPEG tables": storage, "width and height": image.size}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}


def leak_note(
    paths: Sequence[Path],
    positive: Sequence[bool],
    groups: Sequence[Hashable],
    classes: tuple[str, str],
    read: Callable[[Path], Header] = image_header,
) -> str | None:
    """A sentence on what tells two classes of files apart by their headers alone; None where nothing does.

    Args:
        paths: The files.
        positive: Which are of the second class.
        groups: Source of each file.
        classes: Names of both classes, as "and" joins them.
        read: Reads a header.
    """
    told = telling_signs(paths, positive, groups, read)
    if not told:
        return None
    signs = " and ".join(f"{sign} (AUC {auc:.2f} on other sources)" for sign, auc in told.items())
    return (
        f"{classes[0]} and {classes[1]} are told apart by how their files are stored: {signs}. A network sees that in "
        "the pixels too, and its scores of whole images may be no more. Give both classes one history: the same sizes, "
        "and the same compression in the same order"
    )


def telling_signs(
    paths: Sequence[Path],
    positive: Sequence[bool],
    groups: Sequence[Hashable],
    read: Callable[[Path], Header] = image_header,
) -> dict[str, float]:
    """What of the headers tells two classes apart, and its AUC on sources that it was not counted on.

    The score of a file is the share of the second class among files of other sources whose header says the same.

    Args:
        paths: The files.
        positive: Which are of the second class.
        groups: Source of each file.
        read: Reads a header.

    Returns:
        AUC by name, of those from `TELLING` on, in [0, 1]; none where a class has fewer files than `LEAST`.
    """
    labels, sources = np.asarray(positive, bool), np.asarray(groups)
    # Of both classes alike as far as there are, so that a rare one is not lost.
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in (False, True)]
    fewer = min(map(len, drawn))
    most = max(MOST // 2, MOST - fewer)
    chosen = np.sort(np.concatenate([places[:most] for places in drawn]))
    labels, sources = labels[chosen], sources[chosen]
    if fewer < LEAST or len(set(sources.tolist())) < _PARTS:
        return {}
    # Imported here: it takes a second.
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    headers = [read(paths[place]) for place in chosen]
    parts = list(GroupKFold(_PARTS).split(labels, labels, sources))
    found = {}
    for sign in sorted({name for header in headers for name in header}):
        _, codes = np.unique([str(header.get(sign)) for header in headers], return_inverse=True)
        scores = np.empty(len(labels))
        for counted, scored in parts:
            prior, size = labels[counted].mean(), codes.max() + 1
            of_class = np.bincount(codes[counted], labels[counted], size) + prior
            scores[scored] = (of_class / (np.bincount(codes[counted], minlength=size) + 1))[codes[scored]]
        found[sign] = float(roc_auc_score(labels, scores))
    return {sign: auc for sign, auc in found.items() if auc >= TELLING}
