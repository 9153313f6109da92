"""Videos that name other files and addresses: nothing of them is opened."""

import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest

from common.errors import UserError
from common.suffixes import VIDEO_SUFFIXES
from common.video.files import open_video, read_frames, write_video

XML = '<?xml version="1.0"?>'
LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
    "hls_of_lists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{0}\n",
    "hls_with_a_key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:1,\n{0}\n',
    "hls_with_a_start": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI="{0}"\n#EXTINF:1,\n{0}\n',
    "hls_of_joined_files": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nconcat:{0}|{0}\n#EXT-X-ENDLIST\n",
    "m3u": "{0}\n",
    "concat": "ffconcat version 1.0\nfile '{0}'\n",
    "concat_with_options": "ffconcat version 1.0\nfile '{0}'\noption safe 0\nduration 1\n",
    "dash": f'{XML}<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "dash_elsewhere": f"{XML}<MPD><Location>{{0}}</Location></MPD>",
    "smil": '<smil><body><video src="{0}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
    "asf_reference": "[Reference]\nRef1={0}\n",
    "pls": "[playlist]\nFile1={0}\nNumberOfEntries=1\n",
    "xspf": f'{XML}<playlist xmlns="http://xspf.org/ns/0/"><trackList><track><location>{{0}}</location></track>'
    "</trackList></playlist>",
    "rtsp_text": "RTSPtext{0}\n",
    "quicktime_text": f'{XML}<?quicktime type="application/x-quicktime-media-link"?><embed src="{{0}}"/>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{0}\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "imf": f'{XML}<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{{0}}</Id>'
    "</CompositionPlaylist>",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{0}"/></svg>',
    "html": '<html><video src="{0}"></video></html>',
    "cue": 'FILE "{0}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "image_sequence": "{0}%03d.png",
}


@pytest.fixture(scope="module")
def asked():
    """The requests that a server got, and its address."""
    requests = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield requests, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A clip of white frames."""
    path = tmp_path_factory.mktemp("private") / "private.mp4"
    write_video(path, [np.full((48, 64, 3), 255, np.uint8)] * 5, 25)
    return path


@pytest.mark.parametrize("trick", LISTS)
def test_a_list_of_other_files_or_addresses_opens_none_of_them(asked, private, tmp_path, trick):
    requests, address = asked
    (tmp_path / "private.mp4").write_bytes(private.read_bytes())
    for suffix in sorted(VIDEO_SUFFIXES):
        for place in (f"{address}/{trick}{suffix}", str(private), f"file://{private}", "private.mp4"):
            path = tmp_path / f"a{suffix}"
            path.write_text(LISTS[trick].format(place))
            with pytest.raises(UserError, match=r"a\.\w+"):
                open_video(path)
    assert requests == []


def box(name, content):
    return struct.pack(">I", len(content) + 8) + name + content


def alias(path):
    """A reference to a file as QuickTime writes it, with the absolute path."""
    name = path.name.encode()
    head = struct.pack(">4sHHHB27s", b"\0" * 4, 150, 2, 0, len(name), name[:27].ljust(27, b"\0"))
    head = head.ljust(150, b"\0")
    absolute = str(path).encode()
    tags = struct.pack(">HH", 2, len(absolute)) + absolute + b"\0" * (len(absolute) % 2)
    return head + tags + struct.pack(">HH", 0xFFFF, 0)


@pytest.mark.parametrize("form", ["url", "file_url", "alias"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v", ".3gp"])
def test_a_video_whose_data_lie_elsewhere_opens_nothing(asked, private, tmp_path, form, suffix):
    """The table of a film's tracks says where their data lie: in the same file, or in another one."""
    requests, address = asked
    content = private.read_bytes()
    own = box(b"url ", b"\0\0\0\1")
    assert content.count(own) == 1
    other = {
        "url": box(b"url ", b"\0\0\0\0" + f"{address}/{form}{suffix}\0".encode()),
        "file_url": box(b"url ", b"\0\0\0\0" + f"file://{private}\0".encode()),
        "alias": box(b"alis", b"\0\0\0\0" + alias(private)),
    }[form]
    # The boxes around it grow as it does; the data, before them, are removed.
    place, grown = content.find(own), len(other) - len(own)
    changed = bytearray(content[:place] + other + content[place + len(own) :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = changed.find(name) - 4
        changed[start : start + 4] = struct.pack(">I", struct.unpack(">I", changed[start : start + 4])[0] + grown)
    data = changed.find(b"mdat")
    size = struct.unpack(">I", changed[data - 4 : data])[0]
    changed[data + 4 : data - 4 + size] = bytes(size - 8)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"a\.\w+"):
        list(read_frames(open_video(path), range(5)))
    assert requests == []


def test_the_tricks_work_where_nothing_forbids_them(asked, private, tmp_path):
    """What is tried above would open the other files, if the reader let it."""
    requests, address = asked
    (tmp_path / "a.mp4").write_text(LISTS["concat"].format(private))
    with av.open(str(tmp_path / "a.mp4"), options={"safe": "0"}) as container:
        assert next(container.decode(video=0)).to_ndarray(format="rgb24").mean() > 250
    (tmp_path / "b.m3u8").write_text(LISTS["hls"].format(f"{address}/a.ts"))
    options = {"protocol_whitelist": "file,http,tcp", "allowed_extensions": "ALL"}
    with pytest.raises((av.FFmpegError, OSError)):
        av.open(str(tmp_path / "b.m3u8"), options=options)
    assert requests
    requests.clear()
