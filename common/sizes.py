"""The five names for the size of a forgery, by the share of the image that it covers."""

from bisect import bisect_right

# Upper limits of tiny, small, medium and large as shares of the image area; the limit itself belongs to the
# next larger size. The competition's data has about a quarter, a quarter, 16 %, 20 % and 15 % of its
# forgeries in the five.
LIMITS = (0.005, 0.02, 0.05, 0.10)
SIZES = ("tiny", "small", "medium", "large", "xlarge")


def size_of(area_share: float) -> str:
    """Name of the size for an area share in (0, 1]."""
    return SIZES[bisect_right(LIMITS, area_share)]
