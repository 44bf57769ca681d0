"""The benchmark of the KV manager, on few blocks."""

from bench.kv import measure


def test_every_operation_is_measured(capsys):
    rows = measure(8, rounds=2, sample_s=1e-4)
    assert len(rows) == 8 and all(row["unit_s"] > 0 for row in rows)
    assert capsys.readouterr().out.count(" ns ") == len(rows)
