"""Speed and memory of SPAI's features of patches, compared with a straightforward computation.

    python -m benchmarks.spai_speed

Plain: the complex transform with its shifts, two transforms back, one pass of the backbone each for x, low and high,
and the tokens of all blocks kept until the statistics are taken. Ours: `Spai.patch_features`. Both have the same random
weights, and their features are checked to be the same. Ratios above 1 are faster or smaller; speed is the median of
interleaved rounds; peaks of memory are measured in a process of their own (Linux), from after its first patch.
"""

from common.process import prepare

prepare()  # before torch is imported

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import high_water
from common.generated.config import SpaiConfig
from common.generated.network import Spai
from common.generated.spectrum import circular_mask
from common.generated.training import architecture
from common.tables import markdown_table

QUICK = SpaiConfig(name="quick").published().quick()
FULL = SpaiConfig(name="full").published()
# All 12 blocks would take minutes, and only the tokens of one are held at a time.
TWO_BLOCKS = replace(FULL, backbone_depth=2)
CASES = (("quick profile", QUICK, 256, 7), ("ViT-B/16", FULL, 8, 3))
"""Name, configuration, number of patches, rounds."""
SPLIT_ROUNDS = 9
IMAGE, BATCHES = (3000, 4000), (8, 32)


def main() -> None:
    """Compare the features, measure time and memory, print the tables."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    speed, memory = [], []
    for name, config, count, rounds in CASES:
        network, x = _prepared(config, count)
        plain, ours = _race(partial(_plain_split, x, config.mask_radius), partial(network.split, x), SPLIT_ROUNDS)
        speed.append([f"{name}: split of {count} patches", *_rates(plain, ours, count)])
        plain_way, our_way = (partial(way, config, network, x) for way in (_plain_features, _features))
        plain, ours = _race(plain_way, our_way, rounds)
        speed.append([f"{name}: features of {count} patches", *_rates(plain, ours, count)])
        plain, ours = (_in_a_process(_peak_of_features, way, config, count) for way in (_plain_features, _features))
        memory.append([f"{name}: features of {count} patches", *map(_mb, (plain, ours)), f"{plain / ours:.2f}×"])
    print(markdown_table(["patches a second", "plain", "ours", "ratio"], speed), end="\n\n")
    print(markdown_table(["peak memory", "plain", "ours", "ratio"], memory), end="\n\n")
    rows = [[f"{batch} patches at a time", _mb(_in_a_process(_peak_of_image, batch))] for batch in BATCHES]
    print(markdown_table([f"{IMAGE[1]} × {IMAGE[0]} px scored, two blocks of ViT-B/16", "peak memory"], rows))


def _prepared(config: SpaiConfig, count: int) -> tuple[Spai, Tensor]:
    """The network in evaluation mode, after its first patch, and patches (count, 3, S, S)."""
    torch.manual_seed(0)
    network, x = Spai(**architecture(config)).eval(), torch.rand(count, 3, config.patch_size, config.patch_size)
    _features(config, network, x[:1])
    return network, x


@torch.inference_mode()
def _features(config: SpaiConfig, network: Spai, x: Tensor) -> Tensor:
    return network.patch_features(x)[0]


@torch.inference_mode()
def _plain_features(config: SpaiConfig, network: Spai, x: Tensor) -> Tensor:
    backbone = network.backbone
    stacked = [  # (N, L, T, D) of x, low and high
        torch.stack([backbone.patch_tokens(sequence) for sequence in backbone.blocks(part)], dim=1)
        for part in (x, *_plain_split(x, config.mask_radius))
    ]
    x, low, high = (
        torch.stack([project(tokens[:, layer]) for layer, project in enumerate(network.projectors)], dim=1)
        for tokens in stacked
    )
    cosines = [F.cosine_similarity(*pair, dim=-1) for pair in ((x, low), (x, high), (low, high))]
    context = network.context(torch.cat([x.mean(2), x.std(2)], dim=-1))
    return torch.cat([*(part for cosine in cosines for part in (cosine.mean(-1), cosine.std(-1))), context], dim=1)


def _plain_split(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    mask = circular_mask(x.shape[-1], radius).float()
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    low, high = (torch.fft.ifft2(torch.fft.ifftshift(spectrum * kept, dim=(-2, -1))).real for kept in (mask, 1 - mask))
    return low.clamp(0, 1), high.clamp(0, 1)


def _race(plain: Callable, ours: Callable, rounds: int) -> tuple[float, float]:
    """Median seconds of both, after a check that their results are the same."""
    torch.testing.assert_close(plain(), ours(), rtol=0, atol=1e-4)
    times = ([], [])
    for _ in range(rounds):
        for way, taken in zip((plain, ours), times, strict=True):
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def _rates(plain: float, ours: float, count: int) -> list[str]:
    return [f"{count / plain:.1f}", f"{count / ours:.1f}", f"{plain / ours:.2f}×"]


def _in_a_process(function: Callable[..., float], *arguments) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _peak_of_features(way: Callable, config: SpaiConfig, count: int) -> float:
    network, x = _prepared(config, count)
    return _peak(partial(way, config, network, x))


def _peak_of_image(batch: int) -> float:
    network, _ = _prepared(TWO_BLOCKS, 1)
    image = torch.randint(0, 256, (3, *IMAGE), dtype=torch.uint8)
    return _peak(partial(network.score_images, [image], batch=batch))


def _peak(work: Callable) -> float:
    """Peak memory of the process during `work`, in MB, beyond the peak before."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = high_water()
    work()
    return high_water() - before


def _mb(value: float) -> str:
    return f"{value:.0f} MB"


if __name__ == "__main__":
    main()
