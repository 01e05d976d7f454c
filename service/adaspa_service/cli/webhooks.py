"""``adaspa webhooks``: events that are not delivered yet, and the secrets that sign them."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER
from adaspa_jobs.settings import get_settings

from adaspa_service.access.keys import KeyStore
from adaspa_service.cli.keys import duration
from adaspa_service.cli.serve import DataDir
from adaspa_service.cli.store import job_store, tell_auditors
from adaspa_service.cli.terminal import Json, fail, print_json, print_table, say
from adaspa_service.webhooks.deliveries import STATES, Delivery, DeliveryStore, State
from adaspa_service.webhooks.signing import secrets_of

COLUMNS = ("VIDEO", "STATE", "WHEN", "EVENT", "RECEIVER", "ATTEMPTS", "ERROR")

webhooks = typer.Typer(
    help="Webhooks: see and send events that wait or were given up, see and replace the signing secret.",
    no_args_is_help=True,
)

VideoId = Annotated[str, typer.Argument(metavar="VIDEO_ID", help="As `adaspa webhooks list` shows it.")]


@webhooks.command("list")
def list_deliveries(
    state: Annotated[State | None, typer.Option(help="Only those on their way, or only those given up.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Of each at most.")] = 50,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List events that are not delivered: until when a waiting one waits, since when a dead one is dead."""
    with job_store(data_dir) as jobs:
        store = DeliveryStore(jobs.client)
        found = [
            (each, moment, delivery)
            for each in ((state,) if state else STATES)
            for job_id, moment in store.ids(each, limit)
            if (delivery := store.get(job_id))
        ]
    if as_json:
        return print_json([described(*item) for item in found])
    return print_table(COLUMNS, [row(*item) for item in found])


@webhooks.command()
def show(video_id: VideoId, data_dir: DataDir = None) -> None:
    """Print one event as JSON: where it goes, what was wrong last, and its body once there was an attempt."""
    with job_store(data_dir) as jobs:
        delivery = DeliveryStore(jobs.client).get(video_id)
    if delivery is None:
        fail(nothing(video_id))
    print_json(
        {
            "video_id": video_id,
            "webhook_id": delivery.event_id,
            "type": delivery.type,
            "owner": delivery.owner,
            "url": delivery.url,
            "attempts": delivery.attempts,
            "error": delivery.error,
            "tried_at": delivery.tried_at,
            "body": json.loads(delivery.body) if delivery.body else None,
        }
    )


@webhooks.command()
def redeliver(
    video_ids: Annotated[list[str] | None, typer.Argument(metavar="[VIDEO_ID]...", help="Of these.")] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="Of all that were given up.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Send events now: a dead one has all its attempts before it again."""
    if bool(video_ids) == all_dead:
        raise typer.BadParameter("allowed: ids of videos, or --all-dead", param_hint="VIDEO_ID")
    with job_store(data_dir) as jobs:
        store = DeliveryStore(jobs.client)
        wanted = video_ids or [job_id for job_id, _ in store.ids("dead")]
        unknown = [video_id for video_id in wanted if not store.redeliver(video_id)]
        for video_id in wanted:
            if video_id not in unknown:
                tell_auditors(jobs.client, "webhook.redelivered", job=video_id)
    say(f"{len(wanted) - len(unknown)} to be sent")
    if unknown and not all_dead:  # of all, one may have gone meanwhile
        fail("; ".join(nothing(video_id) for video_id in unknown))


@webhooks.command()
def secret(
    key: Annotated[
        str | None, typer.Option(metavar="ID", help="The secrets of this API key, as `adaspa keys list` shows it.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the secrets that sign, one a line: the current one first, then the replaced ones that still hold."""
    with job_store(data_dir) as jobs:
        if key and key not in {BOOTSTRAP_OWNER, *(known.id for known in KeyStore(jobs.client).all())}:
            fail(f"there is no key {key!r}; `adaspa keys list` shows them")
        for each in secrets_of(key or OPEN_OWNER, get_settings(), DeliveryStore(jobs.client)):
            say(each)


@webhooks.command()
def rotate(
    keep: Annotated[
        int, typer.Option(parser=duration, metavar="TIME", help="For how long the old secret signs too.")
    ] = "24h",  # type: ignore[assignment]
    data_dir: DataDir = None,
) -> None:
    """Make a new signing secret and print it. Every API key's own secret changes with it."""
    if get_settings().webhook_keys:
        fail("the secrets come from ADASPA_WEBHOOK_SECRETS; put a new one there, before the old one")
    with job_store(data_dir) as jobs:
        fresh = DeliveryStore(jobs.client).rotate_secret(keep)[0]
        tell_auditors(jobs.client, "webhook_secret.rotated")
    say(fresh)


def described(state: State, moment: float, delivery: Delivery) -> dict[str, Any]:
    """An event in the list, for programs. Its URL is left to `show`: it may hold a token."""
    return {
        "video_id": delivery.job_id,
        "state": state,
        "when": int(moment),
        "type": delivery.type,
        "receiver": delivery.receiver,
        "attempts": delivery.attempts,
        "error": delivery.error,
    }


def row(state: State, moment: float, delivery: Delivery) -> tuple[object, ...]:
    """An event in the table."""
    when = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (delivery.job_id, state, when, delivery.type, delivery.receiver, delivery.attempts, delivery.error)


def nothing(video_id: str) -> str:
    """What is said of an id without a waiting or dead event."""
    return f"no event of {video_id!r} waits or was given up; `adaspa webhooks list` shows them"
