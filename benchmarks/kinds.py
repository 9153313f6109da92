"""Fits the model that tells blots from other pictures of a figure, micrographs and photographs.

    python -m benchmarks.kinds FIGURES PHOTOGRAPHS MICROGRAPHS    # writes common/figures/kind_model.py

Learned from the panels of `benchmarks/outlines.json`, from photographs and micrographs, at sizes as in figures, and
from drawn blots and cells. Prints what models that have not seen a paper say of its panels.
"""

from common.process import prepare

prepare()  # before torch is imported

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from common.data.images import find_images, read_image
from common.figures.appearance import LARGEST, measures
from common.figures.panels import WORKING_SIDE
from common.making.drawing import draw_blot, draw_cells, draw_gel

OUTLINES = Path(__file__).parent / "outlines.json"
MODEL = Path(__file__).parents[1] / "common" / "figures" / "kind_model.py"
PICTURES = ("micrograph", "blot", "photograph")
MOST = 10  # panels of a kind from one figure: 80 wells of one plate say no more than 10
SIDES = 70, 420  # pixels of a panel in a figure of 1000
TOTAL = 500  # weight of the examples of a class
REGULARISATION = 0.01  # inverse; chosen by papers held out, as the next
OUTLINED = 3.0  # weight of an outlined panel by that of another example


def fit(
    figures: tyro.conf.Positional[Path],
    photographs: tyro.conf.Positional[Path],
    micrographs: tyro.conf.Positional[Path],
) -> None:
    """Fit the model, print what it says of papers held out, and write its constants.

    Args:
        figures: With images/ and index.csv, of columns file and group (a paper).
        photographs: Folder of photographs.
        micrographs: Folder of micrographs.
    """
    rng = np.random.default_rng(0)
    cv2.setNumThreads(1)
    examples = [*_outlined(figures)]
    papers = np.array([paper for _, _, paper in examples])
    examples += [(_as_panel(read_image(path), rng), "photograph", "") for path in find_images(photographs).values()]
    for path in find_images(micrographs).values():
        field = read_image(path)
        examples += [(_as_panel(picture, rng), "micrograph", "") for picture in (field, _recoloured(field, rng))]
    for number in range(200):
        draw = draw_blot if number % 3 else draw_gel
        width = int(rng.integers(300, 840))
        height = max(64, int(width * rng.choice([0.15, 0.25, 0.35, 0.6, 1, 1.2])))
        examples.append((_as_panel(_rgb(draw(height, width, rng)), rng), "blot", ""))
    examples += [(_as_panel(_rgb(draw_cells(300, 300, rng)), rng), "micrograph", "") for _ in range(60)]

    table = pd.DataFrame([measures(picture) for picture, _, _ in examples])
    kinds = np.array([kind for _, kind, _ in examples])
    papers = np.append(papers, np.full(len(examples) - len(papers), ""))
    outlined = papers != ""
    odds = _held_out(table.to_numpy(), kinds == "blot", papers)
    print(f"{pd.Series(kinds).value_counts().to_dict()}\noutlined panels of papers held out, called blots:")
    print(pd.crosstab(kinds[outlined], odds[outlined] > 0, rownames=["outlined"], colnames=["blot"]).to_string())

    names = ", ".join(f'"{name}"' for name in table.columns)
    weights = ", ".join(f"{value:.4g}" for value in _fitted(table.to_numpy(), kinds == "blot", outlined))
    MODEL.write_text(
        '"""Constants of the model of blots, written by benchmarks/kinds.py."""\n\nimport numpy as np\n\n'
        f'FEATURES = ({names},)\nBLOT = np.array([{weights}])\n"""Weights of the features, and the intercept."""\n',
        encoding="utf-8",
    )


