"""Clips labelled as a whole, real or deepfake: from folders or a table to training, validation and test.

Clips of one person, or made from them, share their identity and stay in one split: a network that trained on one would
know the other by the face.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from common import tables
from common.components import connected
from common.data.splits import SPLITS, draw_splits
from common.errors import UserError, listing
from common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from common.video.files import frame_files

CLIP_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
SHARES = (0.7, 0.15, 0.15)
CLASSES = {"real": False, "fake": True}
"""Folder of a class, or its label in a table → whether it is fake."""


@dataclass(frozen=True)
class Clip:
    """One clip of which it is known whether it is a deepfake."""

    path: Path
    """A video, an image (a clip of one frame) or a folder of frames."""
    fake: bool
    split: str
    """`train`, `val` or `test`."""
    identities: tuple[str, ...] = ()
    """Who is seen in it or gave their face for it, as far as it is known."""


def find_clips(folder: Path) -> list[Path]:
    """All clips below a folder, sorted.

    A file with the suffix of a video or an image is a clip. A subfolder that holds images, but neither videos nor
    folders, is a folder of frames: one clip. Other subfolders are searched likewise. Hidden files, and what is neither
    video nor image, are passed over. What several links lead to is one clip.

    Raises:
        UserError: The folder does not exist, or one below can't be read.
    """
    if not _is_folder(folder):
        raise UserError(f"{folder} is not a folder. Name the folder that holds the clips.")
    return sorted(_clips_below(folder))


def _clips_below(top: Path) -> Iterator[Path]:
    seen = {os.path.realpath(top)}

    def is_new(path: Path) -> bool:
        real = os.path.realpath(path)
        return not (real in seen or seen.add(real))

    for place, folders, files in os.walk(top, onerror=_refuse, followlinks=True):
        folder = Path(place)
        folders[:] = [path.name for path in _named_first(folder, folders) if is_new(path)]
        clips = [path for path in _named_first(folder, files) if path.suffix.lower() in CLIP_SUFFIXES]
        if folder != top and clips and not folders and all(path.suffix.lower() in IMAGE_SUFFIXES for path in clips):
            yield folder
        else:
            yield from filter(is_new, clips)


def _named_first(folder: Path, names: Iterable[str]) -> list[Path]:
    """What isn't hidden, links last: what they lead to is known by its own name where that is there too."""
    paths = (folder / name for name in names if not name.startswith("."))
    return sorted(paths, key=lambda path: (path.is_symlink(), path.name))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"the folder {error.filename} can't be read ({error.strerror}). Change its permissions or move it.")


def read_clip_folders(
    data_dir: Path, identity_pattern: str = "", seed: int = 0, shares: tuple[float, float, float] = SHARES
) -> list[Clip]:
    """List the clips of `{train,val,test}/{real,fake}`, or of `{real,fake}`, whose splits are drawn.

    Clips that share an identity, directly or through others, are drawn together, and without a pattern those of the
    same name (without suffix). Within that, every kind of group (real, fake, both) is split by the same shares of its
    clips. The draw follows from names and seed alone.

    Args:
        data_dir: The folder.
        identity_pattern: Regular expression that is searched in each clip's path relative to its class folder. Its
            groups that match, or else the whole match, are the clip's identities; `(\\d{3})(?:_(\\d{3}))?` for
            FaceForensics++, where `004.mp4` shows 004 and `004_982.mp4` is 004 with the face of 982.
        seed: Of the draw.
        shares: Of train, val and test; they sum to 1.

    Raises:
        UserError: Neither layout or both, no clips, a pattern that is none or doesn't match some clips, or shares that
            are none.
    """
    pattern = _compiled(identity_pattern) if identity_pattern else None
    given = [split for split in SPLITS if _is_folder(data_dir / split)]
    classes = [name for name in CLASSES if _is_folder(data_dir / name)]
    if bool(given) == bool(classes):
        raise UserError(
            f"{data_dir} holds {', '.join(given + classes) or 'neither'}; it needs the folders train, val, test "
            "(each with real and fake) or the folders real and fake."
        )
    clips, unmatched = [], []
    for split in given or [""]:
        for name, fake in CLASSES.items():
            folder = data_dir / split / name
            for path in find_clips(folder) if _is_folder(folder) else []:
                identities = _identities(pattern, path.relative_to(folder).as_posix()) if pattern else ()
                if pattern and not identities:
                    unmatched.append(str(path))
                clips.append(Clip(path, fake, split, identities))
    if unmatched:
        head = f"the identity pattern {identity_pattern!r} matches nothing in {len(unmatched)} of {len(clips)} clips:"
        raise UserError(listing(head, unmatched))
    if not clips:
        raise UserError(f"{data_dir} holds no clips ({_suffixes()}, or folders of frames).")
    return clips if given else _with_drawn_splits(clips, seed, shares)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"the identity pattern {pattern!r} is no regular expression ({error}).") from error


