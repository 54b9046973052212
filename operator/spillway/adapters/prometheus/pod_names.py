"""Whose pod it was, told by its name: history has no owner references, and its pods are gone."""

import re
from dataclasses import dataclass

from spillway.core.twin import twin_name

# rand.SafeEncodeString maps the ten digits of the template's hash onto these characters.
_HASH_CHARACTER = "[4-9bcdf]"
# A hash below 10,000 has fewer characters: once in 430,000 templates. Fewer would take `chat-4-x2x4z`, a Job's pod, for one.
_HASH_LENGTHS = "{5,10}"
_LONGEST_HASH = 10
_ID = "[b-df-hj-np-tv-xz2456789]{5}"
_BASE_LENGTH = 58  # the API server cuts what stands before the id, so that a name has 63 characters at most


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPods:
    """The pods of a Deployment `NAME-HASH-ID`, and those of its burst twin `NAME-burst-HASH-ID`.

    A Deployment called `NAME-2` has pods `NAME-2-HASH-ID`, which no hash of `NAME` reads like. Of names that are longer than 46
    characters the end of the hash may be cut off; two Deployments that begin alike for 58 characters cannot be told apart.
    """

    namespace: str
    deployment: str

    @property
    def deployments(self) -> tuple[str, str]:
        """The Deployment and its twin."""
        return self.deployment, twin_name(self.deployment)

    def pattern(self) -> str:
        """Return what the whole name of such a pod matches, in the words that Python and PromQL share."""
        return "|".join(_pattern(name) for name in self.deployments)

    def burst_pattern(self) -> str:
        """Return the same for the twin's pods alone."""
        return _pattern(self.deployments[1])

    def deployment_pattern(self) -> str:
        """Return what the names of the two Deployments match."""
        return "|".join(_literal(name) for name in self.deployments)


def _pattern(deployment: str) -> str:
    base = f"{deployment}-"
    if len(base) + _LONGEST_HASH + 1 <= _BASE_LENGTH:
        return f"{_literal(base)}{_HASH_CHARACTER}{_HASH_LENGTHS}-{_ID}"
    return f"{_literal(base[:_BASE_LENGTH])}{_HASH_CHARACTER}*-?{_ID}"


def _literal(name: str) -> str:
    """Escape what a name may hold: letters, digits and `-` stand for themselves in both."""
    return re.sub(r"[^A-Za-z0-9-]", lambda found: f"\\{found[0]}", name)
