"""One answer as it is written. Owns: which tokens may be shown yet, with which text, and why it ended. Does no I/O."""

import dataclasses

from cluster.calls import Shown
from cluster.seams import StreamDecoder
from lorajax.spec import Event, Failed, Finished, FinishReason, TokenEvent


class Transcript:
    """The events of one request, in order, to tokens with text.

    Invariant: a token is shown once, after all before it, and never while text is held back: what `flush` returns at
    the end always has a token to stand on. No token counts after a stop string. Owner: the request's task.
    """

    def __init__(self, decoder: StreamDecoder) -> None:
        """Nothing written yet."""
        self._decoder = decoder
        self._held: Shown = []
        self.num_tokens = 0
        """Up to the one that completed a stop string."""
        self.finished: Finished | None = None
        """How it ended well; the tokens that the engine made after a stop string are not counted."""
        self.error: Exception | None = None

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string ended the text: the engine is to end the request, if it has not yet."""
        return self._decoder.stopped

    @property
    def has_ended(self) -> bool:
        """Whether nothing can follow."""
        return self.finished is not None or self.error is not None

    def push(self, event: Event) -> Shown:
        """The tokens that may be shown now."""
        match event:
            case TokenEvent(token=token):
                if self.has_stopped:
                    return []
                self._held.append((token, self._decoder.push(token.id)))
                self.num_tokens += 1
                if self._decoder.is_holding and not self.has_stopped:
                    return []
            case Finished():
                self.finished = self._exact(event)
                if self._held:
                    token, text = self._held[-1]
                    self._held[-1] = (token, text + self._decoder.flush())
            case Failed():
                self.error = event.error
        shown, self._held = self._held, []
        return shown

    def _exact(self, event: Finished) -> Finished:
        """The engine's last word, less what it did between the stop string and hearing of it."""
        if not self.has_stopped:
            return event
        return dataclasses.replace(event, reason=FinishReason.STOP, num_completion_tokens=self.num_tokens)
