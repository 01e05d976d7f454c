"""``adaspa webhooks``: undelivered events, and the secrets that sign them."""

import json
from typing import Annotated, Any

import typer
from adaspa_jobs.job import BOOTSTRAP_OWNER, OPEN_OWNER
from adaspa_jobs.settings import get_settings

from adaspa_service.access.keys import KeyStore
from adaspa_service.cli.keys import duration
from adaspa_service.cli.serve import DataDir
from adaspa_service.cli.store import job_store, tell_auditors
from adaspa_service.cli.terminal import Exit, Json, fail, print_json, print_table, say, warn
from adaspa_service.cli.times import written_in_utc
from adaspa_service.webhooks.deliveries import STATES, Delivery, DeliveryDamaged, DeliveryStore, State
from adaspa_service.webhooks.signing import secrets_of

COLUMNS = ("VIDEO", "STATE", "WHEN", "EVENT", "RECEIVER", "ATTEMPTS", "ERROR")

webhooks = typer.Typer(
    help="Inspect and resend undelivered webhook events; show and rotate the signing secret.",
    no_args_is_help=True,
)

VideoId = Annotated[str, typer.Argument(metavar="VIDEO_ID", help="Id of the video, as in `adaspa webhooks list`.")]


@webhooks.command("list")
def list_deliveries(
    state: Annotated[State | None, typer.Option(help="Only events with this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events per state.")] = 50,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List undelivered events: when a waiting one is next sent, and when a dead one was given up."""
    with job_store(data_dir) as jobs:
        store = DeliveryStore(jobs.client)
        found = [
            (each, moment, delivery)
            for each in ((state,) if state else STATES)
            for job_id, moment in store.ids(each, limit)
            if (delivery := read(store, job_id))
        ]
    if as_json:
        return print_json([described(*item) for item in found])
    return print_table(COLUMNS, [row(*item) for item in found])


@webhooks.command()
def show(video_id: VideoId, data_dir: DataDir = None) -> None:
    """Print one event as JSON: its URL, its last error, and its body after the first attempt."""
    with job_store(data_dir) as jobs:
        delivery = read(DeliveryStore(jobs.client), video_id)
    if not isinstance(delivery, Delivery):
        fail(delivery or nothing(video_id))
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
    video_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[VIDEO_ID]...", help="Videos whose events to send.")
    ] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="Send all events that were given up.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Send events now. A dead event gets all its attempts again."""
    if bool(video_ids) == all_dead:
        raise typer.BadParameter("allowed: video ids or --all-dead, one of the two", param_hint="VIDEO_ID")
    with job_store(data_dir) as jobs:
        store = DeliveryStore(jobs.client)
        wanted = list(dict.fromkeys(video_ids or (job_id for job_id, _ in store.ids("dead"))))
        unknown = [video_id for video_id in wanted if not store.redeliver(video_id)]
        damaged = [each for video_id in unknown if isinstance(each := read(store, video_id), DeliveryDamaged)]
        for video_id in wanted:
            if video_id not in unknown:
                tell_auditors(jobs.client, "webhook.redelivered", job=video_id)
    count = len(wanted) - len(unknown)
    say(f"sending {count} event{'s' * (count != 1)}")
    for each in damaged:
        warn(each)
    gone = [] if all_dead else [each for each in unknown if each not in {one.job_id for one in damaged}]
    for video_id in gone:  # of all, one may have gone meanwhile
        warn(nothing(video_id))
    if damaged or gone:
        raise SystemExit(int(Exit.failed))


@webhooks.command()
def secret(
    key: Annotated[str | None, typer.Option(metavar="ID", help="Id of the API key whose secrets to print.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the signing secrets, one per line: the current one, then replaced ones that are still valid."""
    with job_store(data_dir) as jobs:
        if key and key not in {BOOTSTRAP_OWNER, *(known.id for known in KeyStore(jobs.client).all())}:
            fail(f"there is no key {key!r}; `adaspa keys list` shows all keys")
        for each in secrets_of(key or OPEN_OWNER, get_settings(), DeliveryStore(jobs.client)):
            say(each)


@webhooks.command()
def rotate(
    keep: Annotated[
        int, typer.Option(parser=duration, metavar="TIME", help="How long the old secret also signs.")
    ] = "24h",  # type: ignore[assignment]
    data_dir: DataDir = None,
) -> None:
    """Create a new signing secret and print it. The secrets of all API keys change with it."""
    if get_settings().webhook_keys:
        fail("ADASPA_WEBHOOK_SECRETS sets the secrets; add a new one there, before the old one")
    with job_store(data_dir) as jobs:
        fresh = DeliveryStore(jobs.client).rotate_secret(keep)[0]
        tell_auditors(jobs.client, "webhook_secret.rotated")
    say(fresh)


def read(store: DeliveryStore, video_id: str) -> Delivery | DeliveryDamaged | None:
    """Read a video's event; the error itself if its record is damaged, which hides no other."""
    try:
        return store.get(video_id)
    except DeliveryDamaged as error:
        return error


def described(state: State, moment: float, delivery: Delivery | DeliveryDamaged) -> dict[str, Any]:
    """Format an event as JSON, without its URL, which may contain a token."""
    told = {"video_id": delivery.job_id, "state": state, "when": int(moment)}
    if isinstance(delivery, DeliveryDamaged):
        return told | {"type": None, "receiver": None, "attempts": None, "error": f"damaged record: {delivery.problem}"}
    return told | {
        "type": delivery.type,
        "receiver": delivery.receiver,
        "attempts": delivery.attempts,
        "error": delivery.error,
    }


def row(state: State, moment: float, delivery: Delivery | DeliveryDamaged) -> tuple[object, ...]:
    """Format an event for the table."""
    when = written_in_utc(moment)
    shown = described(state, moment, delivery)
    told = ("" if shown[name] is None else shown[name] for name in ("type", "receiver", "attempts", "error"))
    return delivery.job_id, state, when, *told


def nothing(video_id: str) -> str:
    """Return the error for an id without a waiting or dead event."""
    return f"{video_id!r} has no undelivered event; `adaspa webhooks list` shows all of them"
