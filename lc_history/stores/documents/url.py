"""The URLs of document stores, in which nothing is passed over: a misspelled option would send words elsewhere."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit


def parted(url: str, *, example: str, known: tuple[str, ...]) -> tuple[str, str, dict[str, str]]:
    """Return the host, the path and the options of a URL; `ValueError` where it has an option that is not known."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in options if name not in known]
    if unknown or parts.fragment:
        what = f"the option {unknown[0]!r}" if unknown else f"the fragment {parts.fragment!r}"
        message = f"{url!r} has {what}, which is not known; a URL looks like {example}"
        raise ValueError(message)
    return parts.netloc, parts.path.strip("/"), {name: value for name, value in options.items() if value}
