"""`lorajax serve`: flags in, `ServeConfig` out. Owns: the flags of one serving process and their defaults.
Does not: build or run anything (cluster/launch.py does).
"""

from collections.abc import Callable

import click

from cluster.config import ServeConfig
from lorajax.bundled import HOW_TO_GET_MODEL, default_model
from lorajax.cli_types import (
    ADDRESS,
    DEFAULT_TARGET,
    DTYPES,
    MODEL,
    NAMED_FOLDER,
    SIZE,
    Flag,
    bad_usage,
    import_on_use,
)
from lorajax.config import EngineConfig

_FOLDER = click.Path(exists=True, file_okay=False, resolve_path=True)
_ENGINE_OPTIONS = (
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        default="bfloat16",
        show_default=True,
        help="Of weights, KV and adapters on the device.",
    ),
    click.option(
        "--tp", "tensor_parallel", type=click.IntRange(1), default=1, show_default=True, help="Devices per copy."
    ),
    click.option("--kv-bytes", type=SIZE, default="256MiB", show_default=True, help="Device memory of KV pages."),
    click.option("--adapter-bytes", type=SIZE, default="256MiB", show_default=True, help="Device memory of adapters."),
    click.option("--host-adapter-bytes", type=SIZE, default="1GiB", show_default=True, help="Host memory of adapters."),
    click.option(
        "--max-batch-tokens", type=click.IntRange(1), default=256, show_default=True, help="Tokens of one step."
    ),
    click.option(
        "--interleaved-tokens",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        help="Prompt tokens of a step that also decodes.",
    ),
    click.option(
        "--max-sequences", type=click.IntRange(1), default=16, show_default=True, help="Requests decoded together."
    ),
    click.option(
        "--max-queue", type=click.IntRange(1), default=1024, show_default=True, help="Requests waiting before refusals."
    ),
)


kernels_option = click.option(
    "--kernels",
    type=click.Choice(("auto", "native", "xla", "reference", "mosaic", "triton")),
    default="auto",
    show_default=True,
    help="LoRA and attention: native is C++ for CPUs, the reference is slow and obvious.",
)


def engine_options[F: Callable[..., Flag]](command: F) -> F:
    """The flags that say what would be served, shared by `serve`, `doctor` and `profile`."""
    model = click.option(
        "--model",
        type=MODEL,
        help="Hugging Face or Orbax folder, or GGUF file.  [default: SmolLM2-135M-Instruct, where installed]",
    )
    for option in reversed((model, *_ENGINE_OPTIONS)):
        command = option(command)
    return command


def serving_options[F: Callable[..., Flag]](command: F) -> F:
    """The flags that say what would be served where, shared by `serve` and `doctor`."""
    grpc = click.option(
        "--grpc", type=ADDRESS, default=DEFAULT_TARGET, show_default=True, help="Listen here; port 0: any."
    )
    return engine_options(grpc(command))


def chosen_model(options: dict[str, Flag]) -> str:
    """The base model out of the flags of `engine_options`; bad usage where there is none."""
    model = options["model"] or default_model()
    if model is None:
        raise click.UsageError(f"--model is missing and the default model is not installed; {HOW_TO_GET_MODEL}")
    return str(model)


def engine_config(options: dict[str, Flag]) -> EngineConfig:
    """The engine's sizes out of the flags of `engine_options`."""
    names = (
        "kv_bytes",
        "adapter_bytes",
        "host_adapter_bytes",
        "max_batch_tokens",
        "interleaved_tokens",
        "max_sequences",
        "max_queue",
    )
    with bad_usage():
        return EngineConfig(**{name: options[name] for name in (*names, "dtype", "tensor_parallel")})


@click.command(
    epilog=f"""\b
Examples:
  lorajax serve                                            the default model ({HOW_TO_GET_MODEL})
  lorajax serve --model ~/models/qwen3-0.6b --adapter sql=~/adapters/sql
  lorajax serve --adapter-root ~/adapters --adapter-bytes 2GiB --max-sequences 64
  lorajax serve --http 127.0.0.1:8000    and then: curl http://127.0.0.1:8000/v1/models
Prints one line READY grpc=HOST:PORT … when it can answer. SIGTERM or Ctrl-C drains, a second one stops at once.
"""
)
@serving_options
@click.option("--http", type=ADDRESS, help="Answer OpenAI's HTTP here too (needs lorajax[http]); port 0: any.")
@click.option("--adapter", "adapters", type=NAMED_FOLDER, multiple=True, help="Load this PEFT folder. May be repeated.")
@click.option("--adapter-root", "adapter_roots", type=_FOLDER, multiple=True, help="`adapter load` may read below it.")
@kernels_option
@click.option("--drain-s", type=float, default=30.0, show_default=True, help="Time to finish after SIGTERM, in s.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine, unencrypted and without passwords.")
def serve(**options: Flag) -> int:
    """Serve one base model and its adapters."""
    model = chosen_model(options)
    with bad_usage():
        config = ServeConfig(
            model=model,
            engine=engine_config(options),
            **{
                name: options[name]
                for name in ("grpc", "http", "adapters", "adapter_roots", "drain_s", "insecure", "kernels")
            },
        )
    return int(import_on_use("cluster.launch").serve(config))
