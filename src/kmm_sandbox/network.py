"""The network of the sandbox: one bridge, and a tap for each node, in a namespace of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from kmm_sandbox.processes import run

HOST_ADDRESS = "10.77.0.1"
"""Where API server, registry and control plane are, for the nodes."""
REGISTRY_PORT = 5000
PREFIX = 24
BRIDGE = "br0"
FIRST_NODE = 11
MAX_NODES = 200
"""All of them have addresses of the network, and numbers of one byte."""
DISABLED, FORWARDING = "0", "3"
"""States of a port of the bridge."""
NOBODY = "02:00:00:00:ff:ff"
"""A link address that no machine here has: what is sent to it is lost without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """A node's place in the network, by its number from 1."""

    number: int

    @property
    def ip(self) -> str:
        return f"10.77.0.{FIRST_NODE + self.number - 1}"

    @property
    def tap(self) -> str:
        return f"tap{self.number}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"


def commands(nodes: Sequence[NodeAddress]) -> str:
    """Return the batch for `ip` that makes the network; taps outlive their nodes' power cycles."""
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0",
        f"addr add {HOST_ADDRESS}/{PREFIX} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    for node in nodes:
        lines += [
            f"tuntap add dev {node.tap} mode tap",
            f"link set {node.tap} master {BRIDGE} up",
        ]
    return "\n".join(lines) + "\n"


def make(nodes: Sequence[NodeAddress]) -> None:
    """Make the network in the namespace of this process."""
    run(["ip", "-batch", "-"], limit=30, stdin=commands(nodes))


def unplug(node: NodeAddress) -> None:
    """Pull a node's network cable, at the switch: nothing comes through, either way.

    A tap that is set down instead is an error to User-Mode Linux, which gives its network up for
    good when it sends something meanwhile.
    """
    run(["bridge", "link", "set", "dev", node.tap, "state", DISABLED], limit=10)


def plug(node: NodeAddress) -> None:
    """Put a node's network cable back."""
    run(["bridge", "link", "set", "dev", node.tap, "state", FORWARDING], limit=10)


def deafen(node: NodeAddress) -> None:
    """Lose what is sent to a node; what it sends still arrives."""
    lose = ["ip", "neigh", "replace", node.ip, "lladdr", NOBODY, "dev", BRIDGE]
    run([*lose, "nud", "permanent"], limit=10)


def undeafen(node: NodeAddress) -> None:
    """Let what is sent to a node arrive again."""
    run(["ip", "neigh", "del", node.ip, "dev", BRIDGE], limit=10)
