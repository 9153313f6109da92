"""What belongs together when some pairs do."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected(pairs: np.ndarray, count: int) -> np.ndarray:
    """Number of each thing's group, int (count,): those that a chain of pairs joins have the same.

    Args:
        pairs: Positions (m, 2), in [0, count); none may be given.
        count: Of the things. Groups are numbered from 0 in the order of their first thing.
    """
    rows, columns = np.asarray(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1] if count else np.empty(0, int)
