"""What a video says of where it comes from: words in its frames, and a signed manifest that other software reads.

The manifest's tests need c2pa-python, of 50 MB: ``python tests/ecosystem.py`` installs it and runs them.
"""

import datetime
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.mark import SHADE, draw, marked
from adaspa_worker.provenance import Provenance, ProvenanceError, Signer
from adaspa_worker.recipe import read_recipe
from chaos.workshop import bench
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

needs_c2pa = pytest.mark.skipif(find_spec("c2pa") is None, reason="c2pa-python is not installed")


def frames(width: int = 128, height: int = 128, count: int = 9) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * i, np.uint8) for i in range(count)]


def test_the_mark_is_in_the_corner_of_each_frame_and_nowhere_else() -> None:
    made = frames(256, 128)
    shown = list(marked(iter(made), "AI generated"))
    for before, after in zip(made, shown, strict=True):
        changed = np.argwhere((before != after).any(axis=2))
        assert changed[:, 0].min() > 100 and changed[:, 1].max() < 128, "the lower left"
        assert after.max() > 200, "light letters"
    assert [np.array_equal(a, b) for a, b in zip(made, frames(256, 128), strict=True)] == [True] * 9
    assert all(a is b for a, b in zip(marked(iter(made), ""), made, strict=True)), "by default nothing is drawn"


@pytest.mark.parametrize(("width", "height"), [(16, 16), (1280, 720)])
def test_the_mark_fits_into_any_frame(width: int, height: int) -> None:
    label = draw("W" * 60, width, height)
    assert label.shape[0] <= height and label.shape[1] <= width and label.any()
    assert next(marked(iter(frames(width, height, 1)), "W" * 60)).shape == (height, width, 3)


@given(st.integers(2, 400), st.integers(2, 300), st.text("AiWgj ", min_size=1, max_size=30).filter(str.strip))
def test_the_mark_is_whole_in_the_lower_left_and_dark_behind_light_letters(width: int, height: int, words: str) -> None:
    label = draw(words, width, height)
    rows, columns = label.shape[:2]
    assert 1 <= rows <= height and 1 <= columns <= width
    before = np.full((height, width, 3), 200, np.uint8)
    (after,) = marked(iter([before]), words)
    assert np.array_equal(after[:-rows], before[:-rows]) and np.array_equal(after[:, columns:], before[:, columns:])
    corner, ground = after[-rows:, :columns], int(200 * (1 - SHADE))
    assert np.array_equal(corner, np.maximum(label, ground)) and (before == 200).all()
    if columns < width and 12 <= rows < height:
        edges = [label[0], label[-1], label[:, 0], label[:, -1]]
        assert not any(edge.any() for edge in edges), "there is a margin around the letters"


def test_the_mark_grows_with_the_frame() -> None:
    rows = [draw("AI", 10 * height, height).shape[0] for height in (90, 180, 360, 720, 1440)]
    assert rows[0] == draw("AI", 900, 20).shape[0], "and is never too small to be read"
    shares = [count / height for count, height in zip(rows[1:], (180, 360, 720, 1440), strict=True)]
    assert max(shares) < 1.2 * min(shares) and 1 / 22 < min(shares) < 3 / 22


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="need each other"):
        Settings.model_validate({"provenance_certificate": "chain.pem"})
    assert Provenance.of(Settings()) == Provenance()


@pytest.mark.parametrize("timestamps", [None, "http://timestamps.example/tsa"])
def test_files_are_signed_as_the_settings_say(timestamps: str | None) -> None:
    own: dict[str, Any] = {"provenance_certificate": "chain.pem", "provenance_key": "key.pem"}
    own |= {"provenance_algorithm": "ps256", "visible_mark": "AI"} | {"provenance_timestamps": timestamps}
    found = Provenance.of(Settings.model_validate(own))
    assert found == Provenance("AI", Signer(Path("chain.pem"), Path("key.pem"), "ps256", timestamps))
    assert Provenance.of(Settings(visible_mark="AI")) == Provenance("AI")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """With a certificate of its own, by an authority of its own, as C2PA's profile has them."""
    folder = tmp_path_factory.mktemp("c2pa")
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]) for name in ("Authority", "Signer")]
    chain = b""
    for key, name, is_authority in zip(keys, names, (True, False), strict=True):
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=is_authority,
                    encipher_only=False,
                    decipher_only=False,
                    **usage,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if not is_authority:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        chain = made.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + chain
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Signer(folder / "chain.pem", folder / "key.pem", "es256")


class StandIn:
    """As much of ``c2pa`` as a worker uses: a signed file is the given one with a word before it."""

    class C2paError(Exception):
        """A signature that cannot be made."""

    def __init__(self) -> None:
        self.manifests: list[dict[str, Any]] = []
        self.secrets: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.Signer = SimpleNamespace(from_info=nullcontext)
        self.Builder = SimpleNamespace(
            get_supported_mime_types=lambda: ["video/mp4", "image/webp"], from_json=self.builder
        )

    def C2paSignerInfo(self, *secrets: Any) -> tuple[Any, ...]:
        self.secrets.append(secrets)
        return secrets

    def builder(self, manifest: str) -> Any:
        self.manifests.append(json.loads(manifest))
        return nullcontext(SimpleNamespace(sign=self.sign))

    def sign(self, signer: object, content_type: str, source: BytesIO, signed: BytesIO) -> None:
        if self.error is not None:
            raise self.error
        assert signer in self.secrets
        signed.write(f"{content_type} signed ".encode() + source.read())


