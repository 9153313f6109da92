import base64
import io

import jinja2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from common.html import filled, picture_uri, plot_uri


def test_what_a_page_is_filled_with_is_text(tmp_path):
    (tmp_path / "t.html").write_text("{{ a }}|{{ name(a) }}|{{ count(n, 'image', 'images') }}|{{ n }}|{{ '<' }}")
    hostile = "<b>{{ 7 * 7 }}&\x1b[31m\u200f\udce9"
    shown = r"&lt;b&gt;{{ 7 * 7 }}&amp;\x1b[31m\u200f\xe9"
    page = filled(tmp_path / "t.html", a=hostile, n=1200)
    assert page == f'{shown}|<bdi class="name">{shown}</bdi>|1,200 images|1200|&lt;'
    with pytest.raises(jinja2.UndefinedError):
        filled(tmp_path / "t.html", n=1)


def test_a_template_extends_the_base(tmp_path):
    (tmp_path / "t.html").write_text(
        "{% extends 'base.html' %}{% block title %}{{ a }}{% endblock %}{% block body %}{{ a }}{% endblock %}"
    )
    page = filled(tmp_path / "t.html", a="</title>")
    assert "default-src 'none'" in page and page.count("&lt;/title&gt;") == 2 and page.count("</title>") == 1


def opened(uri):
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)


def test_a_picture_keeps_its_colours_and_both_limits():
    red = np.zeros((30, 40, 3), np.uint8)
    red[..., 0] = 200
    small = opened(picture_uri(red, most_wide=100, most_bytes=10_000))
    assert small.shape == red.shape and abs(small - red).max() < 8
    assert opened(picture_uri(np.tile(red, (10, 10, 1)), most_wide=100, most_bytes=10_000)).shape == (75, 100, 3)
    noise = np.random.default_rng(0).integers(0, 256, (500, 400, 3), dtype=np.uint8)
    uri = picture_uri(noise, most_wide=400, most_bytes=20_000)
    assert len(uri) < 20_000 * 4 / 3 + 100 and opened(uri).shape[1] < 400


def test_a_plot_is_an_svg_without_a_date():
    figure = Figure()
    figure.subplots().plot([0, 1])
    head, data = plot_uri(figure).split(",")
    assert head == "data:image/svg+xml;base64"
    text = base64.b64decode(data).decode()
    assert "<svg" in text and "<path" in text and "<dc:date>" not in text
