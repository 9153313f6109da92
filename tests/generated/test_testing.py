import numpy as np
import pytest

from common.generated.scoring import Scored
from common.generated.testing import _warnings


def scored(logits, attention=0.5):
    logits = np.asarray(logits, float)
    return Scored(1 / (1 + np.exp(-logits)), logits > 0, np.full(len(logits), attention))


CLEAN = np.linspace(-3, 3, 40)


def test_a_detector_that_can_be_relied_on_gives_no_warning():
    weaker = {"none": scored(CLEAN), "jpeg": scored(CLEAN / 2)}
    assert _warnings(weaker, 0.55, attends=True) == []
    assert _warnings(weaker, float("nan"), attends=True) == []


@pytest.mark.parametrize(
    ("found", "content_auc", "said"),
    [
        ({"none": scored(CLEAN)}, 0.84, "thumbnails alone tell the classes with an AUC of 0.84"),
        ({"none": scored(CLEAN, attention=0.001)}, 0.5, "the patch attention is flat"),
        ({"none": scored(CLEAN), "webp": scored(1.01 * CLEAN)}, 0.5, "the scores after webp are those of the clean"),
    ],
)
def test_what_makes_figures_doubtful_is_said(found, content_auc, said):
    (warning,) = _warnings(found, content_auc, attends=True)
    assert warning.startswith("warning: ") and said in warning


def test_a_network_without_attention_has_none_that_is_flat():
    assert _warnings({"none": scored(CLEAN, attention=0.0)}, 0.5, attends=False) == []
