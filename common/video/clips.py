"""Clips labelled real or deepfake as a whole, from folders or a table, in training, validation and test.

Clips that show the same person, or are made from them, share an identity and stay in one split: a network that has been
trained on one of them would recognise the face in the others.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.components import connected
from common.data.labelled import Labelled, check_both_classes, read_class_folders, read_labelled_table
from common.data.splits import draw_splits
from common.errors import UserError, listing
from common.files import check_regular, walk
from common.patterns import search_all
from common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from common.video.files import frame_files

CLIP_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
SHARES = (0.7, 0.15, 0.15)
"""Shares of the clips in drawn splits: train, val and test."""


@dataclass(frozen=True)
class Clip:
    """One labelled clip."""

    path: Path
    """A video, an image (a clip of one frame) or a folder of frames."""
    fake: bool
    split: str
    """`train`, `val` or `test`."""
    identities: tuple[str, ...] = ()
    """The people who are seen in it or whose face was put into it, as far as they are known."""
    self_blended: bool = False
    """Whether it is the fake that `common.video.blending` makes of the real clip at `path`."""


def find_clips(folder: Path) -> list[Path]:
    """List all clips below a folder, sorted.

    A file with the suffix of a video or an image is a clip. A subfolder that holds images, but neither videos nor
    folders, is a folder of frames: one clip. Hidden files and folders, and other files, are ignored. Several links to
    one clip count once.

    Raises:
        UserError: The folder does not exist, or it or one below can't be read.
    """
    return sorted(_clips_below(folder))


def _clips_below(top: Path) -> Iterator[Path]:
    seen = {os.path.realpath(top)}

    def is_new(path: Path) -> bool:
        real = os.path.realpath(path)
        return not (real in seen or seen.add(real))

    for place, folders, files in walk(top, follow_links=True):
        folder = Path(place)
        folders[:] = [path.name for path in _links_last(folder, folders) if is_new(path)]
        clips = [path for path in _links_last(folder, files) if path.suffix.lower() in CLIP_SUFFIXES]
        if folder != top and clips and not folders and all(path.suffix.lower() in IMAGE_SUFFIXES for path in clips):
            yield folder
        else:
            yield from filter(is_new, clips)


def _links_last(folder: Path, names: Iterable[str]) -> list[Path]:
    """The paths that aren't hidden, links last: a clip that lies there under its own name is listed by that."""
    paths = (folder / name for name in names if not name.startswith("."))
    return sorted(paths, key=lambda path: (path.is_symlink(), path.name))


def read_clip_folders(data_dir: Path, identity_pattern: str = "", seed: int = 0) -> list[Clip]:
    """List the clips of `{train,val,test}/{real,fake}`, or of `{real,fake}`, whose splits are drawn.

    Clips that share an identity, directly or through others, are drawn together; without a pattern, clips of the same
    name (without suffix) are. Each kind of group (real, fake, both) is split by the same shares of its clips. The draw
    depends on names and seed alone.

    Args:
        data_dir: The folder.
        identity_pattern: Regular expression that is searched in each clip's path relative to its class folder. Its
            groups that match, or else the whole match, are the clip's identities; `(\\d{3})(?:_(\\d{3}))?` for
            FaceForensics++, where `004.mp4` shows 004 and `004_982.mp4` is 004 with the face of 982.
        seed: Seed of the draw.

    Raises:
        UserError: As `read_class_folders`; the pattern is no regular expression, takes too long, or matches nothing in
            some clips.
    """
    return _clips(read_class_folders(data_dir, find_clips), identity_pattern, seed)


def read_clip_table(csv: Path, identity_pattern: str = "", seed: int = 0) -> list[Clip]:
    """Read a table of clips, one per row.

    Args:
        csv: As of `read_labelled_table`; its column `identity` (several joined by `;`) may be missing or empty.
        identity_pattern: As of `read_clip_folders`, searched in the column `file` of rows without identity.
        seed: As of `read_clip_folders`, for tables without splits.

    Raises:
        UserError: As `read_labelled_table`, and for the pattern as `read_clip_folders`.
    """
    return _clips(read_labelled_table(csv), identity_pattern, seed)


def _clips(files: Sequence[Labelled], identity_pattern: str, seed: int) -> list[Clip]:
    known = [_named_identities(file) for file in files]
    if identity_pattern:
        unknown = [file.name for file, names in zip(files, known, strict=True) if not names]
        found = iter(search_all(identity_pattern, unknown, "identity pattern"))
        known = [names or _identities(next(found)) for names in known]
    clips = [Clip(file.path, file.fake, file.split, names) for file, names in zip(files, known, strict=True)]
    unmatched = [str(clip.path) for clip in clips if identity_pattern and not clip.identities]
    if unmatched:
        head = f"the identity pattern {identity_pattern!r} matches nothing in {len(unmatched)} of {len(clips)} clips:"
        raise UserError(listing(head, unmatched))
    return clips if clips[0].split else _with_drawn_splits(clips, seed)


def _named_identities(file: Labelled) -> tuple[str, ...]:
    """Those of the column `identity`."""
    names = [name.strip() for name in file.columns.get("identity", "").split(";")]
    return tuple(dict.fromkeys(filter(None, names)))


