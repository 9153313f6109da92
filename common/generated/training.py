"""Training of SPAI in two stages: images, first weights, loss of a batch, data loaders."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.data.labelled import check_both_classes
from common.data.leaks import leak_note
from common.data.sampling import WeightedSampler
from common.data.splits import SPLITS, of_split
from common.devices import main_process_prints, process_state
from common.errors import UserError
from common.generated.clip_text import DEFAULT_PROMPTS, cached_text_embeddings
from common.generated.config import ScoringConfig, SpaiConfig
from common.generated.dataset import GeneratedTestSet, GeneratedTrainSet, make_generated_loader, view_augmentation
from common.generated.images import (
    LabelledImage,
    fingerprint,
    hold_out,
    images_of_folders,
    images_of_table,
    prompt_list,
    readable_images,
)
from common.generated.losses import SpaiLoss
from common.generated.network import SPAI_KEYS, Spai, architecture
from common.generated.published import load_detector_checkpoint
from common.generated.residual import RESIDUAL_FIELDS, ResidualNetwork
from common.generated.scoring import TEST_BATCH, validate_spai
from common.generated.vit import load_vit_weights
from common.training.checkpoint import load_checkpoint
from common.training.engine import Data, Objective, build_seeded, fit
from common.training.optimizing import layer_groups
from common.training.run_files import Validation


def load_images(config: ScoringConfig, decoded: Sequence[str] = SPLITS) -> list[LabelledImage]:
    """Read the table or the folders of the configuration, and decode every image of the splits `decoded` once.

    Raises:
        UserError: As the functions of `common.generated.images`.
    """
    if config.csv is not None:
        images = images_of_table(config.csv, config.seed)
    else:
        images = images_of_folders(config.data_dir, config.seed)
    if config.holdout_generator:
        images = hold_out(images, config.holdout_generator)
    # Decoded by one process alone: each would open every file, and print the same.
    found = None
    if process_state().is_main_process:
        chosen = [image for image in images if image.split in decoded]
        found = readable_images(chosen, skip_bad_files=config.skip_bad_files)
        labels, stems = [image.generated for image in found], [image.path.stem for image in found]
        if note := leak_note([image.path for image in found], labels, stems, ("real", "generated pictures")):
            print(f"note: {note}")
    readable = set(broadcast_object_list([found])[0])
    images = [image for image in images if image.split not in decoded or image in readable]
    counts = {name: sum(image.split == name for image in images) for name in SPLITS}
    process_state().print(f"{config.name}: {', '.join(f'{count} {name}' for name, count in counts.items())} images")
    return images


def start_spai(config: SpaiConfig) -> tuple[Spai | ResidualNetwork, SpaiConfig]:
    """Build the network and load its first weights: those of its towers, or of a trained plain SPAI (`init`).

    Returns:
        The network, and the configuration with the weights and sizes that were loaded.

    Raises:
        UserError: Weights or prompts can't be loaded, or `init` is no plain SPAI.
    """
    if config.network == "residual":
        arguments = {field: getattr(config, field) for field in RESIDUAL_FIELDS}
        return build_seeded(config.seed, partial(ResidualNetwork, **arguments)), config
    prompts = read_prompts(config)
    last = config.models_dir / f"{config.name}_last.pth"
    if config.resume and last.is_file() and load_checkpoint(last, SPAI_KEYS)["prompts"] != prompts:
        raise UserError(f"--resume: {last} was trained with other --prompts.")
    plain = None
    if config.init is not None:
        plain = load_detector_checkpoint(config.init)
        if plain["config"]["fusion"] != "none":
            raise UserError(f"--init {config.init} is a fusion; name a checkpoint that was trained with --fusion none.")
        config = replace(config, **{name: plain["config"][name] for name in PLAIN_FIELDS})
        config = replace(config, backbone_weights=str(config.init))
        process_state().print(f"{config.name}: starts from {config.init}, and has its sizes ({config.backbone_name})")
    arguments = architecture(config) | {"text_tokens": len(prompts), "text_head": config.text_weight > 0}
    model = build_seeded(config.seed, partial(Spai, **arguments))
    if plain is not None:
        lacking = model.load_state_dict(plain["model_state_dict"], strict=False).missing_keys
        if wrong := [name for name in lacking if not name.startswith(("fusion.", "tower.", "text"))]:
            raise UserError(f"--init {config.init} lacks weights, for instance {wrong[0]}.")
    if not config.resume:  # then the checkpoint has the weights
        with process_state().main_process_first(), main_process_prints():  # the others find the weights in caches
            if plain is None:
                loaded = load_vit_weights(model.backbone, config.backbone_name, config.backbone_weights)
                config = replace(config, backbone_weights=loaded)
            if model.tower is not None:
                name, source = config.semantic_name, config.semantic_weights
                loaded = load_vit_weights(model.tower, name, source, "semantic weights")
                config = replace(config, semantic_weights=loaded)
            if prompts:
                model.set_text(embed_prompts(config, prompts, model))
    model.backbone.set_drop_path(config.drop_path)
    model.set_stage("joint", train_backbone=config.train_backbone)
    return model, config


PLAIN_FIELDS = (
    *("backbone_name", "backbone_depth", "backbone_width", "backbone_heads", "patch_size"),
    *("mask_radius", "projection_dim", "projection_layers", "attention_dim", "attention_heads", "head_ratio"),
)
"""Sizes that a fusion takes over from the plain SPAI that it starts from."""


def read_prompts(config: SpaiConfig) -> list[str]:
    """The prompts that become semantic tokens: the lines of a file, the default ones, or none."""
    if not config.prompts:
        return []
    if config.prompts == "default":
        return list(DEFAULT_PROMPTS)
    try:
        lines = Path(config.prompts).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--prompts {config.prompts} can't be read ({error}).") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"--prompts {config.prompts} has no prompt. Write one per line.")
    return prompts


def embed_prompts(config: ScoringConfig, prompts: list[str], model: Spai) -> Tensor:
    """CLIP's embeddings of prompts (n, E), cached in the folder of the models.

    Raises:
        UserError: The text tower is not of the image tower's CLIP, or as `cached_text_embeddings`.
    """
    cache = config.models_dir / "text_embeddings.pt"
    texts = cached_text_embeddings(prompts, config.text_name, config.text_weights, cache)
    if texts.shape[1] != (size := (model.tower or model.backbone).embedding_size):
        raise UserError(
            f"--text-name {config.text_name} makes embeddings of {texts.shape[1]} numbers, the image tower of {size}: "
            "name both towers of one CLIP."
        )
    return texts


def spai_step(loss: SpaiLoss, prompts: Tensor | None, model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The loss of a batch of `GeneratedTrainSet` items, with their degraded twins and prompts where there are any.

    `prompts` are the embeddings (n, E) that the batch's `prompt_index` counts.
    """
    views, whole, degraded = batch["views"], batch["whole"], None
    count = len(views)
    if "degraded_views" in batch:  # one pass for both: several processes expect one a step
        views = torch.cat([views, batch["degraded_views"]])
        whole = torch.cat([whole, batch["degraded_whole"]])
    output = model(views, whole)
    if "degraded_views" in batch:
        degraded = type(output)(*(None if part is None else part[count:] for part in output))
        output = type(output)(*(None if part is None else part[:count] for part in output))
    text = known = None
    if prompts is not None:
        index = batch["prompt_index"]
        known = index >= 0
        text = prompts.to(index.device)[index.clamp(min=0)]
    return loss(output, batch["label"], degraded, text, known)


