"""Join tokens: their text, and what they change in the ring.

Rules kept here:
- a token is a pair of its own: the secret is in the text that is handed over and nowhere else, the ring has the public key;
- a key is admitted and the use counted in one change of the ring, so that a one-use token admits one key, whoever comes at once;
- what the holder of a token says is a wish: the role is the token's, and so is the name where it has one;
- a name for which there is a token is nobody else's;
- the text has a checksum against a line that was cut when it was pasted; what makes a forged one worthless is the ring.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zcluster.config import ipc_path, name_fault, nearest, parse_address
from zcluster.config.addresses import MAX_ADDRESSES
from zcluster.core.joining import as_name, free_name
from zcluster.errors import ConfigError, InvalidKey, NoSuchKey, NotAllowed
from zcluster.keys.pair import KeyPair, check_public, generate, public_of
from zcluster.keys.rights import check_role
from zcluster.keys.ring import Ring
from zcluster.keys.ringedits import Adding
from zcluster.keys.ringfile import MAX_TOKEN_USES, MAX_TOKENS, TOKEN_ID_CHARS, Content, Entry, Token, instant, iso

PREFIX = "zcj1-"
MAX_TOKEN_CHARS = 8192
MAX_TTL_S = 30 * 86_400.0
CHECK_BYTES = 4

_FIELDS = {"master", "secret", "cluster", "addresses", "role", "name"}


@dataclass(frozen=True)
class TokenText:
    """What a token's text says.

    Attributes:
        pair: the token's own; the repr hides the secret.
        master_public: the public key of the master, which proves that it is the right one.
        cluster: the cluster's name.
        addresses: where the master takes requests.
        role, name: as the ring has them, for who joins to know beforehand; the ring decides.
    """

    pair: KeyPair = field(repr=False)
    master_public: str
    cluster: str
    addresses: tuple[str, ...]
    role: str
    name: str = ""

    @property
    def text(self) -> str:
        """The text that is handed over: a secret."""
        said = {
            "master": self.master_public, "secret": self.pair.secret, "cluster": self.cluster,
            "addresses": list(self.addresses), "role": self.role, "name": self.name,
        }  # fmt: skip
        data = json.dumps(said, separators=(",", ":")).encode()
        return PREFIX + base64.urlsafe_b64encode(_check(data) + data).decode("ascii").rstrip("=")

    @classmethod
    def read(cls, text: str) -> TokenText:
        """What ``text`` says.

        Raises:
            InvalidKey: it is no token; it is not quoted.
        """
        text = text.strip()
        hint = "paste the whole token, as `zcluster token create` printed it"
        if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARS:
            raise InvalidKey(f"a join token begins with {PREFIX} and has at most {MAX_TOKEN_CHARS} characters", hint=hint)
        coded = text.removeprefix(PREFIX)
        try:
            raw = base64.b64decode(coded + "=" * (-len(coded) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidKey("the join token is damaged: it has characters that no token has", hint=hint) from None
        data = raw[CHECK_BYTES:]
        one_way = base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=") == coded
        if not one_way or not secrets.compare_digest(raw[:CHECK_BYTES], _check(data)):
            raise InvalidKey("the join token is damaged: a part of it is missing or was changed", hint=hint)
        try:
            return _read_fields(json.loads(data))
        except (InvalidKey, ConfigError) as error:
            raise InvalidKey(f"the join token is wrong: {error.message}", hint=hint) from None
        except (ValueError, RecursionError):
            raise InvalidKey("the join token is wrong: it is not JSON inside", hint=hint) from None


def create_token(
    ring: Ring, role: str, *, name: str = "", ttl_s: float, uses: int = 1, creator: str = "", force: bool = False,
    bases: Mapping[str, str] | None = None,
) -> tuple[Token, KeyPair]:
    """Make a token and note it in the ring; returns it with its pair, whose secret nobody else has.

    Args:
        ring: the master's.
        role: of the keys that it will admit.
        name: of the one key that it will admit; empty: the joiner may wish.
        ttl_s: how long it is valid.
        uses: how many keys it admits.
        creator: the id of the key that makes it; the token is worth nothing when that key is revoked.
        force: also a token that admits administrators.
        bases: of the roles of the configuration, what each is a part of.

    Raises:
        InvalidKey: something is out of its bounds, the name is taken, or there are too many tokens.
        NotAllowed: the key that makes it is not admitted.
        Busy: another process kept the ring locked.
    """
    _check_wanted(role, name, ttl_s, uses)
    if (bases or {}).get(role, role) == "admin" and not force:
        raise InvalidKey("a token for an administrator lets its holder do everything", hint="--force makes it all the same")
    pair, now_s = generate(), time.time()
    token = Token(secrets.token_hex(TOKEN_ID_CHARS // 2), pair.public, role, name, uses, iso(now_s), iso(now_s + ttl_s), creator)

    def edit(content: Content) -> tuple[Content, Token]:
        if name in content.entries:
            raise InvalidKey(f"the ring has a key {name!r} already", hint="choose another name, or revoke that key first")
        if token.creator and not any(entry.id == token.creator for entry in content.entries.values()):
            raise NotAllowed("the key that makes this token is no longer admitted")
        tokens = {id_: each for id_, each in content.tokens.items() if each.public != token.public}
        if len(tokens) >= MAX_TOKENS:
            # what is over is kept to say why it is refused; it makes room, the oldest first
            over = [id_ for id_, each in tokens.items() if refusal(each, now_s)]
            for id_ in sorted(over, key=lambda id_: tokens[id_].expires_at)[: len(tokens) - MAX_TOKENS + 1]:
                del tokens[id_]
        if len(tokens) >= MAX_TOKENS:
            raise InvalidKey(f"there are {MAX_TOKENS} tokens", hint="revoke some: zcluster token ls, zcluster token revoke ID")
        return content._replace(tokens={**tokens, token.id: token}), token

    return ring.change(edit), pair


def revoke_token(ring: Ring, id_: str) -> Token:
    """Let the token admit nobody any more; nothing when it is revoked already.

    Raises:
        NoSuchKey: there is no such token.
        Busy: another process kept the ring locked.
    """

    def edit(content: Content) -> tuple[Content, Token]:
        token = content.tokens.get(id_)
        if token is None:
            near = nearest(id_, content.tokens)
            hint = f"did you mean {near!r}?" if near else "`zcluster token ls` lists them"
            raise NoSuchKey(f"there is no token {id_[:80]!r}", hint=hint)
        if token.revoked_at:
            return content, token
        gone = replace(token, revoked_at=iso(time.time()))
        return content._replace(tokens={**content.tokens, id_: gone}), gone

    return ring.change(edit)


def forget_token(ring: Ring, id_: str) -> None:
    """Undo :func:`create_token` as if it had never been.

    Raises:
        Busy: another process kept the ring locked.
    """

    def edit(content: Content) -> tuple[Content, None]:
        return content._replace(tokens={each: token for each, token in content.tokens.items() if each != id_}), None

    ring.change(edit)


def refusal(token: Token, now_s: float) -> str:
    """Why ``token`` admits nobody at ``now_s`` (seconds since 1970); empty: it does."""
    if token.revoked_at:
        return "revoked"
    if token.uses_left < 1:
        return "used up"
    return "expired" if instant(token.expires_at) <= now_s else ""


class Joins:
    """Keys admitted by tokens, one after the other, in one change of ``content``."""

    def __init__(self, content: Content, now_s: float) -> None:
        self._before, self._now_s = content, now_s
        self._adding = Adding(content)
        self._tokens = dict(content.tokens)
        self._id_of = {token.public: id_ for id_, token in content.tokens.items()}
        self._came = {public: each for each in content.entries.values() if each.token for public in each.publics}
        self._ids = {entry.id for entry in content.entries.values()}
        promised = (token.name for token in content.tokens.values() if not refusal(token, now_s))
        self._names = {*content.entries, *promised}

    def join(self, token_public: str, public: str, wish: str) -> Entry:
        """Admit the key ``public`` by the token of ``token_public``: its entry.

        A key that came by this token already is as it was: who asks twice gets the same answer.

        Raises:
            NotAllowed: the token is over or unknown; the message is for the master's log, not for the joiner.
            InvalidKey: the key or the name cannot be admitted; likewise.
        """
        id_ = self._id_of.get(token_public)
        if id_ is None:
            raise NotAllowed("the token is unknown")
        token, came = self._tokens[id_], self._came.get(public)
        if came is not None and came.token == id_:
            return came
        reason = refusal(token, self._now_s)
        if reason:
            raise NotAllowed(f"the token is {reason}")
        if token.creator and token.creator not in self._ids:
            raise NotAllowed("the key that made the token is no longer admitted")
        name = token.name or free_name(as_name(wish, token.role), self._names)
        entry = Entry(name, token.role, public, iso(self._now_s), token=id_)
        self._adding.add(entry)
        self._tokens[id_] = replace(token, uses_left=token.uses_left - 1)
        self._came[public] = entry
        self._names.add(name)
        return entry

    @property
    def count(self) -> int:
        """How many keys are admitted."""
        return len(self._adding.entries)

    @property
    def content(self) -> Content:
        """What is to be in the ring; the very same content when nobody was admitted."""
        content = self._adding.content
        return content if content is self._before else content._replace(tokens=self._tokens)


def _check_wanted(role: str, name: str, ttl_s: float, uses: int) -> None:
    check_role(role)
    if role == "master":
        raise InvalidKey("a master does not join by a token", hint="zcluster keys new NAME --role master")
    fault = name_fault(name) if name else ""
    if fault:
        raise InvalidKey(fault)
    if name == "master":
        raise InvalidKey("the name 'master' is only for a key of role master", hint="choose another name")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidKey(f"a token is valid for some time, at most {MAX_TTL_S / 86_400:.0f} days", hint="such as --ttl 1h")
    if not 1 <= uses <= (1 if name else MAX_TOKEN_USES):
        allowed = "1 use where it has a name" if name else f"at least 1 use, and at most {MAX_TOKEN_USES}"
        raise InvalidKey(f"a token has {allowed}", hint="choose another --uses")


def _read_fields(said: Any) -> TokenText:
    if not isinstance(said, dict) or said.keys() != _FIELDS:
        raise InvalidKey(f"it does not have exactly the fields {', '.join(sorted(_FIELDS))}")
    addresses = said["addresses"]
    if not isinstance(addresses, list) or len(addresses) > MAX_ADDRESSES or not all(isinstance(each, str) for each in addresses):
        raise InvalidKey(f"addresses must be a list of at most {MAX_ADDRESSES} addresses")
    if not all(isinstance(said[name], str) for name in _FIELDS - {"addresses"}):
        raise InvalidKey("a field is not a text")
    for each in addresses:
        parse_address(each)
    for name in filter(None, (said["cluster"], said["name"])):
        fault = name_fault(name)
        if fault:
            raise InvalidKey(fault)
    pair = KeyPair(public_of(said["secret"]), said["secret"])
    check_public(said["master"])
    return TokenText(pair, said["master"], said["cluster"], tuple(addresses), check_role(said["role"]), said["name"])


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECK_BYTES).digest()


def addresses_of(now: Sequence[str], noted: Sequence[str]) -> tuple[str, ...]:
    """Where a token's holder finds the master: its addresses of ``now``, or without any those ``noted`` in its key file.

    Raises:
        InvalidKey: there is none.
    """
    found = tuple(each for each in tuple(now) or tuple(noted) if not ipc_path(each))  # a Unix socket is not the joiner's
    if not found:
        raise InvalidKey("the master's key file knows no address", hint="start the master once: it notes its addresses")
    return found
