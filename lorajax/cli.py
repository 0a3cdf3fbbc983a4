"""The console script `lorajax`. Owns: which commands there are and how they are grouped. Does not: do their work."""

import click

from lorajax.cli_admin import adapter, drain, status
from lorajax.cli_ask import chat, generate
from lorajax.cli_cluster import coordinate, gateway, host, launch, meet
from lorajax.cli_files import convert, doctor
from lorajax.cli_profile import profile
from lorajax.cli_serve import serve
from lorajax.cli_types import Sections
from lorajax.demo import demo


@click.group(
    cls=Sections,
    sections=(
        ("Start", (demo, serve, launch, doctor, profile)),
        ("Ask", (generate, chat)),
        ("Operate", (adapter, status, drain)),
        ("Files", (convert,)),
        ("Roles that `launch` starts", (coordinate, meet, gateway, host)),
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
First steps:
  lorajax demo                                         everything at once, on this machine
  lorajax serve --adapter pirate=examples/adapters/pirate
  lorajax launch --config cluster.toml                 many hosts
  lorajax generate --adapter pirate "Where is the treasure?"
Exit codes: 0 done, 1 error, 2 bad usage, 130 interrupted.
""",
)
@click.version_option(package_name="lorajax", message="lorajax %(version)s")
def main() -> None:
    """Serve one base model with many LoRA adapters of different ranks."""
