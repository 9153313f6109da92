import numpy as np
import pytest


@pytest.fixture
def finds(monkeypatch):
    """Makes the detector find a square in the bright images, with this score, and nothing in the others."""
    from common.ensemble import ensemble
    from common.ensemble.evidence import Evidence

    def finds(score):
        def look(images, workers):
            for image in images:
                mask = np.zeros(image.shape[:2], bool)
                if image.mean() > 128:
                    mask[2:6, 3:9] = True
                    prob = np.where(mask, np.float16(score), np.float16(0))
                    yield Evidence(prob=prob, groups=(mask,), score=score, inliers=20, area_share=float(mask.mean()))
                else:
                    yield Evidence(prob=np.zeros((1, 1), np.float16))

        monkeypatch.setattr(ensemble, "gather", look)

    return finds
