import pytest

from common.sizes import size_of


@pytest.mark.parametrize(
    ("share", "size"),
    [
        (0.0001, "tiny"),
        (0.00499, "tiny"),
        (0.005, "small"),
        (0.0199, "small"),
        (0.02, "medium"),
        (0.05, "large"),
        (0.0999, "large"),
        (0.10, "xlarge"),
        (1.0, "xlarge"),
    ],
)
def test_limits(share, size):
    assert size_of(share) == size
