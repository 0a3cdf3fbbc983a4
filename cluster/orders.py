"""What the coordinator says. Owns: the numbers of commands, what is still unanswered, and the order things leave in."""

from typing import get_args

from cluster.events import (
    Answer,
    Command,
    DrainHost,
    DropAdapter,
    FetchAdapter,
    Forget,
    HostCommand,
    Publish,
    Refuse,
    Save,
    SendAdapter,
)
from cluster.view import HostName
from lorajax.spec import Version

_NUMBERS_PER_ROUND = 2**24
"""More than one life of a coordinator uses: the next one starts beyond, since rounds are durable."""
_HOST_COMMANDS = get_args(HostCommand.__value__)
# What is durable first, then where requests go, then who asked; copies follow, and the last things to go are copies.
_RANK: dict[type[Command], int] = {Save: 0, Forget: 0, Publish: 1, Answer: 2, Refuse: 2, DropAdapter: 4}
_RANK_OF_ORDERS = 3


class Orders:
    """Commands on their way out, and those that hosts have not answered.

    Invariant: a number is given once, and waits until its outcome or the loss of its host.
    Owner: the coordinator.
    """

    def __init__(self) -> None:
        """Start without any."""
        self._last = 0
        self._out: list[Command] = []
        self._waiting: dict[HostName, dict[int, HostCommand]] = {}
        self._host_of: dict[int, HostName] = {}

    def restart(self, round_number: int) -> int:
        """Number beyond everything that an earlier coordinator gave out by this round; returns where that begins."""
        self._last = round_number * _NUMBERS_PER_ROUND
        return self._last

    def number(self) -> int:
        """A new number, of a command or a ticket; larger than all before."""
        self._last += 1
        return self._last

    def send(self, command: Command) -> None:
        """Let a command out at the end of this step; the table is published once, however often it has changed."""
        if isinstance(command, _HOST_COMMANDS):
            self._waiting.setdefault(command.host, {})[command.number] = command
            self._host_of[command.number] = command.host
        if not isinstance(command, Publish) or command not in self._out:
            self._out.append(command)

    def take(self) -> tuple[Command, ...]:
        """What leaves with this step, in the order in which it is to be carried out."""
        out, self._out = self._out, []
        return tuple(sorted(out, key=lambda command: _RANK.get(type(command), _RANK_OF_ORDERS)))

    def answered(self, number: int) -> HostCommand | None:
        """The command whose outcome came; None where nobody waits for it any more."""
        host = self._host_of.pop(number, None)
        return None if host is None else self._waiting[host].pop(number)

    def lose(self, host: HostName) -> tuple[HostCommand, ...]:
        """The commands that count as failed because their host is lost.

        What takes something away is still waited for: a host that was only silent may do it when it goes on.
        """
        waiting = self.waiting(host)
        lost = tuple(one for one in waiting if not isinstance(one, DropAdapter | DrainHost))
        for command in lost:
            self.answered(command.number)
        return lost

    def forget(self, host: HostName) -> None:
        """Wait no more for what a host was told in an earlier life, or on an earlier connection."""
        for number in self._waiting.pop(host, {}):
            del self._host_of[number]

    def waiting(self, host: HostName) -> tuple[HostCommand, ...]:
        """The commands that the host has not answered, oldest first."""
        return tuple(self._waiting.get(host, {}).values())

    def fetches(self, host: HostName) -> tuple[Version, ...]:
        """The adapters on their way to the host."""
        return tuple(one.adapter.version for one in self.waiting(host) if isinstance(one, FetchAdapter))

    def is_sending(self, host: HostName, version: Version) -> bool:
        """Whether the host was told to send its copy and may not have done so yet."""
        return any(isinstance(one, SendAdapter) and one.version == version for one in self.waiting(host))
