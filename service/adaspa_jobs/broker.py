"""Celery's way to Redis: kombu's transport on the connections that every other client has.

Kombu reads a URL in its own way, verifies no certificate unless it is told to, and takes a read-only replica for a
server that it can go on with.
"""

from collections.abc import Callable
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from adaspa_jobs.connections import Connections, Pool


class QoS(kombu_redis.QoS):
    """Kombu's, which would take no further message once it could not acknowledge one.

    Both ways to be done with a message may be repeated: the second time there is nothing left to do. If Redis is away
    for longer, the message comes again when its visibility ends, which does no harm.
    """

    def ack(self, delivery_tag: str) -> None:
        """Be done with a message."""
        self._settle(delivery_tag, lambda: super(QoS, self).ack(delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Be done with it, or put it back into its queue."""
        self._settle(delivery_tag, lambda: super(QoS, self).reject(delivery_tag, requeue))

    def _settle(self, delivery_tag: str, how: Callable[[], None]) -> None:
        away = self.channel.connection_errors
        try:
            how()
        except away:
            try:
                how()
            except away:
                virtual.QoS.ack(self, delivery_tag)
                raise


class Channel(kombu_redis.Channel):
    """Kombu's, with our pools. ``connections`` comes as a transport option."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "connections")
    connections: Connections
    keyprefix_fanout: str
    QoS = QoS

    @property
    def connection_class(self) -> type:
        """Class from which kombu derives the one that tells its poller of a lost connection."""
        return self.connections.connection_class

    def _get_pool(self, asynchronous: bool = False) -> Pool:
        kind = self._connparams(asynchronous)["connection_class"]
        options = self.connections.options()
        if asynchronous:
            # It waits for messages: asked for its health, it would be replaced without the poller's knowledge.
            options["health_check_interval"] = 0
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=options["db"])
        return Pool(connection_class=kind, **options)


class Transport(kombu_redis.Transport):
    """Kombu's, which reads nothing from a URL."""

    Channel = Channel
    can_parse_url = True

    def establish_connection(self) -> Any:
        """Connect like kombu, but refuse a replica: the worker then tries again, each time after a longer wait."""
        self.client.transport_options["connections"].probe()
        return super().establish_connection()

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the address in logs, without a password."""
        return str(self.client.transport_options["connections"].address)


def transport_options(connections: Connections, visibility_seconds: float) -> dict[str, Any]:
    """Return Celery's ``broker_transport_options``."""
    return {
        "connections": connections,
        "visibility_timeout": visibility_seconds,
        "health_check_interval": connections.options()["health_check_interval"],
    }