def _identities(match: Sequence[str | None] | None) -> tuple[str, ...]:
    """The groups of a match, or else the whole of it."""
    whole, *groups = match or [None]
    return tuple(dict.fromkeys(filter(None, [name for name in groups if name is not None] or [whole])))


def _with_drawn_splits(clips: Sequence[Clip], seed: int) -> list[Clip]:
    groups: dict[int, list[Clip]] = defaultdict(list)
    numbers = identity_groups(clips)
    for number, clip in zip(numbers, clips, strict=True):
        groups[number].append(clip)
    names = {number: min(name for clip in group for name in _shared_names(clip)) for number, group in groups.items()}
    strata = {names[n]: "/".join(sorted({str(clip.fake) for clip in group})) for n, group in groups.items()}
    sizes = {names[n]: len(group) for n, group in groups.items()}
    splits = draw_splits(strata, seed, SHARES, sizes)
    return [replace(clip, split=splits[names[number]]) for number, clip in zip(numbers, clips, strict=True)]


def identity_groups(clips: Sequence[Clip]) -> list[int]:
    """Number of each clip's group: clips that share a name, directly or through others, have the same."""
    nodes: dict[str, int] = {}
    pairs = [
        (position, len(clips) + nodes.setdefault(name, len(nodes)))
        for position, clip in enumerate(clips)
        for name in _shared_names(clip)
    ]
    return connected(np.array(pairs), len(clips) + len(nodes))[: len(clips)].tolist()


def _shared_names(clip: Clip) -> tuple[str, ...]:
    """A clip's identities, or its own name if they aren't known."""
    is_file = clip.path.suffix.lower() in CLIP_SUFFIXES
    return clip.identities or (clip.path.stem if is_file else clip.path.name,)


def check_clips(clips: Sequence[Clip]) -> None:
    """Check that training and validation have both classes, and that no identity and no clip is in several splits.

    Clips of the same name and content are one clip, wherever they lie.

    Raises:
        UserError: They are not; the message lists which.
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
        head = f"{len(shared)} of {len(places)} identities are in several splits, which would overstate the results:"
        raise UserError(listing(head, shared) + "\nGive all clips of an identity the same split.")
    if copies := _copies(clips):
        head = f"{len(copies)} clips are in several splits:"
        raise UserError(listing(head, copies) + "\nKeep each in one split.")
    try:
        check_both_classes([(clip.split, clip.fake) for clip in clips], "clips")
    except UserError as error:
        groups = identity_groups(clips)
        largest = max(map(groups.count, set(groups)), default=0)
        if largest <= len(clips) / 2:
            raise
        hint = f"The largest group that shares identities has {largest} of the {len(clips)} clips and stays together."
        raise UserError(f"{error} {hint}") from error


def with_self_blended(clips: Sequence[Clip]) -> list[Clip]:
    """The clips, and for each of a split without fakes the fake that is made of it."""
    have_fakes = {clip.split for clip in clips if clip.fake}
    made = [replace(clip, fake=True, self_blended=True) for clip in clips if clip.split not in have_fakes]
    return [*clips, *made]


def _copies(clips: Sequence[Clip]) -> list[str]:
    """A line for each clip that is in several splits."""
    groups = [clips]
    for key in (lambda path: path.name, clip_key, _content):  # the cheap ones first: few clips are read as a whole
        groups = [alike for group in groups for alike in _alike_in_splits(group, key)]
    return [", ".join(f"{clip.split} ({clip.path})" for clip in group) for group in groups]


def _alike_in_splits(clips: Sequence[Clip], key: Callable[[Path], str]) -> list[list[Clip]]:
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[key(clip.path)].append(clip)
    return [group for group in groups.values() if len({clip.split for clip in group}) > 1]


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    for name in _files(path):
        check_regular(name)
        try:
            with name.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{name} can't be read ({error.strerror}). Fix or remove it.") from error
    return digest.hexdigest()


def _files(clip: Path) -> list[Path]:
    return frame_files(clip) if clip.is_dir() else [clip]


def measure(path: Path) -> tuple[int, int, int]:
    """Number of files of a clip, their bytes, and when the last of them was changed (ns).

    Raises:
        UserError: There is no such file or folder, or it can't be read.
    """
    try:
        found = [file.stat() for file in _files(path)]
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}). Fix or remove it.") from error
    times = [entry.st_mtime_ns for entry in found]
    return len(found), sum(entry.st_size for entry in found), max(times, default=0)


def clip_key(path: Path) -> str:
    """Hash of a clip's name, number of files and bytes, 16 hex digits: the same wherever the clip lies.

    Raises:
        UserError: As `measure`.
    """
    return hashlib.sha256(f"{path.name},{measure(path)[:2]}".encode(errors="surrogateescape")).hexdigest()[:16]


def fingerprint(clips: Iterable[Clip]) -> str:
    """Hash of the clips' names, numbers of files, bytes, labels, splits and identities, but not of their folders."""
    lines = sorted(f"{c.path.name},{measure(c.path)[:2]},{c.fake},{c.split},{c.identities}" for c in clips)
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]
