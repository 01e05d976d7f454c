"""What all tests share: a real Valkey server on a unix socket, empty at the start of each test."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import redis
import trustme
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import get_settings
from adaspa_jobs.store import JobStore
from adaspa_service.local import supervisor
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from records import PARAMS
from valkey_process import start_valkey
from waiting import PATIENCE
from xdist.scheduler import LoadFileScheduling

hypothesis_settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck)
)
hypothesis_settings.register_profile(
    "long", hypothesis_settings.get_profile("suite"), derandomize=False, max_examples=2000
)
hypothesis_settings.load_profile("suite")

# Tiny tensors, and another file of tests on the other core: two threads of PyTorch only wait for one another. So in all
# processes that the tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# Nor need each of those processes compile our modules anew, where that is usual.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# httpx gives up after five seconds if it is not told otherwise, and a machine that is busy is no failure.
for part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, part, PATIENCE)

# Nor may a server that one process of tests is about to start find its port taken by another's.
supervisor.PORTS = supervisor.PORTS[
    int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
]

# A shell starts background processes with Ctrl-C ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


SHARING = {
    f"tests/e2e/test_{name}.py"
    for name in (
        "chart_commands",
        "cli_generate",
        "cli_measure",
        "doctor",
        "generate",
        "observability",
        "recipes",
        "running_service",
        "webhook_delivery",
    )
}
"""Files whose tests share one running service; to start it takes each process of tests fifteen seconds."""


LONGEST = (
    *sorted(SHARING),
    *(f"tests/e2e/test_{name}.py" for name in ("examination", "serve", "demo_model", "docs")),
    "tests/service/page/test_page.py",
    "tests/worker/test_families.py",
    "tests/worker/test_compile.py",
    "tests/e2e/test_chaos.py",
    "tests/worker/test_worker_process.py",
    *(f"tests/kernels/test_{name}.py" for name in ("steps", "kernels", "transformers", "models", "parallel")),
    "tests/test_images.py",
    *(f"tests/service/page/test_page_{name}.py" for name in ("views", "key")),
    *(f"tests/service/test_{name}.py" for name in ("job_model", "start", "fuzz")),
)
"""Files that take the longest, in the order in which they are begun: one that was left for the end would keep a single
process busy while the others have nothing to do."""


class WholeFiles(LoadFileScheduling):
    """Gives each file to one process, and those that share to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "sharing" if file in SHARING else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> WholeFiles:
    return WholeFiles(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others stay in their order."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish() -> None:
    """Look for garbage only in what comes from here on. Python, and each engine that a test resets, otherwise looks
    through all that was imported: half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gateways leave their tokens in a folder of the tests. One authority is trusted: to read the usual ones takes each
    HTTP client of the tests, and of the processes that they start, longer than most tests."""
    folder = tmp_path_factory.mktemp("state")
    trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.write_to_path(folder / "authority.pem")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
        patch.delenv("SSL_CERT_DIR", raising=False)
        yield


@pytest.fixture(autouse=True)
def settings_read_anew() -> Iterator[None]:
    """What a test set in the environment is no longer in force behind it."""
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def valkey_socket() -> Iterator[Path]:
    """Socket of a running server. The path is short, because the kernel allows no long ones."""
    with TemporaryDirectory(prefix="adaspa-test-") as folder:
        server = start_valkey(Path(folder))
        yield Path(folder) / "valkey.sock"
        server.terminate()
        server.wait()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket in it."""
    with TemporaryDirectory(prefix="adaspa-test-") as folder:
        yield Path(folder)


@pytest.fixture
def valkey(valkey_socket: Path) -> Iterator[redis.Redis]:
    """A client of the server, with nothing in it."""
    with redis.Redis(unix_socket_path=str(valkey_socket), socket_timeout=PATIENCE) as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(valkey: redis.Redis, valkey_socket: Path) -> str:
    """The server's address as a setting."""
    return f"unix://{valkey_socket}?db=0"


@pytest.fixture
def store(valkey: redis.Redis) -> JobStore:
    """A job store with the usual limits."""
    return JobStore(valkey)


@pytest.fixture
def usual_params() -> dict[str, Any]:
    """The parameters of a job of the demo model."""
    return dict(PARAMS)


@pytest.fixture
def params(usual_params: dict[str, Any]) -> Callable[..., JobParams]:
    """Makes job parameters; keyword arguments replace the usual ones."""

    def make(**changes: Any) -> JobParams:
        return JobParams.model_validate(usual_params | changes)

    return make
