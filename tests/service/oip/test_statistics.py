"""The counts of a model version."""

from __future__ import annotations

from emamba_service.statistics import ModelStatistics


def test_times_add_up_in_nanoseconds() -> None:
    now_s = 1_700_000_000.0
    statistics = ModelStatistics(lambda: now_s)
    for frames in (1, 4):
        now_s += 0.25
        statistics.record_success(
            frames, queue_s=0.001, preprocess_s=0.002, infer_s=0.004, postprocess_s=0.008
        )
    statistics.record_failure(0.5)
    document = statistics.document()
    assert document["inference_count"] == 5
    assert document["last_inference"] == 1_700_000_000_500
    assert document["execution_count"] == 0
    assert document["inference_stats"] == {
        "success": {"count": 2, "ns": 30_000_000},
        "fail": {"count": 1, "ns": 500_000_000},
        "queue": {"count": 2, "ns": 2_000_000},
        "compute_input": {"count": 2, "ns": 4_000_000},
        "compute_infer": {"count": 2, "ns": 8_000_000},
        "compute_output": {"count": 2, "ns": 16_000_000},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }


def test_batches_are_told_by_size() -> None:
    statistics = ModelStatistics()
    for frames in (2, 1, 2):
        statistics.record_batch(frames, input_s=0.001, infer_s=0.002, output_s=0.003)
    document = statistics.document()
    assert document["execution_count"] == 3
    assert document["batch_stats"] == [
        {
            "batch_size": size,
            "compute_input": {"count": count, "ns": count * 1_000_000},
            "compute_infer": {"count": count, "ns": count * 2_000_000},
            "compute_output": {"count": count, "ns": count * 3_000_000},
        }
        for size, count in ((1, 1), (2, 2))
    ]


def test_sizes_are_bounded() -> None:
    statistics = ModelStatistics()
    for frames in range(1, 3000):
        statistics.record_batch(frames, input_s=0, infer_s=0, output_s=0)
    batches = statistics.document()["batch_stats"]
    assert [batch["batch_size"] for batch in batches] == list(range(1, 1025))
    assert batches[-1]["compute_infer"]["count"] == 3000 - 1024