@pytest.fixture
def c2pa(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setitem(sys.modules, "c2pa", made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def own_signer(tmp_path: Path) -> Signer:
    for name in ("chain", "key"):
        (tmp_path / f"{name}.pem").write_text(name)
    return Signer(tmp_path / "chain.pem", tmp_path / "key.pem", "ps256", "http://timestamps.example")


def test_a_manifest_says_what_made_the_file_and_is_signed_with_the_operators_key(
    c2pa: StandIn, own_signer: Signer
) -> None:
    for timestamps in ("http://timestamps.example", None):
        signed = replace(own_signer, timestamps=timestamps).sign("video/mp4", "video.mp4", b"content")
        assert signed == b"video/mp4 signed content"
        assert c2pa.secrets.pop() == (b"ps256", b"chain", b"key", timestamps and timestamps.encode())
        manifest = c2pa.manifests.pop()
        assert manifest["title"] == "video.mp4" and manifest["claim_generator_info"][0]["name"] == "adaspa-serve"
        (assertion,) = manifest["assertions"]
        (action,) = assertion["data"]["actions"]
        assert (assertion["label"], action["action"]) == ("c2pa.actions.v2", "c2pa.created")
        assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert own_signer.sign("video/webm", "video.webm", b"content") is None


def test_what_cannot_be_signed_says_so_before_the_first_job_and_later(
    c2pa: StandIn, own_signer: Signer, tmp_path: Path, params: Callable[..., JobParams]
) -> None:
    Provenance().check()
    Provenance(signer=own_signer).check()
    assert c2pa.manifests.pop()["title"] == "check"
    file = tmp_path / "video.mp4"
    file.write_bytes(b"content")
    c2pa.error = StandIn.C2paError("Signature: no such algorithm")
    missing = replace(own_signer, key=tmp_path / "missing.pem")
    for signer, why in ((own_signer, "cannot sign a file: C2paError: Signature"), (missing, "cannot sign .*missing")):
        for signs in (
            Provenance(signer=signer).check,
            lambda signer=signer: Provenance(signer=signer).sign(file, params()),
        ):
            with pytest.raises(ProvenanceError, match=why):
                signs()
    assert file.read_bytes() == b"content", "it stays whole"


@pytest.mark.parametrize("kind", list(OutputFormat))
def test_a_jobs_file_is_signed_in_its_place_or_its_record_says_why_not(
    c2pa: StandIn, own_signer: Signer, kind: OutputFormat
) -> None:
    with bench(provenance=Provenance(signer=own_signer)) as at:
        job = at.run(output_format=kind)
        video = at.storage.read(job.artifacts["video"].key)
        pictures = [at.storage.read(job.artifacts[name].key) for name in ("thumbnail", "spritesheet")]
    signs = kind in (OutputFormat.mp4, OutputFormat.webp)
    assert job.status == "completed" and video.startswith(f"{kind.content_type} signed ".encode()) == signs
    assert job.warnings == ([] if signs else [f"The file is not signed, because {kind} cannot hold a C2PA manifest."])
    assert len(video) == job.artifacts["video"].bytes and all(picture.startswith(b"RIFF") for picture in pictures)
    assert [manifest["title"] for manifest in c2pa.manifests] == ([f"video.{kind}"] if signs else [])


@needs_c2pa
@pytest.mark.parametrize("kind", list(OutputFormat))
def test_a_signed_file_says_that_a_model_made_it_and_keeps_its_recipe(
    signer: Signer, kind: OutputFormat, tmp_path: Path, params: Callable[..., JobParams]
) -> None:
    file, recipe = tmp_path / f"video.{kind}", {"model": "demo", "prompt": "x", "seed": 1, "attention": {}}
    size = {"width": 128, "height": 128, "fps": 8, "num_frames": 9}
    encode(frames(), VideoWriter(file, kind, **size, comment=json.dumps(recipe)))
    notes = Provenance(signer=signer).sign(file, params(output_format=kind))
    assert read_recipe(file) == recipe
    reader: Any = import_module("c2pa").Reader
    if kind is OutputFormat.webm:
        assert notes == ["The file is not signed, because webm cannot hold a C2PA manifest."]
        return
    with reader(str(file)) as found:
        assert (notes, found.get_validation_state()) == ([], "Valid")
        assert "trainedAlgorithmicMedia" in found.json() and "adaspa-serve" in found.json()
    changed = file.read_bytes()[:-40] + bytes(20) + file.read_bytes()[-20:]
    file.write_bytes(changed)
    with reader(str(file)) as found:
        assert found.get_validation_state() == "Invalid", "a change shows"


@needs_c2pa
def test_a_key_of_another_certificate_is_found_before_the_first_job(signer: Signer, tmp_path: Path) -> None:
    Provenance(signer=signer).check()
    broken = tmp_path / "key.pem"
    broken.write_text("no key")
    for key in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ProvenanceError, match="cannot be signed"):
            Provenance(signer=Signer(signer.certificate, key, "es256")).check()


def test_without_the_library_a_worker_says_what_is_missing(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    with pytest.raises(ProvenanceError, match="c2pa-python is not installed"):
        Provenance(signer=signer).check()
