"""Test of a trained detector of script 7 on unseen images, clean and degraded."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from tqdm import tqdm

from common.data.splits import of_split
from common.devices import process_state
from common.errors import UserError
from common.generated.config import EvaluationConfig
from common.generated.dataset import GeneratedTestSet, make_generated_loader
from common.generated.images import LabelledImage, fingerprint, prompt_list
from common.generated.network import Spai, load_spai
from common.generated.published import load_detector_checkpoint
from common.generated.scoring import TEST_BATCH, score_loader
from common.generated.training import embed_prompts
from common.metrics.calibration import calibrated
from common.metrics.conformal import fit_bounds
from common.metrics.detection import RANKED, by_generator, clip_score
from common.networks.pixels import unit_range


def evaluate_spai(config: EvaluationConfig, images: Sequence[LabelledImage]) -> pd.DataFrame:
    """Test models/<name>_best.pth on the test split, clean and after each of the configuration's degradations.

    The images are shared out over the processes of the run; every process gets the whole table.

    Returns:
        Rows of `by_generator`, preceded by `degradation` (`none` first) and followed by what the conformal verdicts do:
        `fpr` and `recall`, the shares of real and of generated images called generated, and `undecided`, that of all
        called neither; nan in the row of the average. With `config.clip_score` also `clip_score`.

    Raises:
        UserError: There is no checkpoint, it was trained on what is tested here, or the test split lacks a class.
    """
    path = config.models_dir / f"{config.name}_best.pth"
    checkpoint = load_detector_checkpoint(path)
    _check_unseen(path, checkpoint, config, images)
    return evaluate_model(load_spai(checkpoint, path), checkpoint, config, images)


def _check_unseen(
    path: Path, checkpoint: dict[str, Any], config: EvaluationConfig, images: Sequence[LabelledImage]
) -> None:
    """Refuse a test on images that were trained on, as far as can be known."""
    then = checkpoint["config"]
    fields = ["holdout_generator"] if config.csv else ["holdout_generator", "seed"]
    if "data_fingerprint" not in checkpoint or checkpoint["data_fingerprint"] == fingerprint(images):
        return
    if changed := [name for name in fields if then[name] != getattr(config, name)]:
        flags = ", ".join(f"--{name.replace('_', '-')} {then[name] or repr('')}" for name in changed)
        raise UserError(
            f"{path} was trained with {flags}: it may have seen what is tested here. Use the same, or train."
        )
    process_state().print(
        f"note: {path} was trained on other data; if they share images with this test, its results are too good"
    )


def evaluate_model(
    model: Spai, checkpoint: dict[str, Any], config: EvaluationConfig, images: Sequence[LabelledImage]
) -> pd.DataFrame:
    """As `evaluate_spai`, of a network that has its weights, with the calibration of its checkpoint."""
    process_state()  # before the accelerator, which would take several processes without a GPU for several runs
    accelerator = Accelerator()
    model.to(accelerator.device)
    test, validation = of_split(images, "test"), checkpoint["validation"]
    bounds = fit_bounds(validation["probs"], validation["generated"], config.target_fpr)
    cover_edges = checkpoint["config"]["cover_edges"]
    if len({image.generated for image in test}) < 2:
        raise UserError("the test split needs real and generated images; it has one class or none.")
    if config.clip_score and not _has_clip(model, checkpoint["config"]):
        raise UserError("clip scores need a pretrained CLIP tower; this network has none.")
    tables = []
    quiet = None if accelerator.is_main_process else True
    for degradation in tqdm(("none", *config.degrade), "test", leave=False, disable=quiet):
        data = GeneratedTestSet(test, None if degradation == "none" else degradation, whole_size=model.whole_size)
        loader = accelerator.prepare(make_generated_loader(data, TEST_BATCH, config.workers))
        scores, _ = score_loader(accelerator, model, loader, config, cover_edges=cover_edges)
        table = pd.DataFrame([asdict(image) for image in test])
        table["prob"] = [calibrated(score, **checkpoint["calibration"]) for score in scores]
        table["verdict"] = table["prob"].map(bounds.verdict)
        rows = by_generator(table)
        # Ranks of the raw score, as in the validation: a calibration of slope 0 ties all images.
        rows[RANKED] = by_generator(table.assign(prob=scores))[RANKED]
        generators = rows["generator"].tolist()
        rows = rows.join(pd.DataFrame([_verdicts(table, name) for name in generators]))
        if config.clip_score:
            rows["clip_score"] = _clip_scores(accelerator, model, config, data, generators)
        rows.insert(0, "degradation", degradation)
        tables.append(rows)
        accelerator.free_memory()  # it keeps each loader, and with it the loader's workers
    return pd.concat(tables, ignore_index=True)


def _verdicts(table: pd.DataFrame, generator: str) -> dict[str, float]:
    """Shares of the verdicts on a generator's images and the real ones; nan for the average."""
    real, own = table[~table["generated"]], table[table["generated"] & (table["generator"] == generator)]
    both = pd.concat([real, own])
    shares = {"fpr": real["verdict"] == "generated", "recall": own["verdict"] == "generated"}
    shares["undecided"] = both["verdict"] == "insufficient evidence"
    return {name: float(share.mean()) if len(own) else float("nan") for name, share in shares.items()}


def _has_clip(model: Spai, trained: dict[str, Any]) -> bool:
    """Whether the tower of a network that was trained with these settings has CLIP's weights."""
    if model.tower is not None:
        return trained["semantic_weights"] != "none"
    return model.backbone.is_clip and trained["backbone_weights"] != "none" and not trained["train_backbone"]


@torch.no_grad()
def _clip_scores(
    accelerator: Accelerator, model: Spai, config: EvaluationConfig, data: GeneratedTestSet, generators: Sequence[str]
) -> list[float]:
    """Of each generator's images, of all for "average", that have a prompt; nan without any."""
    chosen = [image for image in data.images if image.prompt and image.generated]
    if not chosen:
        return [float("nan")] * len(generators)
    tower, prompts = model.tower or model.backbone, prompt_list(chosen)
    with process_state().main_process_first():  # the others find them in the cache
        texts = embed_prompts(config, prompts, model)[[prompts.index(image.prompt) for image in chosen]].numpy()
    shown = GeneratedTestSet(chosen, data.degradation, whole_size=model.whole_size)
    loader = accelerator.prepare(make_generated_loader(shown, TEST_BATCH, config.workers))
    found = [accelerator.gather_for_metrics(tower.get_image_embedding(unit_range(batch["whole"]))) for batch in loader]
    images = torch.cat(found).cpu().numpy()
    own = [[name in (image.generator, "average") for image in chosen] for name in generators]
    return [clip_score(images[mask], texts[mask]) for mask in own]
