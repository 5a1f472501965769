"""Messages for the next page, kept in the session over the redirect."""

from typing import Literal

from websessions import Session

Tone = Literal["good", "bad"]


def flash(session: Session, text: str, tone: Tone = "good") -> None:
    session.setdefault("flash", []).append((tone, text))


def take_flashes(session: Session) -> list[tuple[Tone, str]]:
    """The messages, once. Where there are none, the session stays as it is."""
    messages: list[tuple[Tone, str]] = session.pop("flash", [])
    return messages
