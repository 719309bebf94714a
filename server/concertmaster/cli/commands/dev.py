"""The subcommand `dev`: what helps to try Concertmaster out and to test against it."""

from typing import Any

import anyio
import click

from concertmaster.cli.options import run_async
from concertmaster.fake_api import FAULTS, Behaviour, parse_faults, parse_values, serve_fake_api


@click.group()
def dev() -> None:
    """Try things out and test against them; nothing here is needed to work."""


@dev.command("fake-api")
@click.option("--port", default=8765, show_default=True, help="Port to serve at; 0 is a free one.")
@click.option("--tokens-per-second", type=float, help="Speed of a reply; else all at once.")
@click.option("--first-token-seconds", type=float, help="Time before a reply begins.")
@click.option("--reply-tokens", type=int, help="Length of a reply that is plain text.")
@click.option("--spread", type=float, metavar="PART", help="How far lengths differ from that.")
@click.option(
    "--value",
    "values",
    multiple=True,
    metavar="NAME=JSON",
    help="What a property of that name is in JSON replies, such as allowed=true; repeatable.",
)
@click.option("--subtasks", type=int, help="Subtasks of a plan.")
@click.option("--concurrent", type=int, metavar="N", help="Requests taken at once.")
@click.option("--per-minute", type=int, metavar="R", help="Requests taken per minute.")
@click.option("--key", help="The key that is accepted; else any is.")
@click.option("--faults", metavar="MIX", help="What goes wrong how often: reset=0.1,… or all=0.2.")
@click.option("--seed", type=int, help="Which requests the faults happen to.")
@click.option("--silence-seconds", type=float, help="How long the fault silence lasts.")
@click.option("--pause", is_flag=True, help="Replies that search the web pause once.")
@click.option("--retry-after", type=int, help="Seconds that the fault rate_limit asks to wait.")
def fake_api(port: int, faults: str | None, values: tuple[str, ...], **flags: Any) -> None:
    """Serve a scripted endpoint that speaks Anthropic's Messages API, on this machine.

    Planners get a plan, others words or the plainest JSON that their schema allows, at a speed,
    within limits and with faults of your choice. GET /ledger tells what was asked and charged.
    """
    chosen = {name: value for name, value in flags.items() if value is not None}
    behaviour = Behaviour(faults=parse_faults(faults or ""), values=parse_values(values), **chosen)

    async def work() -> None:
        async with serve_fake_api(behaviour, port=port) as api:
            click.echo(
                f"Serving at {api.address} until Ctrl-C; its ledger: {api.address}/ledger", err=True
            )
            click.echo(f"To use it: CONCERTMASTER_BASE_URL={api.address}", err=True)
            await anyio.sleep_forever()

    run_async(work)


fake_api.epilog = f"Faults: {', '.join(FAULTS)}."
