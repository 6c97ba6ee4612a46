"""Consistency tokens, taken apart and made: a position, the tenant, and a code that only the database's key makes."""

import base64
import dataclasses
import hashlib
import hmac
import struct

FORM = struct.Struct(">QIQq")
CODE_BYTES = 16
DOMAIN = b"sheaf consistency token 1"
LSN_MAX = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Token:
    system_id: int
    timeline: int
    lsn: int
    tenant: int

    def changed(self, **members):
        return dataclasses.replace(self, **members)

    def sealed(self, signing_key):
        """As a server with this key would have made it."""
        payload = FORM.pack(self.system_id, self.timeline, self.lsn, self.tenant)
        key = hmac.digest(signing_key, DOMAIN, hashlib.sha256)
        code = hmac.digest(key, payload, hashlib.sha256)[:CODE_BYTES]
        return "t1." + base64.urlsafe_b64encode(payload + code).decode().rstrip("=")


def opened(text):
    """What is written in a token; its code is not looked at."""
    kind, _, inside = text.partition(".")
    data = base64.urlsafe_b64decode(inside + "=" * (-len(inside) % 4))
    if kind != "t1" or len(data) != FORM.size + CODE_BYTES:
        raise AssertionError(f"no token of the form that is known here: {text}")
    return Token(*FORM.unpack(data[: FORM.size]))


def signing_key(database):
    return bytes.fromhex(database.value("SELECT encode(signing_key, 'hex') FROM sheaf.settings"))


def lsn_of(text):
    """`16/B374D848` as a number."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
