"""What stands round a serving process. Owns: its log, its exit code, its last words. Does not: know what it serves."""

import logging
import socket
import sys
from collections.abc import Callable

from cluster.config import parse_address
from lorajax.cli_types import EXIT_FAILED, EXIT_USAGE
from lorajax.errors import LorajaxError, MalformedCheckpoint, UnsupportedModel

_log = logging.getLogger("lorajax")


def run(command: str, work: Callable[[], int]) -> int:
    """Do the work; returns its exit code, or an error's after one line that names the command and says why.

    2 where a flag or a key, or the model that it names, has to change, 1 for what else goes wrong.
    """
    # A library we import puts its own handler on the root logger.
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        return work()
    except (ValueError, UnsupportedModel, MalformedCheckpoint) as error:
        return _failed(command, error, EXIT_USAGE)
    except (LorajaxError, OSError) as error:
        return _failed(command, error, EXIT_FAILED)
    except Exception as error:  # noqa: BLE001  # the border of this process: ends it, and may not wait for XLA
        _log.critical("a bug or a broken device", exc_info=error)
        return _failed(command, error, EXIT_FAILED)


def _failed(command: str, error: Exception, code: int) -> int:
    words = " ".join(str(error).split()) or type(error).__name__
    print(f"lorajax {command}: {words}", file=sys.stderr)  # noqa: T201  # the last word to whoever started us
    return code


def check_free(flag: str, address: str) -> None:
    """Raise ValueError, naming the flag, if nobody could listen there."""
    host, port = parse_address(address)
    try:
        family, *_, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        socket.create_server(where, family=family).close()
    except OSError as error:
        raise ValueError(f"cannot listen on {address}: {error.strerror}; choose another {flag} HOST:PORT") from None
