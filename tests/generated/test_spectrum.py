import math

import numpy as np
import pytest
import torch

from common.generated.spectrum import FrequencySplit, circular_mask


def test_mask_of_eight():
    """Coordinates 3 2 1 0 0 1 2 3 both ways; radius 2 keeps those whose norm is below: √2 but not 2."""
    rows = ["........", "........", "..####..", "..####..", "..####..", "..####..", "........", "........"]
    expected = np.array([[cell == "#" for cell in row] for row in rows])
    np.testing.assert_array_equal(circular_mask(8, 2.0), expected)


def test_mask_is_half_a_step_off_the_zero_frequency():
    mask = circular_mask(224, 16)
    assert mask[112, 112] and mask[111, 111]
    assert torch.equal(mask, mask.flip(0, 1))
    assert mask[112, 112 + 15] and not mask[112, 112 + 16]
    assert mask[112, 112 - 16] and not mask[112, 112 - 17]


def direct_dft(image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The published split by sums over all pixels and frequencies, without any FFT."""
    size = len(image)
    steps = range(size)
    spectrum = np.zeros((size, size), complex)
    for u in steps:
        for v in steps:
            waves = [[np.exp(-2j * math.pi * (u * y + v * x) / size) for x in steps] for y in steps]
            spectrum[u, v] = (image * waves).sum()
    centred = np.roll(spectrum, (size // 2, size // 2), (0, 1))
    place = [abs(k - (size - 1) / 2) - 0.5 for k in steps]
    mask = np.array([[math.hypot(place[u], place[v]) < radius for v in steps] for u in steps])
    parts = []
    for kept in (mask, ~mask):
        back = np.roll(centred * kept, (-(size // 2), -(size // 2)), (0, 1))
        pixels = [
            [
                sum(back[u, v] * np.exp(2j * math.pi * (u * y + v * x) / size) for u in steps for v in steps)
                for x in steps
            ]
            for y in steps
        ]
        parts.append(np.real(np.array(pixels)) / size**2)
    return parts[0].clip(0, 1), parts[1].clip(0, 1)


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.0])
def test_split_is_the_direct_transform(radius):
    image = np.random.default_rng(1).random((8, 8))
    low, high = FrequencySplit(8, radius)(torch.from_numpy(image)[None])
    expected_low, expected_high = direct_dft(image, radius)
    np.testing.assert_allclose(low[0], expected_low, atol=1e-6)
    np.testing.assert_allclose(high[0], expected_high, atol=1e-6)


def test_split_is_the_published_code_at_full_size():
    image = torch.rand(2, 3, 224, 224)
    mask = circular_mask(224, 16)
    shifted = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    expected = [
        torch.fft.ifft2(torch.fft.ifftshift(shifted * kept, dim=(-2, -1))).real.clamp(0, 1) for kept in (mask, ~mask)
    ]
    for part, wanted in zip(FrequencySplit(224, 16)(image), expected, strict=True):
        torch.testing.assert_close(part, wanted, atol=1e-5, rtol=0)


def test_constant_is_low_and_a_checkerboard_is_high():
    split = FrequencySplit(32, 4)
    low, high = split(torch.full((1, 1, 32, 32), 0.25))
    torch.testing.assert_close(low, torch.full_like(low, 0.25))
    assert high.max() < 1e-6
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    low, high = split(board[None].float())
    torch.testing.assert_close(low, torch.full_like(low, 0.5))
    # The half of it that is below its mean is clamped away.
    torch.testing.assert_close(high[0], board * 0.5)


def test_nothing_is_saved():
    assert not FrequencySplit(8, 2).state_dict()
