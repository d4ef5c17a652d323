from cascade_serve.processes.backoff import LONGEST_S, SHORTEST_S, STEADY_S, Backoff


def test_the_wait_doubles_up_to_the_longest() -> None:
    backoff = Backoff()
    waits = [backoff.next_s(0.0) for _ in range(5000)]
    assert waits[:4] == [SHORTEST_S, 2 * SHORTEST_S, 4 * SHORTEST_S, 8 * SHORTEST_S]
    assert waits[-1] == LONGEST_S == max(waits)


def test_a_process_that_answered_for_long_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.next_s(STEADY_S - 1)
    assert backoff.next_s(STEADY_S) == SHORTEST_S
    assert backoff.next_s(0.0) == 2 * SHORTEST_S