def _outlined(figures: Path) -> Iterator[tuple[np.ndarray, str, str]]:
    """Pictures outlined by hand, at the size at which panels are found, with their kinds and papers."""
    index = pd.read_csv(figures / "index.csv")
    papers = {Path(file).name: str(group) for file, group in zip(index.file, index.group, strict=True)}
    for name, panels in json.loads(OUTLINES.read_text(encoding="utf-8")).items():
        image = read_image(figures / "images" / name)
        scale = min(1.0, WORKING_SIDE / max(image.shape[:2]))
        for kind in PICTURES:
            for panel in [panel for panel in panels if panel["kind"] == kind][:MOST]:
                x, y, width, height = panel["box"]
                part = image[y : y + height, x : x + width]
                size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
                yield cv2.resize(part, size, interpolation=cv2.INTER_AREA), kind, papers[name]


def _as_panel(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of a picture as it may be printed: small, often as JPEG, some with a letter and a scale bar."""
    high, wide = (int(side * rng.uniform(0.5, 1)) for side in picture.shape[:2])
    y, x = (int(rng.integers(0, side - part + 1)) for side, part in zip(picture.shape, (high, wide), strict=False))
    scale = min(float(np.exp(rng.uniform(*np.log(SIDES)))) / max(high, wide), 1.5)
    size = max(12, round(wide * scale)), max(12, round(high * scale))
    panel = cv2.resize(
        picture[y : y + high, x : x + wide], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    if rng.random() < 0.4:
        ink = (255, 255, 255) if panel.mean() < 140 else (0, 0, 0)
        left, right, row = int(0.7 * size[0]), int(0.95 * size[0]), int(0.92 * size[1])
        cv2.rectangle(panel, (left, row), (right, row + max(1, size[1] // 60)), ink, -1)
        cv2.putText(panel, "b", (4, max(12, size[1] // 8)), cv2.FONT_HERSHEY_SIMPLEX, max(0.3, size[1] / 400), ink)
    if rng.random() < 0.7:
        coded = cv2.imencode(".jpg", panel, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 97))])[1]
        panel = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return panel


def _recoloured(field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A micrograph in gray; one with a dark ground in one or two channels, or in colours of heat."""
    gray = cv2.cvtColor(field, cv2.COLOR_RGB2GRAY)
    if gray.mean() >= 110 or rng.random() < 0.3:
        return _rgb(gray)
    bright = np.clip(gray * (255 / max(np.percentile(gray, 99.5), 30)), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        return cv2.applyColorMap(bright, int(rng.choice([cv2.COLORMAP_HOT, cv2.COLORMAP_INFERNO])))[..., ::-1].copy()
    merged = np.zeros_like(field)
    merged[..., rng.integers(3)] = bright
    if rng.random() < 0.4:
        merged[..., rng.integers(3)] = bright[::-1]
    return merged


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def _fitted(features: np.ndarray, blot: np.ndarray, outlined: np.ndarray) -> np.ndarray:
    """Weights of a logistic model on features as they are, and its intercept last, float64 (features + 1,)."""
    weights = np.where(outlined, OUTLINED, 1.0)
    for which in (blot, ~blot):
        weights[which] *= TOTAL / weights[which].sum()
    values = features.clip(-LARGEST, LARGEST)
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(C=REGULARISATION, max_iter=5000).fit(scaler.transform(values), blot, weights)
    slopes = model.coef_[0] / scaler.scale_
    return np.append(slopes, model.intercept_[0] - slopes @ scaler.mean_)


def _held_out(features: np.ndarray, blot: np.ndarray, papers: np.ndarray) -> np.ndarray:
    """Log odds of the outlined panels by models that have not seen their paper, 0 for all other examples."""
    odds = np.zeros(len(features))
    for paper in set(papers) - {""}:
        held = papers == paper
        weights = _fitted(features[~held], blot[~held], papers[~held] != "")
        odds[held] = features[held].clip(-LARGEST, LARGEST) @ weights[:-1] + weights[-1]
    return odds


if __name__ == "__main__":
    tyro.cli(fit, description=__doc__)
