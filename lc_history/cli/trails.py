"""``lc-history audit``: who did what to a conversation, and whether its trail is whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lc_history.cli.app import TRAIL, USER, AsJson, SessionName, User, app, show_rows, trail_at
from lc_history.privacy.audit import AuditEvent, AuditHead

TrailUrl = Annotated[
    str, typer.Option("--url", envvar=TRAIL, help="The store of the audit trail, which is not the conversations'.")
]


@app.command()
def audit(
    session: SessionName,
    *,
    url: TrailUrl,
    user: User = USER,
    last: Annotated[int | None, typer.Option(help="Only the last so many events.")] = None,
    known: Annotated[
        str | None, typer.Option(metavar="SEQ:DIGEST", help="A head printed earlier, which the trail must still have.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print who did what to a conversation, after making sure that the trail is whole. Exit code 5 when it is not.

    Every command records what it does in the trail that LC_HISTORY_AUDIT names.
    """
    with trail_at(url) as trail:
        head = trail.verify(session, user_id=user, known=_head(known))
        events = trail.events(session, user_id=user, last=last)
    if head is None:
        message = f"there is no trail of session {session!r} of user {user!r}"
        raise KeyError(message)
    show_rows(["seq", "at", "actor", "action", "detail"], map(_event_row, events), as_json=as_json)
    typer.echo(f"whole; its head is {head.seq}:{head.digest}", err=True)


def _head(known: str | None) -> AuditHead | None:
    if known is None:
        return None
    seq, _, digest = known.partition(":")
    if not seq.isdecimal() or not digest:
        message = f"{known!r} is no head of a trail: give SEQ:DIGEST as this command has printed it"
        raise typer.BadParameter(message)
    return AuditHead(int(seq), digest)


def _event_row(event: AuditEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "actor": event.actor or "",
        "action": event.action,
        "detail": event.detail,
    }
