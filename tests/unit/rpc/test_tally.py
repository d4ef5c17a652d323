from cascade_serve.rpc.stubs import grpc_service_pb2 as pb2
from cascade_serve.rpc.tally import read_tally, tally_key, write_tally


def statistics() -> pb2.ModelStatistics:
    message = pb2.ModelStatistics(
        name="a.b:c", version="3", last_inference=2**53 + 1, inference_count=7, execution_count=5
    )
    for number, name in enumerate(("success", "fail", "queue", "compute_infer"), start=1):
        duration = getattr(message.inference_stats, name)
        duration.count, duration.ns = number, 10 * number
    for size in (1, 16, 2):
        batch = message.batch_stats.add(batch_size=size).compute_infer
        batch.count, batch.ns = size, 100 * size
    return message


def test_a_message_comes_back_with_its_batches_in_order() -> None:
    message = statistics()
    restored = read_tally(message.name, message.version, write_tally(message))
    assert [batch.batch_size for batch in restored.batch_stats] == [1, 2, 16]
    message.batch_stats.sort(key=lambda batch: batch.batch_size)
    assert restored == message


def test_every_field_is_there_by_its_name() -> None:
    tally = write_tally(statistics())
    assert (tally["inference_count"], tally["fail.count"], tally["fail.ns"], tally["batch.16.ns"]) == (7, 2, 20, 1600)
    assert set(write_tally(pb2.ModelStatistics())) == {name for name in tally if not name.startswith("batch.")}


def test_keys_tell_versions_apart() -> None:
    assert tally_key(statistics()) == "a.b:c:3"
