from common.ensemble.members import COPY_MOVE, GENERATED, MEMBERS


def test_the_members_are_those_of_the_original_recipe():
    assert {m.name: m.weight for m in MEMBERS} == {
        "highres_no_ela": 1.5,
        "hard_negative": 1.2,
        "high_recall": 1.0,
        "enhanced_aug": 0.8,
        "ela": 0.5,
        "small_forgery_specialist": 0.8,
        "copy_move": 1.0,
        "spai": 0.0,
        "residual": 0.0,
    }
    assert [m for m in MEMBERS if m.role == "gate"] == [*GENERATED]
    assert [m.name for m in MEMBERS if m.role == "union"] == ["small_forgery_specialist"]
    assert [m.name for m in MEMBERS if m.in_channels == 4] == ["ela"]
    assert [m for m in MEMBERS if m.role == "evidence"] == [m for m in MEMBERS if m.script is None] == [COPY_MOVE]
