"""Connected components of a list of pairs."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected(pairs: ArrayLike, count: int) -> np.ndarray:
    """Number of each item's component, int (count,), from 0 in the order of their first items.

    Args:
        pairs: Positions of items that belong together, (m, 2), in [0, count); m may be 0.
        count: Number of items.
    """
    rows, columns = np.asarray(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1] if count else np.empty(0, int)
