"""Multipart form that OpenAI's clients send: texts, and files that go to disk as they come."""

from collections.abc import AsyncGenerator, Mapping

from adaspa_api.words import Kind
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway.similar_names import did_you_mean
from adaspa_service.inputs.source import too_large as file_too_large

MAX_FIELDS = 64
UTF_8 = ("utf-8", "utf8")
AS_TEXT = b'; filename=""'
"""Suffix for a part whose file is written as text, so that it goes into one too."""


class FormParser(MultiPartParser):
    """starlette's, with one limit for all texts together and one for each file of a kind.

    Args:
        headers: of the request.
        stream: its body; the last piece is empty.
        kinds: of the fields that are files, by name. Any other file is refused under its field's name.
        most_text: bytes of all other fields.
        most_of_one: bytes of an image, and of a video.

    Raises (by ``parse``):
        ApiError: 400 a file that is not taken or a text that is none, 413 too large, 415 another charset.
        MultiPartException, KeyError, ValueError: it is no form.
    """

    def __init__(
        self,
        headers: Headers,
        stream: AsyncGenerator[bytes, None],
        kinds: Mapping[str, Kind],
        most_text: int,
        most_of_one: Mapping[Kind, int],
    ) -> None:
        super().__init__(headers, stream, max_files=len(kinds) + 1, max_fields=MAX_FIELDS, max_part_size=most_text)
        self._kinds, self._most_text, self._most_of_one = kinds, most_text, most_of_one
        self._text_bytes = self._file_bytes = 0
        self._ended = False

    async def parse(self) -> FormData:
        """Parse the fields. A part that breaks off would be left out, and a file with it: such a form is refused."""
        _, options = parse_options_header(self.headers["content-type"])
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in UTF_8:
            message = f"Content-Type: charset {charset} is not supported; allowed: utf-8"
            raise ApiError(415, "unsupported_media_type", message)
        form = await super().parse()
        if not self._ended:
            raise MultiPartException("it ends before its last boundary")
        return form

    def on_end(self) -> None:
        """Note that the last boundary has come."""
        self._ended = True

    def on_headers_finished(self) -> None:
        """A part begins: a file of another field is refused before it comes."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" not in options and name in self._kinds:
            part.content_disposition = (part.content_disposition or b"") + AS_TEXT
        elif b"filename" in options and name and name not in self._kinds:
            meant = did_you_mean(name, self._kinds)
            raise bad_field(name, f"{name}: does not take a file{meant}; allowed: text", "file_not_allowed")
        self._file_bytes = 0
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """A part is whole: a text of other bytes is refused, which starlette would read as Latin-1."""
        part = self._current_part
        if part.file is None:
            try:
                part.data.decode()
            except UnicodeDecodeError as error:
                message = f"{part.field_name}: is not valid text; allowed: UTF-8"
                raise bad_field(part.field_name, message, "invalid_value") from error
        super().on_part_end()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """More of a part."""
        if self._current_part.file is None:
            self._text_bytes += end - start
            if self._text_bytes > self._most_text:
                raise too_large(self._most_text)
            return super().on_part_data(data, start, end)
        self._file_bytes += end - start
        name = self._current_part.field_name
        kind = self._kinds[name]
        most = self._most_of_one[kind]
        if self._file_bytes > (most if self._current_part.file.filename else in_base64(most)):
            why = file_too_large(most)
            raise ApiError(why.status, why.code(kind), f"{name}: {why}", name, {"Connection": "close"})
        return super().on_part_data(data, start, end)


def in_base64(most: int) -> int:
    """Return the bytes that a data URI of ``most`` bytes may take."""
    return most * 4 // 3 + most // 32 + 1024  # and line breaks, and escaped slashes in JSON


def too_large(most: int) -> ApiError:
    """413 for a body."""
    return ApiError(
        413,
        "request_too_large",
        f"the request body is too large; allowed: up to {most} bytes",
        headers={"Connection": "close"},
    )
