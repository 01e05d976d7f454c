"""Too much at once: clients that ask again and again of a full service, and receivers that never answer."""

import time
from concurrent.futures import ThreadPoolExecutor

from waiting import until

from chaos.client import Ask, Client
from chaos.fleet import QUEUE_CAP, TENANTS
from chaos.scenes import Scene
from chaos.stage import Stage

STORM_SECONDS = 8.0
CALM_JOBS = 20


class SilentReceiver(Scene):
    """One tenant's receiver takes every delivery and answers none, for more jobs than one gateway delivers at once."""

    name = "receiver that accepts and never answers"
    promise = "one tenant's receiver keeps no other tenant's webhooks back, and its own come when it is well again"

    def play(self, stage: Stage) -> None:
        one, other, receiver = stage.client("a"), stage.client("b"), stage.receiver
        receiver.silent.add("a")
        try:
            for ask in [stage.create(one, 1)[0] for _ in range(QUEUE_CAP // 2)]:
                one.see_to_its_end(ask)
            until(lambda: receiver.unanswered >= QUEUE_CAP // 4, "deliveries wait for an answer")
            for ask in [stage.create(other, 1)[0] for _ in range(3)]:
                other.see_to_its_end(ask)
                began = time.monotonic()
                until(lambda ask=ask: ask.video_id in receiver.got, f"{ask.video_id}: its webhook comes")
                stage.measure("seconds until a webhook comes beside a silent receiver", time.monotonic() - began)
        finally:
            receiver.silent.clear()


class RetryStorm(Scene):
    """Twice as many clients as the queue has room for ask without end of a service whose workers stand still."""

    name = "a storm of retries after overload"
    promise = "goodput comes back by itself when the overload is over"

    def play(self, stage: Stage) -> None:
        calm = self.jobs_a_minute(stage, CALM_JOBS, 0)
        after = self.jobs_a_minute(stage, 2 * QUEUE_CAP, STORM_SECONDS)
        stage.measure("jobs a minute before an overload", calm)
        stage.measure("jobs a minute out of a storm of retries", after)
        assert after >= calm / 2, f"{after:.0f} jobs a minute after a storm of retries, {calm:.0f} before it"

    def jobs_a_minute(self, stage: Stage, jobs: int, overload_seconds: float) -> float:
        """How many end a minute, from when the workers may go on."""
        asks: list[tuple[Client, Ask]] = [
            (stage.client(tenant), stage.ask(tenant, 1))
            for number in range(jobs)
            for tenant in [TENANTS[number % len(TENANTS)]]
        ]
        with ThreadPoolExecutor(jobs) as pool:
            with stage.fleet.workers_stopped():
                made = [pool.submit(client.create, ask) for client, ask in asks]
                time.sleep(overload_seconds)
            began = time.monotonic()
            for future in made:
                future.result()
            for client, ask in asks:
                assert client.see_to_its_end(ask) == "completed", ask.final
        return jobs / (time.monotonic() - began) * 60


SCENES: list[Scene] = [SilentReceiver(), RetryStorm()]
