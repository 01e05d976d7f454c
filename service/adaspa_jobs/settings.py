"""Settings of the gateway and workers, read from ``ADASPA_*`` environment variables."""

import binascii
import re
from base64 import b64decode
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from adaspa_api.headers import fits_into_a_header
from adaspa_api.words import Kind
from pydantic import BeforeValidator, Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from adaspa_jobs.redis_url import RedisAddress

PREFIX = "ADASPA_"
SECRET = frozenset(
    {"redis_url", "open_token", "bootstrap_key", "signing_secret", "webhook_secrets", "prompt_check_token"}
)
"""Fields whose values never appear in messages."""
SECRET_PREFIX = "whsec_"
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")
HOST_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """An environment variable has an invalid value; the message is one line that names it."""


def split(value: object) -> object:
    """Split a comma-separated string."""
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Settings of a service, each read from ``ADASPA_<NAME>``. The defaults suit a single machine."""

    # The descriptions make the table of docs/settings.md: make field-tables.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    redis_url: str = Field(default="redis://127.0.0.1:6379/0")
    """Address of the Redis or Valkey server; Redis Cluster is not supported.
    ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://`` for TLS, ``unix:///PATH?db=0``,
    ``redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB``. If unset, ``adaspa serve`` starts its own server.
    [URL options](operations.md#redis)."""
    storage_url: str = Field(default="./data/objects", min_length=1)
    """Storage of videos and checkpoints: a folder, or ``file:///...``, ``s3://bucket/prefix``, ``gs://...``,
    ``az://...``, ``memory:///``. If unset, ``adaspa serve`` uses ``objects`` in its data folder."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Seconds between checkpoints of a running job; 0 means every step. A stopping worker also writes a checkpoint."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Also write a checkpoint after this many denoising steps. Unset: only ``ADASPA_CHECKPOINT_SECONDS`` applies."""
    upload_retry_seconds: float = Field(default=120.0, ge=0)
    """Seconds that a worker waits for unavailable storage before it returns the job to the queue."""
    fail_blank: bool = False
    """``true``: fail a job with ``blank_clip`` if more than half of its frames are a single colour, or only black and
    white. ``false``: complete it with a warning, because the prompt may have asked for such frames."""
    visible_mark: str = Field(default="", max_length=60)
    """Text, such as ``AI generated``, to draw in the lower left corner of each frame. Empty: none."""
    provenance_certificate: Path | None = None
    """PEM file with the certificate chain, signer first, for signing each video file (C2PA). Unset: files are not
    signed. Requires ``c2pa-python``. [How to set it up](ecosystem.md#where-a-video-comes-from)."""
    provenance_key: Path | None = None
    """PEM file with the certificate's private key (PKCS #8)."""
    provenance_algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """Signature algorithm; it must match the key."""
    provenance_timestamps: HttpUrl | None = None
    """URL of a time-stamping authority (RFC 3161). A time stamp keeps signatures valid after the certificate expires.
    Unset: none."""
    warm: bool | None = None
    """``true``: before it takes jobs, a worker loads its model, compiles its kernels and generates a short clip; it
    exits with the reason if any of that fails. ``false``: the first job does this work. Unset: ``true`` on a GPU, where
    it may take minutes."""
    worker_memory_bytes: int | None = Field(default=None, ge=1)
    """GPU memory in bytes that a worker may use, for its model and one job together. A request that needs more is
    rejected. Unset: the memory that is free when the worker starts. On a CPU only a set limit rejects requests. A limit
    above what is there rejects none."""
    kernel_cache: Path | None = None
    """Folder for the output of Triton and ``torch.compile``, so that the next worker need not compile. Workers of the
    same image and GPU type can share it. Unset: the defaults of both, below the home folder and ``/tmp``."""
    catalog: Path | None = None
    """JSON file of the served models. Unset: the built-in catalog."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address that the gateway listens on. ``::`` means all IPv6 and IPv4 addresses of the machine."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port that the gateway listens on."""
    open_access: bool | None = None
    """``true``: anyone who can reach the gateway may use it. ``false``: every request needs an API key. Unset: requests
    need the gateway's token while no key was ever created and ``ADASPA_HOST`` is a loopback address, and otherwise an
    API key."""
    open_token: SecretStr | None = None
    """Token that ``ADASPA_OPEN_ACCESS`` describes. Unset: ``adaspa serve`` or the gateway creates one at start."""
    bootstrap_key: SecretStr | None = Field(default=None, min_length=32)
    """An API key that you choose. It has every scope and is not stored in Redis."""
    signing_secret: SecretStr | None = Field(default=None, min_length=32)
    """Secret that signs links to files. Unset: created once and stored in Redis."""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(default=())
    """Comma-separated origins whose pages may call the API from a browser, such as ``https://app.example.com``."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(default=())
    """Comma-separated host names to accept in requests, besides ``localhost``, IP addresses and ``ADASPA_HOST``:
    ``videos.example.com``, ``*.example.com`` for all subdomains, ``*`` for any. Unset: any name if API keys are
    required, and no others if not."""
    max_connections: int = Field(default=2000, ge=1)
    """Maximum connections per gateway, including event streams; further ones get 503 with ``Retry-After``."""
    keep_alive_seconds: int = Field(default=75, ge=1)
    """Seconds after which the gateway closes an idle connection. Set it higher than the idle time-out of the proxy in
    front (usually 60 s; 600 s for Google's load balancers), or some requests fail on closed connections."""
    drain_seconds: float = Field(default=0.0, ge=0)
    """Seconds that a gateway keeps serving after SIGTERM, with ``/readyz`` at 503, so that load balancers can move on.
    0, or a second signal: it stops at once."""
    data_dir: Path = Path("./data")
    """Data folder of ``adaspa serve``: database, videos and logs. A gateway also records in its ``keys_required`` file
    that API keys exist, so that an emptied Redis does not open the service."""
    lease_seconds: float = Field(default=30.0, ge=0.1)
    """Seconds without a sign of life from its worker after which a job goes back to the queue."""
    max_attempts: int = Field(default=3, ge=1)
    """Number of times that a job may lose its worker before it fails with ``worker_lost``. The same limit applies to
    failures that a worker causes, such as a broken model."""
    queue_cap: int = Field(default=1000, ge=1)
    """Maximum number of waiting jobs per model and priority; further ones are rejected, unless their API key has less
    than an even share of it waiting."""
    queue_seconds: int = Field(default=86400, ge=1)
    """Seconds that a job may wait for a worker before it fails with ``queue_timeout``."""
    unserved_seconds: int = Field(default=6 * 3600, ge=1)
    """Seconds that a job may wait while no worker serves its queue, before it fails with ``model_not_served``. Allow
    for the time that a new worker takes to start."""
    time_limit_seconds: int = Field(default=7200, ge=1)
    """Seconds that a job may run, over all attempts, before it fails with ``time_limit``. A model can have a lower
    limit."""
    bulk_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the workers' time for bulk jobs while interactive jobs also wait."""
    result_ttl_seconds: int = Field(default=7 * 86400, ge=1, le=100 * 365 * 86400)
    """Seconds to keep a job and its files after it ends: up to 100 years."""
    image_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    """Maximum size of an input image's file, in bytes."""
    image_pixels: int = Field(default=32_000_000, ge=1, le=178_000_000)
    """Maximum number of pixels of an input image. Decoding takes up to 16 bytes per pixel for WebP, and less than 1 for
    JPEG. A gateway decodes one image at a time."""
    video_bytes: int = Field(default=50 * 1024 * 1024, ge=1)
    """Maximum file size of an input video, in bytes."""
    video_pixels: int = Field(default=9_000_000, ge=1, le=67_000_000)
    """Maximum number of pixels of an input video's frame."""
    video_frames: int = Field(default=18_000, ge=2)
    """Maximum number of frames of an input video. The default is ten minutes at 30 frames per second."""
    audio_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    """Maximum file size of an input sound, in bytes."""
    image_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = ()
    """Comma-separated private networks from which a request may have images, videos and sounds fetched by
    URL."""
    prompt_check_url: HttpUrl | None = None
    """URL of your own service that decides whether a prompt is allowed. The gateway sends it a POST before it accepts a
    job. Unset: prompts are not checked."""
    prompt_check_token: SecretStr | None = None
    """Token to send to the prompt check as ``Authorization: Bearer``."""
    prompt_check_seconds: float = Field(default=5.0, gt=0)
    """Seconds to wait for the prompt check's answer."""
    prompt_check_failure: Literal["refuse", "accept"] = "refuse"
    """Answer to a request if the prompt check gives no valid answer in time: ``refuse`` it with 503, or ``accept``
    it and log an error."""
    webhook_http: bool = False
    """Allow http as well as https in ``webhook_url``."""
    webhook_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = ()
    """Comma-separated private networks to which webhooks may be sent, such as ``10.0.0.0/8``; for tests,
    ``127.0.0.0/8,::1/128``."""
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(split)] = ()
    """Comma-separated secrets that sign webhooks, each ``whsec_`` and the base64 of 24 to 64 bytes. Several sign
    together during a rotation. Unset: one is created and stored in Redis."""
    webhook_retry_seconds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], NoDecode, BeforeValidator(split)] = (
        *(5, 30, 120, 600),
        *(1800, 3600, 2 * 3600, 4 * 3600, 6 * 3600, 10 * 3600),
    )
    """Comma-separated delays in seconds between attempts to deliver an event. After the last one, delivery is given
    up."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level to log."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """``auto``: text in a terminal, otherwise one JSON object per line. If unset, ``adaspa serve`` logs text."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port that serves ``/metrics``. Unset: the gateway serves it on its own port, and workers do not serve it."""
    heartbeat_file: Path | None = None
    """File that a worker touches every few seconds while it takes or runs jobs. Its age shows whether the worker is
    alive."""

    @field_validator("redis_url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        RedisAddress.of(url)
        return url

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, host = urlsplit(origin)[:2]
            if scheme not in ("http", "https") or not host or origin != f"{scheme}://{host}":
                raise ValueError(f"{origin!r} is not an origin; allowed: scheme://host[:port], without wildcards")
        return origins

    @field_validator("open_token")
    @classmethod
    def _fits_into_an_address(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("not a token; allowed: 16 or more letters, digits, - and _")
        return token

    @field_validator("bootstrap_key", "prompt_check_token")
    @classmethod
    def _fits_into_a_header(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not fits_into_a_header(secret.get_secret_value()):
            raise ValueError("contains a space, a line break or a character outside ASCII, which no request can carry")
        return secret

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a host name; allowed: name.example, *.example or *, without a port")
        return names

    @model_validator(mode="after")
    def _has_all_to_sign_with(self) -> Self:
        if (self.provenance_certificate is None) != (self.provenance_key is None):
            raise ValueError(
                "ADASPA_PROVENANCE_CERTIFICATE and ADASPA_PROVENANCE_KEY need each other; set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _is_open_or_not(self) -> Self:
        if self.open_access and self.bootstrap_key is not None:
            raise ValueError("ADASPA_BOOTSTRAP_KEY has no effect while ADASPA_OPEN_ACCESS is true; unset one of them")
        return self

    @field_validator("webhook_secrets")
    @classmethod
    def _are_signing_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            name, mark, key = secret.get_secret_value().rpartition(SECRET_PREFIX)
            try:
                fits = mark and not name and 24 <= len(b64decode(key, validate=True)) <= 64
            except binascii.Error:
                fits = False
            if not fits:
                raise ValueError(f"not a signing secret; allowed: {SECRET_PREFIX} and the base64 of 24 to 64 bytes")
        return secrets

    @property
    def input_bytes(self) -> dict[Kind, int]:
        """Maximum sizes in bytes of the files in a request, by kind."""
        return {Kind.image: self.image_bytes, Kind.video: self.video_bytes, Kind.audio: self.audio_bytes}

    @property
    def webhook_keys(self) -> list[str]:
        """Configured signing secrets, current one first."""
        return [secret.get_secret_value() for secret in self.webhook_secrets]


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises:
        SettingsError: a variable has an invalid value; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(
            "; ".join(_describe(item["loc"], item["msg"], item["input"]) for item in error.errors())
        ) from error


def _describe(location: tuple[int | str, ...], message: str, value: object) -> str:
    text = message.removeprefix("Value error, ")
    if not location:  # about several settings at once
        return text
    name = str(location[0])
    got = "" if name in SECRET else f" (got {value!r})"
    return f"{PREFIX}{name.upper()}: {text[:1].lower()}{text[1:]}{got}"
