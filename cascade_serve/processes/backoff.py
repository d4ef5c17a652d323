"""How long to wait before a process that ended is started anew."""

SHORTEST_S = 0.25
LONGEST_S = 30.0
STEADY_S = 60.0
"""A process that has answered for so long begins with the shortest wait again."""


class Backoff:
    """Doubles the wait with every end that comes soon after the last."""

    def __init__(self) -> None:
        self._wait_s = SHORTEST_S

    def next_s(self, answered_s: float) -> float:
        """Give the seconds to wait.

        Args:
            answered_s: seconds that the process had answered for; 0 if it never came up.
        """
        if answered_s >= STEADY_S:
            self._wait_s = SHORTEST_S
        wait_s = self._wait_s
        self._wait_s = min(LONGEST_S, 2 * wait_s)
        return wait_s
