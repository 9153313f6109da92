"""The page in the browser: drop figures, a paper or a clip; look, compare, correct, hand over. The same by HTTP.

    python app.py                                                   # then open http://127.0.0.1:7860
    python app.py --models-dir models/mine --corrections mine.jsonl
    python app.py --keep data/reviewed                              # figures that were reviewed, as training data

Figures are searched as by explain.py, and called forged as by make_submission.py: by the networks of --models-dir and
the copy-move evidence. Where no network is trained, copies alone decide, and the released network only shows what looks
altered. docs/APP.md describes the page, the file of corrections, and the HTTP API with a client of ten lines.

Nothing leaves the machine: the page loads nothing from elsewhere, and uploaded files are removed when they are read. It
listens on this machine alone unless --host says otherwise; whoever reaches it can use it.
"""

from common.process import prepare

prepare()  # before torch is imported

import ipaddress
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from common.errors import UserError, readable
from common.files import check_writable

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Where the page is served, and what it uses and writes."""

    host: str = "127.0.0.1"
    """Name or address to listen on; 0.0.0.0 for all of this machine's, so that others can use it."""
    port: int = 7860
    """Port to listen on, from 1 to 65535."""
    models_dir: Path = Path("models")
    """Folder of the networks, of scripts 1 to 8; where none of 1 to 6 is trained, those of its folder release show what
    looks altered."""
    corrections: Path = Path("outputs/corrections.jsonl")
    """File that what reviewers say of findings is added to, a line of JSON each."""
    keep: Path | None = None
    """Folder in which reviewed figures are kept, in the layout that `prepare_data.py import` reads; its folder
    authentic is for `script_2 --extra-authentic`. By default no figure is kept."""
    max_megabytes: int = 200
    """Largest file that can be dropped."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; it must be from 1 to 65535.")
        if self.max_megabytes < 1:
            raise UserError(f"--max-megabytes is {self.max_megabytes}; it must be 1 or more.")
        if not self.models_dir.is_dir():
            raise UserError(f"--models-dir {self.models_dir} is no folder. Name the folder of the networks.")
        if self.corrections.is_dir():
            raise UserError(f"--corrections {self.corrections} is a folder. Name a file in it.")
        if self.keep is not None and self.keep.exists() and not self.keep.is_dir():
            raise UserError(f"--keep {self.keep} is a file. Name a folder.")


def main(config: AppConfig) -> None:
    """Load the networks and serve the page until it is interrupted.

    Raises:
        UserError: A network can't be used, the file of corrections can't be written, or the port is taken.
    """
    check_writable(config.corrections)
    check_free(config.host, config.port)
    with tempfile.TemporaryDirectory(prefix="forgery_app_") as folder:
        # What is uploaded lies there for the moment, and is gone with the program.
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder
        try:
            serve(config)
        finally:
            tempfile.tempdir = None


def serve(config: AppConfig) -> None:
    """Load, and serve until it is interrupted."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    # Imported here: --help needs neither torch nor Gradio.
    from common.app.cases import Cases
    from common.app.models import load_models
    from common.app.page import build_page, launch
    from common.app.serving import Server

    models = load_models(config.models_dir)
    print(readable(models.said))
    server = Server(models=models, cases=Cases(), corrections=config.corrections, kept=config.keep)
    if not is_local(config.host):
        print(
            f"warning: --host {config.host} is reached from other machines: whoever reaches it can use the page, and "
            "what they drop is sent over the network without encryption",
            file=sys.stderr,
        )
    address = launch(
        build_page(server),
        host=config.host,
        port=config.port,
        most_bytes=config.max_megabytes * MEGABYTE,
        wait=False,
    )
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    wait_for_ever()


def wait_for_ever() -> None:
    """Return when the program is interrupted."""
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("the page is closed")


def is_local(host: str) -> bool:
    """Whether a name or address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_free(host: str, port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        UserError: It can't be.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} can't be listened on ({error.strerror}). Choose another port, or end the "
            "program that uses it."
        ) from error


if __name__ == "__main__":
    main(tyro.cli(AppConfig, description=__doc__))
