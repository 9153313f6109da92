"""Pretrained encoder weights, from the hub or a local file, loaded without a gap.

The hub is that of timm and segmentation-models-pytorch. A file holds a state dict with the key names of timm
(`tu-` encoders) or torchvision / segmentation-models-pytorch (the others).
"""

from pathlib import Path

from common.errors import UserError

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

HUB_TIMEOUT_S = 5
# What follows the feature maps in a classifier; a segmentation encoder has no place for it.
CLASSIFIER_PREFIXES = ("classifier.", "head.", "fc.", "_fc.", "last_linear.", "conv_head.", "bn2.", "norm_head.")


def load_encoder_weights(encoder: nn.Module, encoder_name: str, source: str) -> str:
    """Load pretrained weights into an encoder of segmentation-models-pytorch.

    Args:
        encoder: With 3 or more input channels; the first convolution's weights are adapted as timm does.
        encoder_name: As segmentation-models-pytorch spells it; `tu-…` for timm's.
        source: `imagenet` (hub or its local cache), `none`, `auto` (`imagenet`, or `none` with one printed line
            and its reason when that fails), or a file's path.

    Returns:
        What was loaded: `imagenet`, `none`, or the path.

    Raises:
        UserError: The hub or the file can't be read, or the weights are those of another encoder.
    """
    if source == "none":
        return "none"
    if source in ("imagenet", "auto"):
        try:
            weights = _download(encoder_name)
        except Exception as error:  # the hub's client, its HTTP client and timm raise kinds of their own
            if source == "auto":
                reason = _first_line(error).removesuffix(".")
                print(f"encoder weights: none for {encoder_name}, training from scratch ({reason})")
                return "none"
            raise UserError(
                f"the ImageNet weights of {encoder_name} can't be fetched ({_first_line(error)}). Give a local file "
                "with --encoder-weights PATH, or train from scratch with --encoder-weights none (or auto)."
            ) from error
        source = "imagenet"
    else:
        weights = _read(Path(source))
    _load_complete(encoder, encoder_name, weights, source)
    return source


def _download(encoder_name: str) -> dict[str, Tensor]:
    """State dict from the hub, or from its cache on this machine."""
    offline = hub.HF_HUB_OFFLINE
    # One question instead of the hub client's minute of retries: without a network the cache alone is asked.
    hub.HF_HUB_OFFLINE = offline or not _hub_answers()
    try:
        if encoder_name.startswith("tu-"):
            return timm.create_model(encoder_name.removeprefix("tu-"), pretrained=True).state_dict()
        return smp.encoders.get_encoder(encoder_name, weights="imagenet").state_dict()
    except LocalEntryNotFoundError as error:
        raise OSError("the hub can't be reached, and its cache on this machine has no such weights") from error
    finally:
        hub.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    try:
        get_session().head(hub.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:  # whatever the HTTP client of the day raises: no answer
        return False
    return True


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"--encoder-weights {path}: no such file. Give a file, or imagenet, auto or none.")
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} can't be read as a state dict ({_first_line(error)}).") from error
    except Exception as error:  # pickle's UnpicklingError is of no common kind
        raise UserError(f"{path} is no file of plain tensors ({_first_line(error)}).") from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} holds no state dict (names and tensors).")
    return weights


def _load_complete(encoder: nn.Module, encoder_name: str, weights: dict[str, Tensor], source: str) -> None:
    """Load strictly: nothing of the encoder may stay random, only a classifier may be left over."""
    target = encoder.model if encoder_name.startswith("tu-") else encoder
    own = target.state_dict()
    missing = sorted(own.keys() - weights.keys())
    surplus = sorted(key for key in weights.keys() - own.keys() if not key.startswith(CLASSIFIER_PREFIXES))
    if missing or surplus:
        raise UserError(
            f"the weights of {source} are not those of {encoder_name}: "
            f"{len(missing)} missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}."
        )
    weights = {key: weights[key] for key in own}
    for key, value in weights.items():
        if value.ndim == 4 and own[key].shape[1] != value.shape[1] == 3:
            weights[key] = timm.models.adapt_input_conv(own[key].shape[1], value)
    wrong = [f"{key} {tuple(weights[key].shape)}" for key in own if weights[key].shape != own[key].shape]
    if wrong:
        raise UserError(f"the weights of {source} do not fit {encoder_name}: {', '.join(wrong[:3])}.")
    target.load_state_dict(weights)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
