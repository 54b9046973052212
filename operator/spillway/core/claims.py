"""Which pool a node belongs to."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from spillway.core.model import Node, NodePool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Which pool each node belongs to (absent: none), and how many nodes two pools both select."""

    pools: tuple[NodePool, ...]
    pool_of: Mapping[str, NodePool]
    rivals: Mapping[str, Mapping[str, int]]


def claim_nodes(nodes: Iterable[Node], pools: tuple[NodePool, ...]) -> Claims:
    """Give each node to the one pool whose labels it has; to none when several ask for it. Linear in nodes."""
    index = _by_first_label(pools)
    pool_of: dict[str, NodePool] = {}
    rivals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for node in nodes:
        found = [pool for pool in _candidates(node, index) if pool.selector.items() <= node.labels.items()]
        if len(found) == 1:
            pool_of[node.name] = found[0]
        for pool in found:
            for other in found:
                if other is not pool:
                    rivals[pool.name][other.name] += 1
    return Claims(pools=pools, pool_of=pool_of, rivals=rivals)


_Index = Mapping[str, Mapping[str, list[NodePool]]]


def _by_first_label(pools: Iterable[NodePool]) -> _Index:
    """Sort pools by one label that they ask for, so that a node is compared with few of them."""
    index: dict[str, dict[str, list[NodePool]]] = defaultdict(lambda: defaultdict(list))
    for pool in pools:
        key, value = min(pool.selector.items())
        index[key][value].append(pool)
    return index


def _candidates(node: Node, index: _Index) -> Iterator[NodePool]:
    for key, by_value in index.items():
        value = node.labels.get(key)
        if value is not None:
            yield from by_value.get(value, ())
