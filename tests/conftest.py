from common.process import prepare

prepare()  # as a program does, before torch is imported

import base64
import io
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
COPIED = np.s_[20:84, 16:96], np.s_[110:174, 150:230]


@pytest.fixture
def shared_data() -> Path:
    """The real data sets beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory) -> Path:
    """A data folder with ten pairs, authentic and forged: grey noise with a bright pasted square, 72×96."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for label in ("authentic", "forged"):
        (folder / "train_images" / label).mkdir(parents=True)
    (folder / "train_masks").mkdir()
    for number in range(10):
        image = rng.integers(60, 120, (72, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"train_images/authentic/{number}.png"), image)
        side, top, left = 6 + 4 * number, int(rng.integers(20)), int(rng.integers(40))
        mask = np.zeros((1, 72, 96), np.uint8)
        mask[:, top : top + side, left : left + side] = 1
        image[mask[0] > 0] = 250
        cv2.imwrite(str(folder / f"train_images/forged/{number}.png"), image)
        np.save(folder / f"train_masks/{number}.npy", mask)
    return folder


@pytest.fixture(scope="session")
def copied_images() -> list[np.ndarray]:
    """Four images, uint8 (192, 256, 3), of blurred noise; in the second and fourth, a part is copied elsewhere."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(4):
        image = cv2.GaussianBlur(rng.integers(0, 256, (192, 256, 3), dtype=np.uint8), (0, 0), 1.5)
        image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
        if number % 2:
            image[COPIED[1]] = image[COPIED[0]]
        images.append(image)
    return images


@pytest.fixture(scope="session")
def copied_mask() -> np.ndarray:
    """Source and copy in the second and fourth of `copied_images`, bool (192, 256)."""
    mask = np.zeros((192, 256), bool)
    mask[COPIED[0]] = mask[COPIED[1]] = True
    return mask


@pytest.fixture(scope="session")
def run_program():
    """Run a program of the repository as a user does: its arguments, its output, its exit status."""

    def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture
def torch_threads():
    """Sets how many threads torch has, until the test ends."""
    import torch

    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def save_network():
    """Writes a tiny segmentation network as a training script does, with other values of its configuration if given.

    Its weights are random, by their seed, the last ones so many times as large; or its logit is one everywhere.
    """
    import torch

    from common.networks.segmentation import build_network
    from common.training.checkpoint import save_checkpoint

    sizes = {"encoder_name": "tu-mobilenetv3_small_100", "decoder_channels": 32, "segmentation_channels": 32}
    common = sizes | {"in_channels": 3, "image_size": 64, "folds": 2, "fold_seed": 0, "fold": 0, "seed": 0}

    def save(
        path: Path, logit: float | None = None, data: str = "d", weights: int = 0, scale: float = 1, **values: object
    ) -> Path:
        config = common | values
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(weights)
            network = build_network(config)
            head = network.head[0]
            head.weight *= scale if logit is None else 0
            if logit is not None:
                head.bias.fill_(logit)
        checkpoint = {"model_state_dict": network.state_dict(), "config": config, "fold": config["fold"], "epoch": 0}
        checkpoint |= {"best_dice": 0.1, "metrics": {}, "data_fingerprint": data}
        save_checkpoint(checkpoint | {"threshold": 0.25, "calibration": {"slope": 1.0, "intercept": 0.0}}, path)
        return path

    return save


@pytest.fixture(scope="session")
def save_detector():
    """Writes a tiny detector of generated images, all weights random, with other fields if any are given."""
    # Not above: most tests need no network.
    from dataclasses import replace

    import torch

    from common.generated.config import SpaiConfig
    from common.generated.network import Spai
    from common.generated.training import architecture
    from common.training.checkpoint import save_checkpoint

    sizes = {"backbone_depth": 1, "backbone_width": 32, "backbone_heads": 2, "early_fusion_layers": (1,)}
    sizes |= dict.fromkeys(("projection_dim", "attention_dim", "fusion_width"), 16)
    config = replace(SpaiConfig(name="spai_fusion").quick(), **sizes)

    def save(path: Path, **fields: object) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Spai(**architecture(config))
            for parameter in model.parameters():
                if parameter.ndim > 1:  # as it begins, all images have nearly the same logit
                    torch.nn.init.normal_(parameter, std=0.2)
        # Its logits lie about -2.5.
        checkpoint = {"calibration": {"slope": 3.0, "intercept": 7.5}, "prompts": []}
        # Enough for verdicts at 5 %: below 0.4 it is real, above 0.6 generated.
        checkpoint["validation"] = {"probs": [0.6] * 19 + [0.4] * 19, "generated": [False] * 19 + [True] * 19}
        checkpoint |= {"model_state_dict": model.state_dict(), "epoch": 0, "best_auc": 0.5, "config": config.plain()}
        save_checkpoint(checkpoint | {"metrics": {"auc": 0.5}, "target_fpr": 0.05} | fields, path)
        return path

    return save


@pytest.fixture(scope="session")
def save_residual():
    """Writes a tiny network of residuals, all weights random, with other fields if any are given."""
    from dataclasses import replace

    import torch

    from common.generated.config import SpaiConfig
    from common.generated.residual import ResidualNetwork
    from common.training.checkpoint import save_checkpoint

    config = replace(SpaiConfig(name="residual").residual().quick(), residual_width=4)

    def save(path: Path, **fields: object) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ResidualNetwork(patch_size=64, patch_stride=64, residual_width=4)
        checkpoint = {"calibration": {"slope": 1.5, "intercept": -3.0}, "prompts": []}
        checkpoint["validation"] = {"probs": [0.6] * 19 + [0.4] * 19, "generated": [False] * 19 + [True] * 19}
        checkpoint |= {"model_state_dict": model.state_dict(), "epoch": 0, "best_auc": 0.5, "config": config.plain()}
        save_checkpoint(checkpoint | {"metrics": {"auc": 0.5}, "target_fpr": 0.05} | fields, path)
        return path

    return save


@pytest.fixture(scope="session")
def save_video_detector():
    """Writes a tiny detector of deepfake videos, all weights random, with other fields if any are given."""
    import torch

    from common.training.checkpoint import save_checkpoint
    from common.video.config import VideoConfig
    from common.video.network import SPOTTER_FIELDS, TemporalCNNGRU

    sizes = {"encoder_name": "mobilenetv3_small_100", "image_size": 64, "frames": 6, "hidden": 16}
    sizes |= {"threshold": 0.5, "min_coverage": 0.3}
    plain = VideoConfig(name="deepfake_video", **sizes).plain()

    def save(path: Path, config: dict[str, object] | None = None, **fields: object) -> Path:
        values = plain | (config or {})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TemporalCNNGRU(**{field: values[field] for field in SPOTTER_FIELDS if field in values})
            for name, parameter in model.named_parameters():
                # As they begin, fusion and attention say nothing, and the head nearly nothing.
                if parameter.ndim > 1 and not name.startswith("features.backbone"):
                    torch.nn.init.normal_(parameter, std=0.2)
        checkpoint = {"model_state_dict": model.state_dict(), "epoch": 0, "best_auc": 0.5, "config": values}
        checkpoint |= {"metrics": {"auc": 0.5}, "calibration": {"slope": 1.5, "intercept": -0.5}}
        save_checkpoint(checkpoint | fields, path)
        return path

    return save


@pytest.fixture(scope="session")
def pictures():
    """What each axes of a figure shows, uint8 (h, w, 3), cut out of the saved picture; and the picture."""

    def cut_out(figure):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        page = np.asarray(Image.open(file).convert("RGB"))
        height, width = page.shape[:2]
        cut = []
        for axes in figure.axes:
            box = axes.get_position()
            rows = slice(round((1 - box.y1) * height), round((1 - box.y0) * height))
            cut.append(page[rows, round(box.x0 * width) : round(box.x1 * width)])
        return cut, page

    return cut_out


class Report(HTMLParser):
    """What a `report.html` holds, as a browser reads it; it fails where that would run or load anything."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[np.ndarray] = []  # uint8 (h, w, 3) BGR
        self.names: list[str] = []  # of files
        self.findings: list[dict] = []  # with `title`, `sentence`, `text`, and number of `images`
        self._texts: dict[str, list[str]] = {"body": []}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = self._joined("body")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        known = {"id", "class", "lang", "charset", "http-equiv", "content", "name", "src", "alt", "href"}
        assert given.keys() <= known and tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert given.get("http-equiv", "Content-Security-Policy") == "Content-Security-Policy"
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        if "href" in given:
            assert tag == "a" and given["href"].startswith("#")
            self.links.append(given["href"])
        if tag == "article":
            self.findings.append({"images": 0})
            self._texts["article"] = []
        if tag in ("h3", "bdi") or given.get("class") == "sentence":
            self._texts[tag] = []
        if tag == "img":
            head, data = given["src"].split(",")
            assert head == "data:image/jpeg;base64"
            self.images.append(cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), 1))
            self.findings[-1]["images"] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "bdi":
            self.names.append("".join(self._texts.pop(tag)))
        elif tag in self._texts and self.findings:
            key = {"h3": "title", "p": "sentence", "article": "text"}.get(tag)
            if key:
                self.findings[-1][key] = self._joined(tag)
                del self._texts[tag]

    def handle_data(self, data: str) -> None:
        if "body" in self._open:
            for parts in self._texts.values():
                parts.append(data)

    def _joined(self, tag: str) -> str:
        return " ".join("".join(self._texts[tag]).split())


@pytest.fixture(scope="session")
def read_page():
    """Reads the page that `explain.py` writes."""
    return Report


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright for Python: pip install playwright"
    )
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of a browser, with what it asked for, what it said, and what was refused."""

    def __init__(self, browser) -> None:
        self.page = browser.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.refused: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("requestfailed", lambda request: self.refused.append(request.failure))

    def opened(self, file: Path) -> list[int]:
        """The widths of the pictures of a page that is opened from disk."""
        self.page.goto(file.as_uri())
        return self.page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")

    def asks_nothing(self, file: Path) -> None:
        """The page asked for itself alone, and if a name ever got through as markup, the browser would still refuse."""
        assert self.asked == [file.as_uri()] and not self.said and not self.refused
        self.page.set_content(file.read_text().replace("<header>", "<img src='http://127.0.0.1:9/x.png'><header>"))
        assert self.refused == ["csp"]


@pytest.fixture
def watched(browser) -> Watched:
    """A page of a browser that is watched."""
    return Watched(browser)
