"""Instants as the interface writes them, and as whole microseconds since 1970, with which tests reckon."""

import datetime

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
SECOND = 1_000_000
DAY = 24 * 3600 * SECOND


def text_of(micros):
    """`2013-01-01T06:00:00Z`, with a fraction only where there is one."""
    instant = EPOCH + datetime.timedelta(microseconds=micros)
    fraction = f".{instant.microsecond:06}".rstrip("0") if instant.microsecond else ""
    return instant.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


def micros_of(text):
    instant = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (instant - EPOCH) // datetime.timedelta(microseconds=1)
