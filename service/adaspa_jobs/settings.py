"""Settings of gateway and workers, from ``ADASPA_*`` environment variables."""

import binascii
import re
from base64 import b64decode
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from adaspa_jobs.redis_url import RedisAddress

PREFIX = "ADASPA_"
SECRET = frozenset(
    {"redis_url", "open_token", "bootstrap_key", "signing_secret", "webhook_secrets", "prompt_check_token"}
)
"""Fields whose values no message shows."""
SECRET_PREFIX = "whsec_"
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")
HOST_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
Network = IPv4Network | IPv6Network


class SettingsError(Exception):
    """An environment variable has a value that cannot be used; the message is one line that names it."""


def split(value: object) -> object:
    """The parts of a text between commas."""
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The defaults fit one machine. Each field is read from ``ADASPA_<NAME>``."""

    # The descriptions make the table of docs/settings.md: make field-tables.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    redis_url: str = Field(default="redis://127.0.0.1:6379/0")
    """Redis or Valkey, one server and not a cluster: ``redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://`` for
    TLS, ``unix:///PATH?db=0``, ``redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB``. Where it is not set, ``adaspa serve``
    starts a server of its own. [Its options](operations.md#redis)."""
    storage_url: str = Field(default="./data/objects", min_length=1)
    """Where videos and checkpoints lie: a folder, or ``file:///...``, ``s3://bucket/prefix``, ``gs://...``, ``az://...``,
    ``memory:///``. Where it is not set, ``adaspa serve`` takes ``objects`` in its data folder."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """A denoising is checkpointed to storage after this long, and when its worker is stopped; 0 is every step."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Also after this many denoising steps; unset: the time alone decides."""
    upload_retry_seconds: float = Field(default=120.0, ge=0)
    """How long a worker waits for a storage that is away before it leaves the job to another worker."""
    fail_blank: bool = False
    """Fail a job with ``blank_clip`` where more than half of its frames are of one colour, or have no values but the
    least and the greatest. It otherwise completes with a warning, because that can be what was asked for."""
    visible_mark: str = Field(default="", max_length=60)
    """Words, such as ``AI generated``, that workers draw into the lower left corner of each frame. Empty: none."""
    provenance_certificate: Path | None = None
    """PEM file of the certificates, the signer's own first, with which workers sign each video's file (C2PA). Unset: no
    file is signed. Needs ``c2pa-python``. [How](ecosystem.md#where-a-video-comes-from)."""
    provenance_key: Path | None = None
    """PEM file of the certificate's private key (PKCS #8)."""
    provenance_algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """Algorithm of the signature, which has to be the key's."""
    provenance_timestamps: HttpUrl | None = None
    """A time-stamping authority (RFC 3161) that notes when a file was signed, so that it stays valid beyond the
    certificate. Unset: none."""
    warm: bool | None = None
    """``true``: a worker takes jobs once it has loaded its model, compiled its kernels and run a short clip of its
    default size, and ends with the reason where it cannot; ``false``: its first job does so. Unset: ``true`` with a
    GPU, where that may take minutes."""
    kernel_cache: Path | None = None
    """Folder where a worker keeps what Triton and ``torch.compile`` build, so that the next one compiles nothing; those
    of one image and one kind of GPU may share it. Unset: where these keep it by default, below the home folder and
    ``/tmp``."""
    catalog: Path | None = None
    """JSON file of the served models; unset: the built-in one."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address that the gateway listens on; ``::`` is every address of the machine, of IPv6 and IPv4."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port that the gateway listens on."""
    open_access: bool | None = None
    """``true``: anybody who reaches the gateway may use it; ``false``: only with an API key. Unset: as long as no
    key was ever made and only this machine reaches ``ADASPA_HOST``, with the gateway's token; else only with a key."""
    open_token: SecretStr | None = None
    """That token. Unset: ``adaspa serve``, or else the gateway, draws one when it starts."""
    bootstrap_key: SecretStr | None = Field(default=None, min_length=32)
    """An API key of the operator's choice, with every scope, that is not kept in Redis."""
    signing_secret: SecretStr | None = Field(default=None, min_length=32)
    """What links to files are signed with. Unset: drawn once and kept in Redis."""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(default=())
    """Origins, such as ``https://app.example.com``, between commas, whose pages may use the API in a browser."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(default=())
    """Names, between commas, under which clients may ask for the gateway, besides ``localhost``, IP addresses and
    ``ADASPA_HOST``: ``videos.example.com``, ``*.example.com`` for all below it, ``*`` for any. Unset: no others as
    long as no API key is asked for, any where one is."""
    max_connections: int = Field(default=2000, ge=1)
    """Connections of one gateway at one time, event streams included; more are told to come again."""
    keep_alive_seconds: int = Field(default=75, ge=1)
    """A connection on which nothing has come for this long after an answer is closed: longer than a proxy before the
    gateway keeps it (60 s is usual, 600 s at Google's load balancers), or requests fail on connections just closed."""
    drain_seconds: float = Field(default=0.0, ge=0)
    """A gateway that gets SIGTERM serves for this long before it closes its port, while ``/readyz`` says 503: time for
    a load balancer to turn to another one. 0: it stops at once, as at a second signal."""
    data_dir: Path = Path("./data")
    """Folder of ``adaspa serve``: its Redis-compatible server's files, videos, logs. A gateway notes there, in
    ``keys_required``, that API keys were made, so that an emptied Redis does not open it."""
    lease_seconds: float = Field(default=30.0, ge=0.1)
    """A job whose worker has not been heard of for this long goes back to the queue."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a job may lose its worker, the last time included, before it fails with ``worker_lost``; and how often
    it may fail by a worker's fault, such as a broken model, before it fails with that."""
    queue_cap: int = Field(default=1000, ge=1)
    """Waiting jobs of one model and priority; more are refused."""
    queue_seconds: int = Field(default=86400, ge=1)
    """A job that no worker has taken for this long fails with ``queue_timeout``."""
    unserved_seconds: int = Field(default=6 * 3600, ge=1)
    """A job that has waited for this long, and no worker has served its queue meanwhile, fails with
    ``model_not_served``: longer than a worker takes to start where there is none."""
    time_limit_seconds: int = Field(default=7200, ge=1)
    """A job that has run for this long, over all its attempts, fails with ``time_limit``; a model may have less."""
    bulk_share: float = Field(default=0.2, gt=0, lt=1)
    """Bulk jobs' share of the workers' time while interactive jobs wait too."""
    result_ttl_seconds: int = Field(default=7 * 86400, ge=1)
    """How long an ended job and its files are kept."""
    image_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    """Largest file of an image that comes with a request."""
    image_pixels: int = Field(default=32_000_000, ge=1, le=178_000_000)
    """Most pixels of such an image. Decoding one takes up to 16 bytes for each (WebP; a JPEG less than 1); a gateway
    decodes one at a time."""
    image_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = ()
    """Networks that are not public and from which images may be fetched nevertheless when a request gives a URL,
    between commas."""
    prompt_check_url: HttpUrl | None = None
    """A service of the operator's that is asked by POST whether a prompt is allowed, before a job is accepted. Unset:
    none is."""
    prompt_check_token: SecretStr | None = None
    """What it gets as ``Authorization: Bearer``."""
    prompt_check_seconds: float = Field(default=5.0, gt=0)
    """How long it may take to answer."""
    prompt_check_failure: Literal["refuse", "accept"] = "refuse"
    """What happens to a request when it gives no answer in time, or another than it has to: ``refuse`` (503), or
    ``accept``, with an error in the log."""
    webhook_http: bool = False
    """Also take a ``webhook_url`` that is http and not https."""
    webhook_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = ()
    """Networks that are not public and may be called nevertheless, between commas: ``10.0.0.0/8``, and for tests
    ``127.0.0.0/8,::1/128``."""
    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(split)] = ()
    """What signs webhooks, between commas: each ``whsec_`` and the base64 of 24 to 64 bytes; several sign at once while
    one is replaced. Unset: one is made and kept in Redis."""
    webhook_retry_seconds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], NoDecode, BeforeValidator(split)] = (
        *(5, 30, 120, 600),
        *(1800, 3600, 2 * 3600, 4 * 3600, 6 * 3600, 10 * 3600),
    )
    """Between an attempt at delivering an event and the next; after the last of these it is given up."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged: this and worse."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """``auto``: text in a terminal, else one JSON object a line. Where it is not set, the logs of ``adaspa serve`` are
    text."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where ``/metrics`` is served. Unset: by the gateway at its own port, by a worker nowhere."""
    heartbeat_file: Path | None = None
    """A worker touches it every few seconds while it takes or runs jobs; its age says whether the worker is alive."""

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
                raise ValueError(f"{origin!r} is no origin; allowed: scheme://host or scheme://host:port, no wildcard")
        return origins

    @field_validator("open_token")
    @classmethod
    def _fits_into_an_address(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("it is 16 or more letters, digits, - and _")
        return token

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no host name; allowed: name.example, *.example or *, without a port")
        return names

    @model_validator(mode="after")
    def _has_all_to_sign_with(self) -> Self:
        if (self.provenance_certificate is None) != (self.provenance_key is None):
            raise ValueError("ADASPA_PROVENANCE_CERTIFICATE and ADASPA_PROVENANCE_KEY go together; set both or neither")
        return self

    @model_validator(mode="after")
    def _is_open_or_not(self) -> Self:
        if self.open_access and self.bootstrap_key is not None:
            raise ValueError("ADASPA_OPEN_ACCESS is true, so that ADASPA_BOOTSTRAP_KEY is never asked for; unset one")
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
                raise ValueError(f"each is {SECRET_PREFIX} and the base64 of 24 to 64 bytes")
        return secrets

    @property
    def webhook_keys(self) -> list[str]:
        """The signing secrets of the settings, the current one first."""
        return [secret.get_secret_value() for secret in self.webhook_secrets]


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SettingsError: naming the variable and what is wrong with its value.
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
