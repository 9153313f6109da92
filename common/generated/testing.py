"""Test of a trained detector of script 7 on unseen images, clean and degraded."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy.special import logit
from tqdm import tqdm

from common.data.splits import of_split
from common.devices import process_state
from common.errors import UserError, flag_of
from common.generated.config import EvaluationConfig
from common.generated.content import content_probabilities
from common.generated.dataset import GeneratedTestSet, make_generated_loader
from common.generated.detector import bounds_of
from common.generated.images import LabelledImage, fingerprint, prompt_list
from common.generated.network import Spai
from common.generated.published import load_detector_checkpoint
from common.generated.residual import ResidualNetwork, load_network
from common.generated.scoring import FLAT, TEST_BATCH, Scored, score_images
from common.generated.training import embed_prompts
from common.metrics.calibration import calibrated
from common.metrics.detection import RANKED, by_generator, clip_score
from common.networks.pixels import unit_range

CONTENT_AUC = 0.7
"""AUC by content alone from which a test warns."""
UNMOVED = 0.1
"""Deviation of the change of logits, as a share of theirs, below which a degradation changed nothing."""


def evaluate_spai(config: EvaluationConfig, images: Sequence[LabelledImage]) -> pd.DataFrame:
    """Test models/<name>_best.pth on the test split, clean and after each of the configuration's degradations.

    The images are shared out over the processes of the run; every process gets the whole table.

    Returns:
        Rows of `by_generator`, preceded by `degradation` (`none` first) and followed by `content_auc`, the AUC of
        `content_probabilities`, and by what the conformal verdicts do: `fpr` and `recall`, the shares of real and of
        generated images called generated, and `undecided`, that of all called neither; nan in the row of the average.
        With `config.clip_score` also `clip_score`.

    Raises:
        UserError: There is no checkpoint, it was trained on what is tested here, or the test split lacks a class.
    """
    path = config.models_dir / f"{config.name}_best.pth"
    checkpoint = load_detector_checkpoint(path)
    _check_unseen(path, checkpoint, config, images)
    return evaluate_model(load_network(checkpoint, path), checkpoint, config, images)


def _check_unseen(
    path: Path, checkpoint: dict[str, Any], config: EvaluationConfig, images: Sequence[LabelledImage]
) -> None:
    """Refuse a test on images that were trained on, as far as can be known."""
    then = checkpoint["config"]
    fields = ["holdout_generator", "seed"] if any(image.drawn for image in images) else ["holdout_generator"]
    if "data_fingerprint" not in checkpoint or checkpoint["data_fingerprint"] == fingerprint(images):
        return
    if changed := [name for name in fields if then[name] != getattr(config, name)]:
        flags = ", ".join(flag_of(name, then[name]) for name in changed)
        raise UserError(
            f"{path} was trained with {flags}: it may have seen what is tested here. Use the same, or train."
        )
    process_state().print(
        f"note: {path} was trained on other data; if they share images with this test, its results are too good"
    )


def evaluate_model(
    model: Spai | ResidualNetwork, checkpoint: dict[str, Any], config: EvaluationConfig, images: Sequence[LabelledImage]
) -> pd.DataFrame:
    """As `evaluate_spai`, of a network that has its weights, with the calibration of its checkpoint.

    It warns where the figures are those of a detector that can't be relied on: see `_warnings`.
    """
    process_state()  # before the accelerator, which would take several processes without a GPU for several runs
    accelerator = Accelerator()
    model.to(accelerator.device)
    target_fpr = checkpoint["target_fpr"] if config.target_fpr is None else config.target_fpr
    test, bounds = of_split(images, "test"), bounds_of(checkpoint["validation"], target_fpr)
    cover_edges = checkpoint["config"]["cover_edges"]
    if len({image.generated for image in test}) < 2:
        raise UserError("the test split needs real and generated images; it has one class or none.")
    if config.clip_score and (isinstance(model, ResidualNetwork) or not _has_clip(model, checkpoint["config"])):
        raise UserError("clip scores need a pretrained CLIP tower; this network has none.")
    tables, found = [], {}
    content = content_probabilities(test)
    quiet = None if accelerator.is_main_process else True
    for degradation in tqdm(("none", *config.degrade), "test", leave=False, disable=quiet):
        applied = None if degradation == "none" else degradation
        found[degradation] = score_images(
            accelerator,
            model,
            test,
            applied,
            feature_batch=config.feature_batch,
            workers=config.workers,
            cover_edges=cover_edges,
        )
        scores = found[degradation].scores
        table = pd.DataFrame([asdict(image) for image in test])
        table["prob"] = [calibrated(score, **checkpoint["calibration"]) for score in scores]
        table["verdict"] = table["prob"].map(bounds.verdict)
        rows = by_generator(table)
        # Ranks of the raw score, as in the validation: a calibration of slope 0 ties all images.
        rows[RANKED] = by_generator(table.assign(prob=scores))[RANKED]
        generators = rows["generator"].tolist()
        rows["content_auc"] = np.nan if np.isnan(content).any() else by_generator(table.assign(prob=content))["auc"]
        rows = rows.join(pd.DataFrame([_verdicts(table, name) for name in generators]))
        if config.clip_score:
            rows["clip_score"] = _clip_scores(accelerator, cast(Spai, model), config, test, applied, generators)
        rows.insert(0, "degradation", degradation)
        tables.append(rows)
    for text in _warnings(found, float(tables[0]["content_auc"].iloc[-1]), attends=isinstance(model, Spai)):
        process_state().print(text)
    return pd.concat(tables, ignore_index=True)


def _warnings(found: Mapping[str, Scored], content_auc: float, *, attends: bool) -> list[str]:
    """What makes the figures of a test doubtful, a sentence each.

    Args:
        found: Scores by degradation, `none` among them.
        content_auc: Of a classifier that sees content alone; may be nan.
        attends: Whether the network weighs its patches.
    """
    warnings = []
    if content_auc >= CONTENT_AUC:
        warnings.append(
            f"warning: thumbnails alone tell the classes with an AUC of {content_auc:.2f}, so they show different "
            "things: the detector's AUC may be that of the content. Test it where both classes show the same."
        )
    clean = found["none"]
    if attends and np.median(clean.attention) < FLAT:
        warnings.append(
            "warning: the patch attention is flat: all patches of an image weigh the same, and its map says nothing."
        )
    logits = {name: logit(scored.scores.clip(1e-9, 1 - 1e-9)) for name, scored in found.items()}
    for name, values in logits.items():
        if name != "none" and np.std(values - logits["none"]) <= UNMOVED * np.std(logits["none"]):
            warnings.append(
                f"warning: the scores after {name} are those of the clean images: what the detector reads is hardly a "
                "trace of generation, which that would weaken."
            )
    return warnings


def _verdicts(table: pd.DataFrame, generator: str) -> dict[str, float]:
    """Shares of the verdicts on a generator's images and the real ones; nan for the average."""
    real, own = table[~table["generated"]], table[table["generated"] & (table["generator"] == generator)]
    both = pd.concat([real, own])
    shares = {"fpr": real["verdict"] == "generated", "recall": own["verdict"] == "generated"}
    shares["undecided"] = ~both["verdict"].isin(("generated", "real"))
    return {name: float(share.mean()) if len(own) else float("nan") for name, share in shares.items()}


