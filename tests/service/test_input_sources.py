"""Files that come as text: data URIs, however they are written, and URLs."""

import base64
import hashlib
from io import BytesIO
from unittest.mock import patch

import pytest
from adaspa_api.fields import MAX_URL_CHARS
from adaspa_api.words import Kind
from adaspa_service.inputs import source
from adaspa_service.inputs.source import InputRefused, Upload, Url, closing_all, from_text, uploaded
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 60


def taken(text: bytes, kind: Kind = Kind.image, limit: int = LIMIT) -> Upload | Url:
    return from_text(BytesIO(text), kind, limit)


def refused(text: bytes, kind: Kind = Kind.image, limit: int = LIMIT) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        taken(text, kind, limit)
    return caught.value


@given(st.binary(min_size=1, max_size=80), st.integers(1, 20), st.sampled_from([4, 8, 12, 64]))
def test_base64_is_the_same_bytes_however_it_is_broken_into_lines(content: bytes, width: int, chunk: int) -> None:
    """Up to the limit of bytes, which is that of the file and not of its text."""
    encoded = base64.b64encode(content)
    lines = b"\r\n ".join(encoded[at : at + width] for at in range(0, len(encoded), width))
    with patch.object(source, "CHUNK_BYTES", chunk):
        if len(content) > LIMIT:
            error = refused(b"data:image/png;base64," + lines)
            assert (error.status, error.too_large) == (413, True) and f"up to {LIMIT} bytes" in str(error)
            return
        found = taken(b"data:image/png;base64," + lines)
    assert isinstance(found, Upload)
    found.file.seek(0)
    assert found.file.read() == content
    assert found.identity == f"sha256:{hashlib.sha256(content).hexdigest()}"


@given(
    st.binary(min_size=1, max_size=50),
    st.integers(0, 67),
    st.sampled_from([*b"-_!%\x00\xff"]),
    st.sampled_from([4, 8]),
)
def test_base64_with_another_character_in_it_is_refused(content: bytes, at: int, other: int, chunk: int) -> None:
    encoded = bytearray(base64.b64encode(content))
    at = min(at, len(encoded) - 1)
    was, encoded[at] = encoded[at], other
    try:
        wanted = base64.b64decode(bytes(encoded), validate=True)
    except ValueError:
        wanted = None
    with patch.object(source, "CHUNK_BYTES", chunk):
        if wanted is None:
            assert "has invalid base64; allowed: " in str(refused(b"data:image/png;base64," + encoded)), was
            return
        found = taken(b"data:image/png;base64," + encoded)
    assert isinstance(found, Upload)
    found.file.seek(0)
    assert found.file.read() == wanted


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_base64_that_is_cut_off_or_goes_on_behind_its_end_is_refused(cut: int) -> None:
    whole = base64.b64encode(b"a red circle")
    for text in (whole[:-cut], base64.b64encode(b"a")[:-1] + whole, base64.b64encode(b"a") + whole):
        assert "has invalid base64" in str(refused(b"data:image/png;base64," + text))


URIS = {
    b"data:image/png;base64,YQ==": True,
    b"DATA:Image/PNG;BASE64,YQ==": True,
    b"data:image/png;charset=utf-8;name=a;base64,YQ==": True,
    b"data:image/png,YQ==": "is not a base64 data URI; allowed: a JPEG",
    b"data:,YQ==": "is not a base64 data URI",
    b"data:image/png;base64": "is not a base64 data URI",
    b"data:image/png;" + b"x" * 256 + b";base64,YQ==": "is not a base64 data URI",
    b"data:;base64,YQ==": "is ''; allowed: a JPEG",
    b"data:video/mp4;base64,YQ==": "is 'video/mp4'; allowed: a JPEG",
    b"data:imagex/png;base64,YQ==": "is 'imagex/png'; allowed: a JPEG",
    b"data:image;base64,YQ==": "is 'image'; allowed: a JPEG",
    b"data:image/png;base64,": "is empty; allowed: a JPEG",
    b"data:image/png;base64, \r\n": "is empty; allowed: a JPEG",
}


@pytest.mark.parametrize("uri", URIS, ids=str)
def test_a_data_uri_names_a_file_of_its_kind(uri: bytes) -> None:
    said = URIS[uri]
    if said is True:
        found = taken(uri)
        assert isinstance(found, Upload) and found.sha256 == hashlib.sha256(b"a").hexdigest()
    else:
        error = refused(uri)
        assert str(said) in str(error) and error.status == 400 and not error.too_large


def test_each_kind_has_its_own_data_uris_and_codes() -> None:
    for kind in Kind:
        for other in Kind:
            uri = f"data:{other}/x;base64,YQ==".encode()
            if kind is other:
                assert isinstance(taken(uri, kind), Upload)
            else:
                assert refused(uri, kind).code(kind) == f"invalid_{kind}"
        assert refused(f"data:{kind}/x;base64,YQ==".encode(), kind, 0).code(kind) == f"{kind}_too_large"


def test_a_url_is_http_and_no_longer_than_others_are() -> None:
    for scheme in ("http", "https", "HTTPS"):
        url = f"{scheme}://a.example/".ljust(MAX_URL_CHARS, "x")
        found = taken(url.encode())
        assert isinstance(found, Url) and found.url == found.identity == url
        assert f"is over {MAX_URL_CHARS} characters" in str(refused(url.encode() + b"x"))
    for text in (
        b"",
        b"ftp://a.example/",
        b"/etc/passwd",
        b"file:///etc/passwd",
        b"http:/a",
        b" http://a",
        b"\xff\xfe",
    ):
        assert "is not an image; allowed: an http or https URL, a data URI or a file" in str(refused(text))


def test_files_are_closed_whatever_becomes_of_their_request() -> None:
    uploads = [uploaded(BytesIO(content)) for content in (b"a", b"b")]
    with pytest.raises(RuntimeError), closing_all([uploads[0], Url("http://a.example/"), uploads[1]]):
        raise RuntimeError
    assert all(upload.file.closed for upload in uploads)
