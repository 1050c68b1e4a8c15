"""Stop texts, found in a completion while its tokens arrive."""

from __future__ import annotations

from collections.abc import Sequence

from spectr_runtime.rows.text.detokenizer import TextStream, common_length


class StopText:
    """Watches a completion for stop texts while its tokens arrive.

    A stop text is found with the first token after which it stands in the completion, whatever tokens follow. The start
    of a character, for instance, is no text yet, unless it is the completion's end.

    Args:
        stream: A text without tokens yet.
        prompt_ids: Token ids of the prompt.
        stops: Non-empty texts, any of which ends the completion.
    """

    def __init__(self, stream: TextStream, prompt_ids: Sequence[int], stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._overlap = max(map(len, stops)) - 1  # how much of a stop text may stand before the newest text
        self._stream = stream
        self._stream.push(prompt_ids)
        self._prompt_rest = self._stream.rest()  # the end of the prompt's text, which the completion may change
        self._written: list[str] = []
        self._end = ""  # the end of what was written

    def push(self, token: int, *, held: bool = False, last: bool = False) -> str | None:
        """Take one token, and return the text of a completion that it ends.

        Args:
            token: The token.
            held: Whether it is too early for a stop text to end the completion.
            last: Whether the completion ends with the token in any case.

        Returns:
            The completion's text before the first stop text that the token completed; None if it completed none.
        """
        text = self._stream.push([token])
        new = self._less_prompt(text + self._stream.rest() if last else text)
        before, window = len(self._end), self._end + new
        self._written.append(new)
        self._end = window[-self._overlap :] if self._overlap else ""
        found = [] if held else [start for stop in self._stops if (start := _find(window, stop, before)) >= 0]
        return self._text(len(window) - min(found)) if found else None

    def _less_prompt(self, text: str) -> str:
        """Return new text without what the prompt showed of it already."""
        same = common_length(self._prompt_rest, text)
        self._prompt_rest = self._prompt_rest[same:] if same == len(text) else ""
        return text[same:]

    def _text(self, dropped: int) -> str:
        """Return what was written without so many characters at the end."""
        written = "".join(self._written)
        return written[: len(written) - dropped]


def _find(window: str, stop: str, before: int) -> int:
    """Return where a stop text starts that does not end within the first characters of a window; -1 if none does."""
    return window.find(stop, max(0, before - len(stop) + 1))
