"""The attention gate of the original recipe: learned spatial attention on a feature map."""

from torch import Tensor, nn


class AttentionGate(nn.Module):
    """Multiply a feature map by an attention map in (0, 1) computed from it.

    1×1 convolution to half the channels, 3×3 to a quarter, 1×1 to one, sigmoid (original recipe, script 1, which leaves
    the two hidden widths open).
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        half, quarter = max(1, in_channels // 2), max(1, in_channels // 4)
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, half, kernel_size=1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, quarter, kernel_size=3, padding=1),
            nn.BatchNorm2d(quarter),
            nn.ReLU(inplace=True),
            nn.Conv2d(quarter, 1, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x`, (N, C, H, W), by its attention map, (N, 1, H, W)."""
        return x * self.conv(x)
