"""Low-pass and high-pass filter of a patch, as in SPAI."""

import torch
from torch import Tensor, nn


def circular_mask(size: int, radius: float) -> Tensor:
    """The low frequencies in a centred spectrum, bool (size, size): those closer than `radius` to its centre.

    The centre lies between four frequencies, half a step from the zero frequency, as in the published code.

    Args:
        size: Side of the spectrum, even.
        radius: In steps of the spectrum.
    """
    distance = torch.arange(size) - size // 2
    distance = torch.where(distance < 0, -1 - distance, distance).float()
    return torch.hypot(distance[:, None], distance[None, :]) < radius


class FrequencySplit(nn.Module):
    """x → low = Re IFFT(F(x)·M), high = Re IFFT(F(x)·(1 − M)), both clamped to [0, 1].

    The clamping removes half of the high pass, as in the training of the published weights. The transform of real
    numbers is 2.9 times as fast (docs/LOG.md): as x is real, Re IFFT(F·M) is IFFT(F·M'), M' the mean of M and of M
    mirrored at the zero frequency, and high is x − low.
    """

    def __init__(self, size: int, radius: float = 16.0) -> None:
        """Compute the mask for patches of `size` px, an even number."""
        super().__init__()
        mask = torch.fft.ifftshift(circular_mask(size, radius)).float()
        mirrored = mask.flip(0, 1).roll((1, 1), (0, 1))
        # Not saved, since it follows from the two numbers.
        self.register_buffer("kept", (mask + mirrored)[:, : size // 2 + 1] / 2, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low and high frequencies of x, (..., size, size), float32 in [0, 1]."""
        x = x.float()
        low = torch.fft.irfft2(torch.fft.rfft2(x) * self.kept, s=x.shape[-2:])
        return low.clamp(0, 1), (x - low).clamp(0, 1)
