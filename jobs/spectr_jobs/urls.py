"""URLs as texts: the parts that give access, which are secret, and the parts that say which file is meant.

Access is a password before the host, and parameters such as signatures and tokens. It may differ between two commands
of one run, since signatures expire, and it is neither shown nor written where others can read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

HIDDEN = "***"
_SHORTEST = 4  # characters of a parameter that is looked for outside of URLs
# The second form is a password with a slash in it, which should be written %2F; digits alone are a port.
_USER = re.compile(
    r"([a-z][a-z0-9+.\-]*)://([^\s/?#]*@|[^\s/:@?#]*:(?!:|\d+(?:[/?#]|$))[^\s@]*@)",
    re.IGNORECASE,
)
_PLACES = ("github", "git")  # schemes that have an owner and a repository, or a path, in the place of user and password
_QUERY = re.compile(r"[?&#][^\s\"'<>]*")
_PUNCTUATION = re.compile(r"[).,:;!\]}]*$")  # behind a URL in a sentence
# Names of parameters in small letters, without dashes and underscores.
_ACCESS = re.compile(
    r"x(amz|goog).*|"  # S3 and Google, in the fourth version of their signatures
    r"xoss(signature.*|credential|date|expires|securitytoken|additionalheaders)|"
    r"q(signalgorithm|ak|signtime|keytime|headerlist|urlparamlist|signature)|"
    r"(x(cos|obs|bce))?securitytoken|"
    r"signature.*|sig|hmac|md5|expires?|expiry|expiration|policy|keypairid|keyname|urlprefix|"
    r".*accesskeyid|googleaccessid|accessid|"
    r"hdn(ts|ea|tl)|tempauth|auth|authorization|jwt|bearer|key|pwd|"
    r".*(token|secret|passwo?r?d|passphrase|signature|credentials?)|"
    r".*(api|access|auth|account|secret|private|shared?|subscription|function|license|resource|rl)key"
)
# Parameters of Azure's signatures, too short to be known without the one called sig.
_OF_AZURE = re.compile("s(v|s|rt|p|e|t|pr|r|ip|i|es|dd|cid|koid|ktid|kt|ke|ks|kv|aoid|uoid)")


def masked(text: str, *known: str) -> str:
    """Return a text with ``***`` for what gives access in the URLs that stand in it.

    Args:
        text: A text, for instance a message of a library.
        known: URLs whose secrets may also stand alone in the text.
    """
    text = _QUERY.sub(lambda found: _shown(found[0]), _USER.sub(_with_user(f"{HIDDEN}@"), text))
    for secret in sorted({secret for url in known for secret in _secrets(url)}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def identity(url: str) -> str:
    """Return a URL without what gives access: the same for every signature, another one for every file."""
    return _QUERY.sub(lambda found: _kept(found[0]), _USER.sub(_with_user(""), url), count=1)


def _with_user(instead: str) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}://{instead}" if _is_access(*found.groups()) else found[0]

    return replace


def _is_access(scheme: str, user: str) -> bool:
    """Return whether what stands before a host is secret. A user alone is, over HTTP, where a token stands there."""
    return scheme.lower() not in _PLACES and (":" in user or scheme.lower().startswith("http"))


def _shown(query: str) -> str:
    end = _PUNCTUATION.search(query)
    tail = end[0] if end else ""
    whole = query.removesuffix(tail)
    kept = _kept(whole)
    return query if kept == whole else f"{kept}{'&' if kept else whole[0]}{HIDDEN}{tail}"


def _kept(query: str) -> str:
    """Return a query, which may have a fragment, without the parameters that give access."""
    kept = "".join(mark + part for mark, part, access in _parameters(query) if not access)
    return query[0] + kept[1:] if kept.startswith("&") else kept


def _parameters(query: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the sign before every parameter, the parameter, and whether it gives access."""
    marks, parts = re.findall("[?&#]", query), re.split("[?&#]", query)[1:]
    names = [re.sub("[^a-z0-9]", "", unquote(part.partition("=")[0]).lower()) for part in parts]
    for mark, part, name in zip(marks, parts, names, strict=True):
        access = bool(_ACCESS.fullmatch(name)) or ("sig" in names and _OF_AZURE.fullmatch(name) is not None)
        yield mark, part, access and "=" in part


def _secrets(url: str) -> Iterator[str]:
    """Yield the secrets of a URL, as they are written there and without percent signs."""
    for scheme, user in _USER.findall(url):
        if _is_access(scheme, user):
            login = user.removesuffix("@")
            yield from (login, unquote(login))
            yield from (secret for secret in (login.partition(":")[2], unquote(login.partition(":")[2])) if secret)
    for query in _QUERY.findall(url):
        for _, part, access in _parameters(query):
            value = part.partition("=")[2]
            if access and len(value) >= _SHORTEST:
                yield from (value, unquote(value))
