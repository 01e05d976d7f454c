"""Provenance, told in the video itself: a visible mark and a signed C2PA manifest. Both are off by default.

The manifest says that a model made the video, and by which software. Any C2PA reader shows that, and whether the
file is as it was signed. It needs ``c2pa-python``.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from PIL import Image

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for it."""


class ProvenanceError(Exception):
    """Files cannot be signed; the message says why."""


@dataclass(frozen=True)
class Signer:
    """Signs files.

    Args:
        certificate: PEM file of the chain, the signer's own certificate first.
        key: PEM file of its private key (PKCS #8).
        algorithm: of the signature.
        timestamps: address of a time-stamping authority (RFC 3161), or None.
    """

    certificate: Path
    key: Path
    algorithm: str
    timestamps: str | None = None

    def sign(self, content_type: str, title: str, content: bytes) -> bytes | None:
        """Return the file with a signed manifest; None if files of its type hold none. Raises ProvenanceError."""
        c2pa = _c2pa()
        if content_type not in c2pa.Builder.get_supported_mime_types():
            return None
        action = {"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL}
        manifest = {
            "title": title,
            "claim_generator_info": [{"name": "adaspa-serve", "version": version("adaspa-serve")}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = BytesIO()
        try:
            secrets = self.certificate.read_bytes(), self.key.read_bytes()
            info = c2pa.C2paSignerInfo(self.algorithm.encode(), *secrets, self.timestamps and self.timestamps.encode())
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(json.dumps(manifest)) as builder:
                builder.sign(signer, content_type, BytesIO(content), signed)
        except (OSError, c2pa.C2paError) as error:
            raise ProvenanceError(f"cannot sign a file: {type(error).__name__}: {error}") from error
        return signed.getvalue()


@dataclass(frozen=True)
class Provenance:
    """Statement of where a worker's videos come from.

    Args:
        mark: words that are drawn into each frame; empty: none.
        signer: signs the video's file; None: it is not signed.
    """

    mark: str = ""
    signer: Signer | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the provenance that the settings ask for."""
        if settings.provenance_certificate is None or settings.provenance_key is None:
            return cls(settings.visible_mark)
        timestamps = str(settings.provenance_timestamps) if settings.provenance_timestamps else None
        signer = Signer(
            settings.provenance_certificate, settings.provenance_key, settings.provenance_algorithm, timestamps
        )
        return cls(settings.visible_mark, signer)

    def check(self) -> None:
        """Sign a picture, to find out before the first job whether that works. Raises ProvenanceError."""
        if self.signer is not None:
            picture = BytesIO()
            Image.new("RGB", (16, 16)).save(picture, "WEBP")
            self.signer.sign("image/webp", "check", picture.getvalue())

    def sign(self, file: Path, params: JobParams) -> list[str]:
        """Sign a job's file in its place, if files are signed; what is to be noted in the record.

        Raises:
            ProvenanceError: it cannot be signed.
        """
        if self.signer is None:
            return []
        signed = self.signer.sign(params.output_format.content_type, file.name, file.read_bytes())
        if signed is None:
            return [f"The file is not signed, because {params.output_format} cannot hold a C2PA manifest."]
        file.write_bytes(signed)
        return []


def _c2pa() -> Any:
    try:
        return import_module("c2pa")
    except ImportError as error:
        raise ProvenanceError("ADASPA_PROVENANCE_CERTIFICATE is set, but c2pa-python is not installed") from error