def _validate_with_parts(
    loss: SpaiLoss,
    validate: Callable[[Accelerator, nn.Module, DataLoader], Validation],
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
) -> Validation:
    """The validation, with the mean of each summand of the loss over the epoch as `loss_classification` and so on."""
    means = {name: accelerator.reduce(mean, "mean").item() for name, mean in loss.means().items()}
    if len(means) > 1 and accelerator.is_main_process:
        tqdm.write("loss: " + ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
    found = validate(accelerator, model, loader)
    return replace(found, metrics=found.metrics | {f"loss_{name}": mean for name, mean in means.items()})


def train_spai(config: SpaiConfig, model: Spai | ResidualNetwork, images: Sequence[LabelledImage]) -> dict[str, float]:
    """Train in two stages, and keep the best epoch by validation AUC in models/<name>_best.pth.

    Returns:
        The metrics of the best epoch (see `validate_spai`), and its mean loss by summand (`loss_classification` …).

    Raises:
        UserError: A class is missing in training or validation, or as `fit`.
    """
    check_both_classes([(image.split, image.generated) for image in images], "images")
    train, val = of_split(images, "train"), of_split(images, "val")
    prompts = prompt_list(train) if config.text_weight > 0 else []
    if config.text_weight > 0 and not prompts:
        raise UserError("--text-weight needs prompts: a column prompt in the --csv.")
    pairs = config.fusion != "none" and max(config.semantic_weight, config.frequency_weight) > 0
    train_set = GeneratedTrainSet(
        train,
        views=config.views,
        patch_size=config.patch_size,
        whole_size=model.whole_size,
        augmentation=view_augmentation(
            config.patch_size,
            config.color_jitter,
            native_crops=config.native_crops,
            degraded=config.degraded_views,
            rotation=config.rotation,
            blur=config.blur,
        ),
        degradation_probability=config.degradation_probability,
        longest_chain=config.longest_chain,
        pairs=pairs,
        cache=config.cache,
    )
    val_set = GeneratedTestSet(val, whole_size=model.whole_size)
    sampler = WeightedSampler(balanced_weights(train), config.seed)
    data = Data(
        make_generated_loader(train_set, config.batch_size, config.workers, sampler),
        make_generated_loader(val_set, TEST_BATCH, config.workers),
        fingerprint(images),
    )
    with process_state().main_process_first():
        texts = embed_prompts(config, prompts, cast(Spai, model)) if prompts else None
    loss = SpaiLoss(
        classification=config.classification,
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        semantic_weight=config.semantic_weight,
        frequency_weight=config.frequency_weight,
        text_weight=config.text_weight,
    )
    objective = Objective(
        step=partial(spai_step, loss, texts),
        validate=partial(
            _validate_with_parts, loss, partial(validate_spai, config=config, prompts=read_prompts(config))
        ),
        criterion="auc",
        shown=("auc", "ap", "accuracy", "tpr_at_5_fpr"),
    )

    def set_stage(epoch: int) -> bool:
        stage = "semantic" if epoch < config.stage_one_epochs else "joint"
        model.set_stage(stage, train_backbone=config.train_backbone)
        return True

    depth = 0 if isinstance(model, ResidualNetwork) else model.backbone.depth
    return fit(
        config,
        model,
        objective,
        data,
        before_epoch=set_stage,
        parameters=layer_groups(model, partial(_depth, depth), config.lr, config.weight_decay, config.layer_decay),
        some_unused=config.fusion != "none" and config.stage_one_epochs > 0,
    )


def balanced_weights(images: Sequence[LabelledImage]) -> list[float]:
    """Sampling weights with which both classes are drawn equally often."""
    generated = sum(image.generated for image in images)
    return [1 / generated if image.generated else 1 / (len(images) - generated) for image in images]


def _depth(layers: int, name: str) -> int:
    """Depth of a parameter by its name: the backbone's embedding 0, its blocks 1 to `layers`, all else one more."""
    if not name.startswith("backbone."):
        return layers + 1
    _, _, rest = name.partition(".blocks.")
    return int(rest.split(".")[0]) + 1 if rest else 0