def _has_clip(model: Spai, trained: dict[str, Any]) -> bool:
    """Whether the tower of a network that was trained with these settings has CLIP's weights."""
    if model.tower is not None:
        return trained["semantic_weights"] != "none"
    return model.backbone.is_clip and trained["backbone_weights"] != "none" and not trained["train_backbone"]


@torch.no_grad()
def _clip_scores(
    accelerator: Accelerator,
    model: Spai,
    config: EvaluationConfig,
    images: Sequence[LabelledImage],
    degradation: str | None,
    generators: Sequence[str],
) -> list[float]:
    """Of each generator's images, of all for "average", that have a prompt; nan without any."""
    chosen = [image for image in images if image.prompt and image.generated]
    if not chosen:
        return [float("nan")] * len(generators)
    tower, prompts = model.tower or model.backbone, prompt_list(chosen)
    with process_state().main_process_first():  # the others find them in the cache
        texts = embed_prompts(config, prompts, model)[[prompts.index(image.prompt) for image in chosen]].numpy()
    shown = GeneratedTestSet(chosen, degradation, whole_size=model.whole_size)
    loader = accelerator.prepare(make_generated_loader(shown, TEST_BATCH, config.workers))
    found = [accelerator.gather_for_metrics(tower.get_image_embedding(unit_range(batch["whole"]))) for batch in loader]
    embedded = torch.cat(found).cpu().numpy()
    own = [[name in (image.generator, "average") for image in chosen] for name in generators]
    return [clip_score(embedded[mask], texts[mask]) for mask in own]
