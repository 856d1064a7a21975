"""``lc-history chat``: a conversation that is still there tomorrow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from rich.text import Text

from lc_history.cli.app import USER, Url, User, app, console, opened, visible
from lc_history.errors import HistoryError, extra
from lc_history.offline import OfflineChatModel
from lc_history.with_history import with_history


@app.command()
def chat(
    session: Annotated[str, typer.Argument(help="The session's id.")] = "chat",
    *,
    url: Url = None,
    user: User = USER,
    model: Annotated[
        str | None, typer.Option(help="provider:name, as init_chat_model knows it; an offline one by default.")
    ] = None,
) -> None:
    """Talk, and find the conversation again the next time. An empty line or Ctrl-D ends it."""
    out = console()
    with opened(url) as histories:
        talk = with_history(_model(model), histories)
        said = histories.session(session, user_id=user).last(4)
        for message in said:
            out.print(Text(visible(f"{_speaker(message)}> {message.text}"), style="dim"))
        config: Any = {"configurable": {"session_id": session, "user_id": user}}
        while words := _asked():
            out.print(Text("model> ", style="bold"), end="")
            with closing(talk.stream(words, config)) as chunks, _of_model(model):  # Ctrl-C keeps what has been said
                for chunk in chunks:
                    out.print(Text(visible(chunk.text)), end="")
                    sys.stdout.flush()
            out.print()


def _model(name: str | None) -> BaseChatModel:
    if name is None:
        return OfflineChatModel()
    with extra("agents"):
        from langchain.chat_models import init_chat_model
    try:
        with _of_model(name):
            made: BaseChatModel = init_chat_model(name)
    except ImportError as error:
        message = f"the model {name!r} needs its package: {error}"
        raise ValueError(message) from error
    return made


@contextmanager
def _of_model(name: str | None) -> Iterator[None]:
    """Let what a provider's package raises be one readable line: a missing key, no credit, no network."""
    try:
        yield
    except (HistoryError, ImportError, OSError):
        raise
    except Exception as error:
        message = f"the model {name!r} failed: {type(error).__name__}: {error}"
        raise ValueError(message) from error


def _asked() -> str:
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _speaker(message: BaseMessage) -> str:
    return {"human": "you", "ai": "model"}.get(message.type, message.type)
