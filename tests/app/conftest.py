import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def copies_alone(tmp_path_factory):
    """What the app loads where no network is trained: copies decide."""
    from common.app.models import load_models

    return load_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def forged(copied_images):
    """An image with a copy."""
    return copied_images[1]


@pytest.fixture(scope="session")
def examined(copies_alone, forged):
    """The same, examined."""
    from common.app.examining import examine

    return examine(forged, copies_alone, file="forged.png", digest="ab" * 32)


@pytest.fixture
def serve(copies_alone, tmp_path):
    """Puts images into a case of a page and gives the functions that the page calls, by name, and the case's token."""
    from common.app.cases import Cases
    from common.app.reading import Dropped
    from common.app.serving import Server
    from common.app.working import work

    cases = Cases()
    server = Server(models=copies_alone, cases=cases, corrections=tmp_path / "marks.jsonl", kept=tmp_path / "kept")
    functions = {function.__name__: function for function in server.functions()}

    def serve(page: str, images: dict[str, np.ndarray]):
        files = []
        for name, image in images.items():
            path = tmp_path / page / f"{len(files)}{name[name.rfind('.') :]}"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), image[..., ::-1])
            files.append(Dropped(path, name))
        case = cases.open(page)
        assert list(work(files, copies_alone, case))

        def ask(name: str, **more: object) -> dict:
            asked = {"token": case.token, "figure": 0, "mode": "default", "threshold": 0.5}
            return functions[name](asked | more)

        return ask, case

    serve.cases, serve.functions, serve.server = cases, functions, server
    return serve
