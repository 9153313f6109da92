"""CLIP embeddings of texts (Radford et al. 2021) by the optional open_clip_torch, cached on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, first_line
from common.files import written_whole
from common.networks.pretrained import hub_asked_once

LOCAL = "local-dir:"
BATCH = 64
DEFAULT_PROMPTS = (
    "a photograph of a person",
    "a photograph of an animal",
    "a photograph of a landscape",
    "a photograph of a street or a building",
    "a photograph of an object",
    "a microscopy image of cells",
    "a western blot",
    "a medical scan",
    "a scientific chart or diagram",
    "a screenshot or a scanned document",
    "a digital painting",
    "a computer rendering",
    "an AI-generated image",
    "an unedited photograph from a camera",
)
"""Prompts for what screened images show (scenes, scientific figures) and how they may have been made."""


def get_text_embeddings(prompts: Sequence[str], model: str, pretrained: str) -> Tensor:
    """Embed prompts by a CLIP text tower.

    Args:
        prompts: One or more; the tower reads no more than its context (77 tokens in all CLIPs of OpenAI).
        model: A name of open_clip's, such as `ViT-B-16-quickgelu`; or `local-dir:FOLDER` with `open_clip_config.json`
            and weights in it, which needs no network.
        pretrained: `openai` or another pretraining that open_clip lists for the name, from the hub or its local cache;
            a file's path; or `none`, random weights from a fixed seed. A folder has its own weights.

    Returns:
        float32 (n, E), each of length 1.

    Raises:
        UserError: open_clip isn't installed, no prompts, or the tower can't be loaded.
    """
    if not prompts:
        raise UserError("there are no prompts to embed; give one or more.")
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"texts are embedded by open_clip ({error}). Install it: pip install open_clip_torch"
        ) from error
    tower: Any = _load_tower(open_clip, model, pretrained)
    tokens = open_clip.get_tokenizer(model)(list(prompts))
    with torch.no_grad():
        return torch.cat([tower.encode_text(batch, normalize=True) for batch in tokens.split(BATCH)])


def cached_text_embeddings(prompts: Sequence[str], model: str, pretrained: str, cache: Path) -> Tensor:
    """As `get_text_embeddings`, with a file `cache` of the embeddings of one tower; only missing prompts are embedded.

    The tower is identified by the two names and, where its weights are on this machine, by their files' sizes and
    times. Files that aren't there count as unchanged, so that a cache can be copied to a machine without the weights.

    Raises:
        UserError: See `get_text_embeddings`; or `cache` can't be written.
    """
    tower = {"model": model, "pretrained": pretrained, "files": _weight_files(model, pretrained)}
    known = _read_cache(cache, tower)
    new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in known))
    if new or not prompts:
        known |= zip(new, get_text_embeddings(new, model, pretrained), strict=True)
        with written_whole(cache, "wb") as file:
            torch.save({**tower, "prompts": list(known), "embeddings": torch.stack(list(known.values()))}, file)
    return torch.stack([known[prompt] for prompt in prompts])


def _load_tower(open_clip: Any, model: str, pretrained: str) -> torch.nn.Module:
    """A CLIP without its image tower, in evaluation mode."""
    local = model.startswith(LOCAL)
    if local and pretrained not in ("none", "openai"):
        raise UserError(f"{model} brings its own weights: {pretrained} would not be read. Put it into the folder.")
    if not local and model not in open_clip.list_models():
        raise UserError(f"open_clip has no model {model!r}. Choose ViT-B-16-quickgelu, or {LOCAL}FOLDER.")
    tags = [] if local else open_clip.list_pretrained_tags_by_model(model)
    if not local and pretrained not in ("none", *tags) and not Path(pretrained).is_file():
        raise UserError(
            f"{pretrained} is neither a file nor a pretraining of {model}. Pretrainings: none, {', '.join(tags)}."
        )
    try:
        # The caller's random numbers stay as they are, and random weights are always the same.
        with hub_asked_once(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = open_clip.create_model(
                model,
                pretrained=None if local or pretrained == "none" else pretrained,
                pretrained_text=False,
                require_pretrained=local or pretrained != "none",
            )
    except Exception as error:  # open_clip, the hub's client and torch have no common error class
        raise UserError(
            f"CLIP {model} with weights {pretrained} can't be loaded ({first_line(error)}). Without a network, use a "
            f"folder with open_clip_config.json and open_clip_model.safetensors: {LOCAL}FOLDER."
        ) from error
    del network.visual
    return network.eval()


def _weight_files(model: str, pretrained: str) -> dict[str, list[int]]:
    """Size in bytes and time in ns of the tower's files on this machine, by name."""
    paths = Path(model.removeprefix(LOCAL)).glob("*") if model.startswith(LOCAL) else [Path(pretrained)]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths) if path.is_file()}


def _read_cache(cache: Path, tower: dict[str, Any]) -> dict[str, Tensor]:
    """Vectors by prompt that `cached_text_embeddings` wrote for this tower; empty if there is no such file."""
    try:
        kept = torch.load(cache, "cpu", weights_only=True)
        same = all(kept[name] == tower[name] for name in ("model", "pretrained"))
        if same and tower["files"] in ({}, kept["files"]):
            return dict(zip(kept["prompts"], kept["embeddings"], strict=True))
    except Exception:  # missing, truncated, no torch file: no common error class, and all mean to rewrite it
        pass
    return {}