def _identities(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.search(text)
    if not match:
        return ()
    found = [name for name in match.groups() if name is not None] or [match.group()]
    return tuple(dict.fromkeys(filter(None, found)))


def _suffixes() -> str:
    return ", ".join(sorted(suffix[1:].upper() for suffix in CLIP_SUFFIXES))


def read_clip_table(
    csv: Path, identity_pattern: str = "", seed: int = 0, shares: tuple[float, float, float] = SHARES
) -> list[Clip]:
    """Read a table of clips, one a row.

    Args:
        csv: With the columns `file` (its path, relative to the table's folder) and `label` (`real` or `fake`, or 0 or
            1 = fake); `identity` (several joined by `;`) and `split` (train, val, test) may be left out or empty. A
            split is given for all clips or for none; then it is drawn as for folders.
        identity_pattern: As of `read_clip_folders`, searched in the column `file` of rows that give no identity.
        seed: Of that draw.
        shares: Of train, val and test; they sum to 1.

    Raises:
        UserError: It lacks a column or has no rows; a label or split is none; a clip is missing or listed twice; the
            pattern is none or doesn't match some rows. Rows are counted from the head, which is row 1.
    """
    pattern = _compiled(identity_pattern) if identity_pattern else None
    table = tables.read_table(csv, ("file", "label"))
    if not len(table):
        raise UserError(f"{csv} lists no clips. Give each a row: file,label,identity,split.")
    labels = CLASSES | {"0": False, "1": True}
    drawn = "split" not in table or not table["split"].any()
    clips, faults, rows = [], [], {}
    for number, row in enumerate(table.to_dict("records"), 2):
        path, label = csv.parent / row["file"], row["label"].strip().lower()
        identities = tuple(dict.fromkeys(name for part in row.get("identity", "").split(";") if (name := part.strip())))
        if pattern and not identities:
            identities = _identities(pattern, row["file"])
        clip = Clip(path, labels.get(label, False), "" if drawn else row["split"], identities)
        first = rows.setdefault(path.resolve(), number)
        if label not in labels:
            faults.append(f"row {number} ({row['file']}): label is {row['label']!r}; it must be real or fake (0 or 1)")
        elif not drawn and clip.split not in SPLITS:
            faults.append(f"row {number} ({row['file']}): split is {clip.split!r}; it must be train, val or test")
        elif first != number:
            faults.append(f"row {number} ({row['file']}): is in row {first} already")
        elif not path.exists():
            faults.append(f"row {number} ({row['file']}): {path} does not exist (paths begin at the table's folder)")
        elif pattern and not identities:
            faults.append(f"row {number} ({row['file']}): the identity pattern {identity_pattern!r} matches nothing")
        clips.append(clip)
    if faults:
        raise UserError(listing(f"{csv} has {len(faults)} wrong rows among {len(clips)}:", faults))
    return _with_drawn_splits(clips, seed, shares) if drawn else clips


def _with_drawn_splits(clips: Sequence[Clip], seed: int, shares: tuple[float, float, float]) -> list[Clip]:
    groups: dict[int, list[Clip]] = defaultdict(list)
    numbers = _identity_groups(clips)
    for number, clip in zip(numbers, clips, strict=True):
        groups[number].append(clip)
    names = {number: min(name for clip in group for name in _ties(clip)) for number, group in groups.items()}
    strata = {names[n]: "/".join(sorted({str(clip.fake) for clip in group})) for n, group in groups.items()}
    sizes = {names[n]: len(group) for n, group in groups.items()}
    splits = draw_splits(strata, seed, shares, sizes)
    return [replace(clip, split=splits[names[number]]) for number, clip in zip(numbers, clips, strict=True)]


def _identity_groups(clips: Sequence[Clip]) -> list[int]:
    """Number of each clip's group: those that are tied, directly or through others, have the same."""
    nodes: dict[str, int] = {}
    pairs = [
        (position, len(clips) + nodes.setdefault(name, len(nodes)))
        for position, clip in enumerate(clips)
        for name in _ties(clip)
    ]
    return connected(np.array(pairs), len(clips) + len(nodes))[: len(clips)].tolist()


def _ties(clip: Clip) -> tuple[str, ...]:
    """What a clip shares with others that belong to it: its identities, or its name where they aren't known."""
    is_file = clip.path.suffix.lower() in CLIP_SUFFIXES
    return clip.identities or (clip.path.stem if is_file else clip.path.name,)


def check_clips(clips: Sequence[Clip]) -> None:
    """Refuse a training or validation that lacks a class, and identities or clips that are in more than one split.

    Clips of the same name and content are one clip, wherever they lie.

    Raises:
        UserError: Saying which.
    """
    places: dict[str, dict[str, Clip]] = defaultdict(dict)
    for clip in clips:
        for name in clip.identities:
            places[name].setdefault(clip.split, clip)
    shared = [
        f"{name}: " + ", ".join(f"{split} ({clip.path.name})" for split, clip in found.items())
        for name, found in sorted(places.items())
        if len(found) > 1
    ]
    if shared:
        head = f"{len(shared)} of {len(places)} identities are in several splits, so that faces are known by heart:"
        raise UserError(listing(head, shared) + "\nGive all clips of an identity the same split.")
    if copies := _copies(clips):
        head = f"{len(copies)} clips are in several splits:"
        raise UserError(listing(head, copies) + "\nKeep each in one split.")
    there = {(clip.split, clip.fake) for clip in clips}
    lacking = [
        f"{split} has no {name} clips"
        for split in ("train", "val")
        for name, fake in CLASSES.items()
        if (split, fake) not in there
    ]
    if lacking:
        groups = _identity_groups(clips)
        largest = max(map(groups.count, set(groups)), default=0)
        hint = f" The largest group that shares identities has {largest} of the {len(clips)} clips and stays together."
        raise UserError(
            f"{'; '.join(lacking)}. Both classes are needed in both: add clips or part them otherwise."
            + (hint if largest > len(clips) / 2 else "")
        )


def _copies(clips: Sequence[Clip]) -> list[str]:
    """A line for each clip that is in several splits."""
    groups = [clips]
    for key in (lambda path: path.name, clip_key, _content):  # the cheap ones first: few clips are read as a whole
        groups = [part for group in groups for part in _alike_in_splits(group, key)]
    return [", ".join(f"{clip.split} ({clip.path})" for clip in group) for group in groups]


def _alike_in_splits(clips: Sequence[Clip], key: Callable[[Path], str]) -> list[list[Clip]]:
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[key(clip.path)].append(clip)
    return [group for group in groups.values() if len({clip.split for clip in group}) > 1]


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    for name in _files(path):
        try:
            with name.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{name} can't be read ({error.strerror}). Mend or remove it.") from error
    return digest.hexdigest()


def _files(clip: Path) -> list[Path]:
    return frame_files(clip) if clip.is_dir() else [clip]


def measure(path: Path) -> tuple[int, int, int]:
    """Number of files that a clip consists of, their bytes, and when the last of them was changed (ns).

    Raises:
        UserError: There is no such file or folder, or it can't be read.
    """
    try:
        found = [file.stat() for file in _files(path)]
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}). Mend or remove it.") from error
    times = [entry.st_mtime_ns for entry in found]
    return len(found), sum(entry.st_size for entry in found), max(times, default=0)


def clip_key(path: Path) -> str:
    """Hash of a clip's name, number of files and bytes: 16 hex digits by which it is known again anywhere.

    Raises:
        UserError: As `measure`.
    """
    return hashlib.sha256(f"{path.name},{measure(path)[:2]}".encode()).hexdigest()[:16]


def fingerprint(clips: Iterable[Clip]) -> str:
    """Hash of what clips are: names, numbers of files, bytes, labels, splits, identities (not where the folder is)."""
    lines = sorted(f"{c.path.name},{measure(c.path)[:2]},{c.fake},{c.split},{c.identities}" for c in clips)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
