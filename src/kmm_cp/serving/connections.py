"""What grpclib does not tell in public about the connection of a stream."""

from typing import Any

from grpclib.server import Stream


def connection_of(stream: Stream[Any, Any]) -> object:
    """Return what is the same for all streams of one connection."""
    return stream._stream.connection


def abandon(stream: Stream[Any, Any]) -> None:
    """Close a stream's connection without another word, which would not be taken either."""
    stream._stream.connection.close()
