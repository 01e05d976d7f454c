"""A failover to a replica that lags behind: the old primary lives on as a reader. What was lost is measured."""

import time

import redis
from adaspa_service.local.process import tied
from adaspa_service.local.supervisor import free_port
from valkey_process import start_valkey
from waiting import until

from chaos.links import Link
from chaos.scenes import Scene
from chaos.stage import Stage

LAGGING_JOBS = 10
READER_SECONDS = 3.0
"""For so long the service's address still leads to the old primary after a failover."""


class LaggingReplica(Scene):
    """Jobs are accepted, cancelled and deleted of which the replica does not hear; then it is the primary. At the end
    the first one is it again, without a lag."""

    name = "a replica promoted with lag, the old primary left as a reader"
    promise = "whoever asks again with the same Idempotency-Key gets the job made"

    def play(self, stage: Stage) -> None:
        fleet, client, first = stage.fleet, stage.client("b"), stage.store.client
        (fleet.folder / "second").mkdir()
        ports = free_port("127.0.0.1"), free_port("127.0.0.1")
        first.config_set("port", ports[0])
        options = ("--appendonly", "yes", "--port", str(ports[1]), "--repl-diskless-sync-delay", "0")
        process = start_valkey(fleet.folder / "second", *options, before=tied())
        second, stream = redis.Redis(port=ports[1]), Link(fleet.network, ports[0])
        links = [part.links["redis"] for part in fleet.gateways + fleet.workers]
        try:
            second.replicaof("127.0.0.1", str(stream.port))
            in_step(first, second)
            with fleet.workers_stopped():
                known = [stage.create(client, 4)[0] for _ in range(3)]
                in_step(first, second)
                with stream.cut("back"):
                    late = [stage.create(client, 4)[0] for _ in range(LAGGING_JOBS)]
                    known[0].cancelled, known[1].deleted = True, True
                    client.cancel(known[0].video_id)
                    stage.store.discard(known[1].video_id)  # by no client: that it comes back is measured
                    second.replicaof("NO", "ONE")
                    stage.clients.history.epoch += 1
                first.replicaof("127.0.0.1", str(ports[1]))
                in_step(second, first)
                time.sleep(READER_SECONDS)
                for link in links:
                    link.upstream = ports[1]
                    link.drop()
                fleet.wait_until_ready()
                back = [stage.job(ask) for ask in known[:2]]  # as the old primary, now a reader, has it
                lost = [ask for ask in late if stage.job(ask) is None]
                stage.measure(f"lost of {LAGGING_JOBS} jobs that a lagging replica had not heard of", len(lost))
                stage.measure(
                    "undone of 1 cancel of which it had not heard", bool(back[0] and back[0].status == "queued")
                )
                stage.measure("undone of 1 deletion of which it had not heard", bool(back[1] and not back[1].discarded))
                client.cancel(known[0].video_id)
                client.delete(known[1].video_id)
                for ask in late:
                    client.create(ask)
            for ask in [known[0], known[2], *late]:
                client.see_to_its_end(ask)
            for link in links:
                link.let("both", False)
            in_step(second, first)
            first.replicaof("NO", "ONE")
            for link in links:
                link.upstream = str(fleet.socket)
                link.drop()
                link.let("both", True)
            fleet.wait_until_ready()
        finally:
            process.kill()
            process.wait()


def in_step(primary: redis.Redis, replica: redis.Redis) -> None:
    """Wait until a replica has all that its primary has."""

    def same() -> bool:
        one, other = primary.info("replication"), replica.info("replication")
        linked = other.get("master_link_status") == "up"
        return bool(linked and one["master_repl_offset"] == other["slave_repl_offset"])

    until(same, "the replica has all that its primary has")


SCENES: list[Scene] = [LaggingReplica()]
