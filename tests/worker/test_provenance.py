"""What a video says of where it comes from: words in its frames, and a signed manifest that other software reads.

The manifest's tests need c2pa-python, of 50 MB: ``python tests/ecosystem.py`` installs it and runs them.
"""

import datetime
import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaspa_api.words import OutputFormat
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_worker.encode import VideoWriter, encode
from adaspa_worker.mark import draw, marked
from adaspa_worker.provenance import Provenance, ProvenanceError, Signer
from adaspa_worker.recipe import read_recipe
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
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


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="need each other"):
        Settings.model_validate({"provenance_certificate": "chain.pem"})
    assert Provenance.of(Settings()) == Provenance()


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
