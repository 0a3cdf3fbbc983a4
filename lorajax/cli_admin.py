"""`lorajax adapter`, `status` and `drain`: look after a running server. Owns: how it is shown.
Does not: decide anything.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from cluster.client import Client
from cluster.config import format_bytes
from cluster.records import AdapterInfo, HostInfo
from lorajax.cli_types import call, console, target_option
from lorajax.spec import num_rank_pages

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")


@click.group(
    epilog="""\b
Examples:
  lorajax adapter list
  lorajax adapter load sql ~/adapters/sql --pin
  lorajax adapter unload sql
"""
)
def adapter() -> None:
    """List, load, unload and pin adapters."""


@adapter.command("list")
@target_option
@_json_option
def list_adapters(*, target: str, as_json: bool) -> None:
    """Show every adapter: rank, size, where its pages are."""
    adapters = call(target, Client.adapters)
    _show(adapters, as_json=as_json, table=_adapter_table)


@adapter.command()
@target_option
@click.option("--replace", is_flag=True, help="Give a taken name this content; running requests finish on the old.")
@click.option("--pin", is_flag=True, help="Keep it on the device.")
@click.argument("name")
@click.argument("path")
def load(*, target: str, replace: bool, pin: bool, name: str, path: str) -> None:
    """Load the PEFT folder PATH of the server's machine as NAME.

    PATH lies below one of the folders given to `lorajax serve --adapter-root`.
    """
    # A folder that exists here is meant from here; anything else is the server's to find below its roots.
    seen = str(Path(path).resolve()) if Path(path).exists() else path
    info = call(target, lambda client: client.load(name, seen, replace=replace, pin=pin))
    click.echo(f"{info.name}: rank {info.rank}, {format_bytes(info.num_bytes)}, version {info.version[:12]}")


@adapter.command()
@target_option
@click.option("--force", is_flag=True, help="Also while requests use it; they finish.")
@click.argument("name")
def unload(*, target: str, force: bool, name: str) -> None:
    """Forget the adapter NAME."""
    num_running = call(target, lambda client: client.unload(name, force=force))
    click.echo(f"{name} is unloaded" + (f"; requests still finishing on it: {num_running}" if num_running else ""))


@adapter.command()
@target_option
@click.option("--off", is_flag=True, help="Let it go again.")
@click.argument("name")
def pin(*, target: str, off: bool, name: str) -> None:
    """Keep the adapter NAME on the device."""
    info = call(target, lambda client: client.pin(name, on=not off))
    click.echo(f"{info.name} is {'pinned' if info.is_pinned else 'no longer pinned'}")


@click.command()
@target_option
@_json_option
def status(*, target: str, as_json: bool) -> None:
    """Show hosts, requests, pages and adapters."""
    hosts = call(target, Client.status)
    _show(hosts, as_json=as_json, table=_host_table)
    if not as_json:
        for host in (host for host in hosts if host.adapters):
            console().print(_residency_table(host))


@click.command()
@target_option
@click.argument("host", default="")
def drain(*, target: str, host: str) -> None:
    """Stop new requests, let the running ones finish.

    HOST is the host's name in `lorajax status`; it may be left out where there is only one. It ends then, and in a
    cluster that `lorajax launch` looks after it starts anew.
    """
    num_running = call(target, lambda client: client.drain(host))
    click.echo(f"{host or target} is draining; requests still finishing: {num_running}")


def _show[R: (AdapterInfo, HostInfo)](
    records: Sequence[R], *, as_json: bool, table: Callable[[Sequence[R]], Table]
) -> None:
    if as_json:
        for record in records:
            click.echo(json.dumps(asdict(record), ensure_ascii=False))
    else:
        console().print(table(records))


def _table(title: str, *columns: str) -> Table:
    """A plain table; columns that start with "#" are numbers and stand right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(
            column.lstrip("#"), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return table


def _adapter_table(adapters: Sequence[AdapterInfo]) -> Table:
    table = _table("", "adapter", "#rank", "#pages", "#size", "pinned", "where", "version")
    for info in adapters:
        where = ", ".join(f"{host}: {level}" for host, level in info.level_of) or "store"
        row = (info.name, str(info.rank), str(num_rank_pages(info.rank)), format_bytes(info.num_bytes))
        table.add_row(*row, "yes" if info.is_pinned else "", where, info.version[:12])
    return table


def _host_table(hosts: Sequence[HostInfo]) -> Table:
    table = _table(
        "", "host", "state", "model", "#running", "#waiting", "#tokens/s", "#KV pages", "#adapter pages", "#up"
    )
    for host in hosts:
        pages = (f"{used}/{total}" for used, total in (host.kv_pages, host.adapter_pages))
        row = (
            host.name,
            host.state,
            host.model,
            str(host.num_running),
            str(host.num_waiting),
            f"{host.tokens_per_s:.1f}",
        )
        table.add_row(*row, *pages, f"{host.uptime_s:.0f} s")
    return table


def _residency_table(host: HostInfo) -> Table:
    table = _table(f"\nAdapters of {host.name}", "adapter", "#rank", "level", "pinned", "#requests", "version")
    for info in host.adapters:
        pinned = "yes" if info.is_pinned else ""
        table.add_row(info.name, str(info.rank), info.level, pinned, str(info.num_requests), info.version[:12])
    return table
