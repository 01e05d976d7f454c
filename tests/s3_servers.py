"""Real S3-compatible servers as processes: moto honours conditional writes, nanio checks signatures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import httpx
from adaspa_service.local.supervisor import free_port
from obstore.store import S3Store
from waiting import until

KINDS = ("moto", "nanio")
BUCKET = "videos-bucket"
URL = f"s3://{BUCKET}/service"
"""The storage URL of a service that uses the server."""


@dataclass
class S3Server:
    """One server on a port of its own; ``stop`` and ``start`` make an outage."""

    kind: str
    folder: Path
    port: int = field(default_factory=lambda: free_port("127.0.0.1"), init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    before: Callable[[], None] | None = None
    """What its process does first, as ``adaspa_service.local.process.tied()``."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its process's environment, beside the caller's."""

    @property
    def environment(self) -> dict[str, str]:
        """What a client of the server finds in its environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start the server with an empty bucket, and wait until it answers."""
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)  # nanio's buckets are folders
        if self.kind == "moto":
            command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        else:
            command = ["-m", "nanio", "serve", "--data-dir", str(self.folder), "--host", "127.0.0.1"]
            command += ["--port", str(self.port), "--log-level", "error", "--no-access-log"]
        keys = {"NANIO_ACCESS_KEY": "test-key", "NANIO_SECRET_KEY": "test-secret"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **keys, **self.variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self.before,  # noqa: PLW1509
            )
        process = self.process
        until(lambda: process.poll() is not None or self._answers(), f"{self.kind} answers")
        assert process.poll() is None, f"{self.kind} ended at its start"
        if self.kind == "moto":
            httpx.put(f"http://127.0.0.1:{self.port}/{BUCKET}").raise_for_status()

    def stop(self) -> None:
        """Kill the server. nanio keeps its objects, moto has them in memory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        """Signal the running server."""
        assert self.process is not None
        self.process.send_signal(number)

    @contextmanager
    def allowing(self, *rights: Mapping[str, object]) -> Iterator[dict[str, str]]:
        """The environment of a user with these statements of a policy; of moto only, which then looks at rights."""
        url, keys = self.environment["AWS_ENDPOINT_URL"], {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        iam = boto3.client("iam", endpoint_url=url, region_name="us-east-1", **keys)
        iam.create_user(UserName="limited")
        policy = json.dumps({"Version": "2012-10-17", "Statement": rights})
        iam.put_user_policy(UserName="limited", PolicyName="rights", PolicyDocument=policy)
        key = iam.create_access_key(UserName="limited")["AccessKey"]
        httpx.post(f"{url}/moto-api/reset-auth", content="0").raise_for_status()
        try:
            own = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
            yield self.environment | own
        finally:
            httpx.post(f"{url}/moto-api/reset-auth", content="inf").raise_for_status()
            iam.delete_access_key(UserName="limited", AccessKeyId=key["AccessKeyId"])
            iam.delete_user_policy(UserName="limited", PolicyName="rights")
            iam.delete_user(UserName="limited")

    def store(self) -> S3Store:
        """A client of the bucket, beside the service."""
        env = self.environment
        return S3Store(
            BUCKET,
            endpoint=env["AWS_ENDPOINT_URL"],
            access_key_id=env["AWS_ACCESS_KEY_ID"],
            secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region=env["AWS_REGION"],
            client_options={"allow_http": True},
        )

    def objects(self) -> list[str]:
        """Every object in the bucket."""
        return sorted(item["path"] for page in self.store().list() for item in page)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/", timeout=2).status_code < 500
        except httpx.TransportError:
            return False


@contextmanager
def s3_server(
    kind: str, folder: Path, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[S3Server]:
    """A running server."""
    server = S3Server(kind, folder, before, environment or {})
    server.start()
    try:
        yield server
    finally:
        server.stop()
