"""All peers by name, and the choice among them."""

from benchmarks.peers.mlserver import MlServer
from benchmarks.peers.ours import Ours, OursInProcesses
from benchmarks.peers.peer import Compute, Peer
from benchmarks.peers.plain import Echo, Plain
from benchmarks.peers.ray_serve import RayServe, RayServeDefaults
from benchmarks.peers.running import Variant
from benchmarks.peers.triton import triton_client, triton_inline, triton_script

_ALL: tuple[Peer, ...] = (
    Ours(),
    OursInProcesses(),
    Plain(),
    triton_client(),
    triton_script(),
    triton_inline(),
    MlServer(),
    RayServe(),
    RayServeDefaults(),
    Echo(),
)
PEERS = {peer.name: peer for peer in _ALL}


def choose(only: str | None, computes: str | None) -> list[Variant]:
    """Give the variants to run.

    Args:
        only: names of peers, separated by commas; None is all.
        computes: engines and precisions such as ``onnxruntime-int8``, separated by commas; None is all.

    Raises:
        ValueError: a name is unknown, or nothing is left.
    """
    names = list(PEERS) if only is None else only.split(",")
    for name in names:
        if name not in PEERS:
            raise ValueError(f"only: got {name!r}; must be some of {', '.join(PEERS)}")
    variants = [
        Variant(peer=PEERS[name], compute=compute)
        for name in names
        for compute in PEERS[name].computes
        if computes is None or str(compute) in computes.split(",")
    ]
    if not variants:
        known = sorted({str(compute) for name in names for compute in PEERS[name].computes})
        raise ValueError(f"computes: got {computes!r}; must be some of {', '.join(known)}")
    return variants


def all_computes(variants: list[Variant]) -> list[Compute]:
    """Give the engines and precisions of some variants."""
    return list(dict.fromkeys(variant.compute for variant in variants))
