from common.components import connected


def test_chains_join_and_groups_are_numbered_by_their_first():
    assert connected([(4, 1), (1, 3)], 6).tolist() == [0, 1, 2, 1, 1, 3]


def test_without_pairs_each_is_alone():
    assert connected([], 3).tolist() == [0, 1, 2]
    assert connected([], 0).tolist() == []
