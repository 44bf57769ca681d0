"""The benchmark of the offload engine, on arenas small enough for a test."""

from bench.offload.__main__ import measure


def test_every_contender_is_measured_against_its_memcpy(capsys):
    rows = measure(4096, arena_bytes=1 << 18, rounds=2, sample_s=1e-4)
    assert {row["name"] for row in rows} >= {"memcpy to host", "offload", "upload", "both ways", "offload, verified"}
    assert all(row["bytes_per_s"] > 0 and row["ratio_to_memcpy"] > 0 for row in rows)
    assert capsys.readouterr().out.count("x memcpy") == len(rows)
