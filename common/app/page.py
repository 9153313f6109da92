"""The page of the app and its API, built of Gradio's parts; what is shown in it is drawn by viewer.js."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.app.cases import Case
from common.app.examining import checked_mode, checked_threshold
from common.app.reading import Dropped, remove
from common.app.serving import Server, case_values, summary
from common.app.working import in_one_thread, work
from common.errors import UserError

NAME = "Forgery ensemble"
LABEL = "Drop figures, a paper (PDF) or a clip here, or click to choose"
HEAD = """<header class="fe-head"><h1>What is shown twice, or altered, in this figure?</h1>
<p>Drop the figures of a paper. The page marks places that show the same, and places that look pasted or redrawn, and
says how sure it is. You look, compare, and say what is right. Nothing leaves the machine that runs it.</p></header>"""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'"
)
"""Content security policy: the browser refuses what the page would load from elsewhere. Gradio needs the scripts."""
_SYSTEM = ("system-ui", "Liberation Sans", "Arial", "sans-serif")
_FOLDER = Path(__file__).parent


def uploaded(file: dict[str, Any]) -> Dropped:
    """A file as the browser, or a client of the API, names it after its upload.

    Raises:
        UserError: It was not uploaded: whoever asks may name any path.
    """
    path, name = Path(str(file.get("path"))), str(file.get("orig_name") or "")
    if Path(get_upload_folder()).resolve() not in path.resolve().parents:
        raise UserError("that is no uploaded file. Use handle_file of gradio_client.")
    return Dropped(path, name or path.name)


class Guard:
    """Middleware that sends the content security policy, and no address of the page to others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        await self._app(scope, receive, guarded)


def build_page(server: Server) -> gr.Blocks:
    """The page, and the endpoint `/examine` of its API."""

    def drop(payload: list[dict[str, Any]], request: gr.Request) -> Iterator[tuple]:
        files = [uploaded(file) for file in payload]
        case = server.cases.open(request.session_hash or "")
        try:
            for step in in_one_thread(work(files, server.models, case)):
                yield summary(case, server.models, step), gr.skip()
        finally:
            remove(files)
        server.cases.shrink()
        yield summary(case, server.models), None

    def examine(file: dict, mode: str = "default", threshold: float = 0.5) -> dict:
        """Examine an image, the figures of a PDF, or a clip.

        Args:
            file: From `gradio_client.handle_file`.
            mode: high-precision, balanced, default, high-recall or max-recall.
            threshold: Score from which findings are given, and count.
        """
        try:
            dropped = uploaded(file)
            try:
                chosen, least, case = checked_mode(mode), checked_threshold(threshold), Case()
                for _ in in_one_thread(work([dropped], server.models, case)):
                    pass
                return case_values(case, server.models, chosen, least)
            finally:
                remove([dropped])
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def leave(request: gr.Request) -> None:
        server.cases.close(request.session_hash or "")

    with gr.Blocks(title=NAME, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(HEAD)
        field = gr.File(label=LABEL, file_count="multiple", height=130, elem_id="drop")
        queue = gr.HTML(elem_id="queue")
        viewer = gr.HTML(
            None,
            html_template='<div class="fe-viewer"></div>',
            js_on_load=(_FOLDER / "viewer.js").read_text(encoding="utf-8"),
            server_functions=server.functions(),
            elem_id="viewer",
        )
        field.upload(
            drop,
            field,
            [viewer, field],
            preprocess=False,  # which would leave an empty file for each one
            concurrency_id="examine",
            concurrency_limit=1,
            show_progress="minimal",
            show_progress_on=queue,
            api_visibility="private",
        )
        page.unload(leave)
        gr.api(examine, api_name="examine", concurrency_id="examine", concurrency_limit=1)
    return page


def launch(page: gr.Blocks, *, host: str, port: int | None, most_bytes: int, wait: bool = True) -> str:
    """Serve the page; its address.

    Args:
        page: From `build_page`.
        host: Name or address that it listens on.
        port: None for the first free one from 7860 on.
        most_bytes: Of an uploaded file.
        wait: Until it is interrupted.

    Raises:
        OSError: The port is taken.
    """
    page.queue(max_size=100)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        run_history=False,
        footer_links=["api"],
        max_file_size=most_bytes,
        app_kwargs={"middleware": [Middleware(Guard)]},
        enable_monitoring=False,
        state_session_capacity=100,
        theme=gr.themes.Default(font=list(_SYSTEM), font_mono=["ui-monospace", "Liberation Mono", "monospace"]),
        css=(_FOLDER / "viewer.css").read_text(encoding="utf-8"),
        prevent_thread_lock=True,
    )
    if wait:
        page.block_thread()
    return address
