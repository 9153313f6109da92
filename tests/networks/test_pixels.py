import torch

from common.networks.pixels import unit_range


def test_bytes_become_shares_and_floats_stay():
    assert unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == torch.tensor([0.0, 0.2, 1.0]).tolist()
    halves = torch.tensor([0.5], dtype=torch.float16)
    assert unit_range(halves) is halves
